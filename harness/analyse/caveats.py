"""What a reader must keep in mind, generated from the data and the design."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import RuleComparison
from harness.analyse.results import Records
from harness.analyse.timing_caveats import timing_caveats
from harness.plan.design import Design
from harness.plan.loss_choice import couples_examples
from harness.statistics import words

LARGE_SHARE = 0.05  # a TBS above this share of the training set sees few batches an epoch
ONE_PROTOCOL = "one protocol only: {} can order the rules differently"  # P13
AVERAGING_SHARE = 1 / 8  # the longest half-life that leaves the fastest arm's crossing alone (P13)


def caveats(
    design: Design,
    rows: Sequence[ArmFinding],
    comparisons: Sequence[RuleComparison],
    records: Records,
    aims: bool,
    untested: Sequence[str] = (),
) -> list[str]:
    """One sentence each, most important first; `aims`: whether the trials aimed at a target; `untested`: what no other
    study has checked."""
    workload = design.workload
    lines: list[str] = [*_from_rereading(design, records), *untested]
    if len(rows) > 1 and comparisons:
        is_constant = str(workload.schedule["_target_"]).endswith(".Constant")
        lines.append(ONE_PROTOCOL.format("an annealed schedule" if is_constant else "a constant LR"))
    if couples_examples(workload.loss):
        lines.append(
            f"an example's loss depends on the {workload.placement.max_per_device} examples of its micro-batch: with "
            "another micro-batch, epochs, LRs and the order of the LR rules may differ"
        )
    if len(design.seeds) == 1:
        lines.append("one seed: nothing is known of the spread between seeds")
    elif 1 < len(design.seeds) < 6:
        limits = "intervals assume a log-normal spread pooled over arms, or are plain ranges"
        lines.append(
            f"{len(design.seeds)} seeds: {limits if aims else 'the spread between them is known only roughly'}"
        )
    large = [row.total_batch_size for row in rows if row.total_batch_size > LARGE_SHARE * workload.train_examples]
    if large:
        share = max(large) / workload.train_examples
        lines.append(
            f"TBS {min(large)} and above exceed 5 % of the training set ({max(large)} is {words.percent(share)}): "
            "so few batches per epoch say little about larger data"
        )
    if aims:
        every = workload.evaluate_every_examples / workload.train_examples
        lines.append(f"crossings are known to one evaluation interval, {words.count(every, 'epoch')}")
        lines += _from_misses(design, rows)
    lines += _from_failures(rows)
    if any("-a1-" not in row.topology for row in rows if row.topology):
        lines.append(
            "seconds of runs with gradient accumulation are those of this topology, not of that many real devices"
        )
    described = records.folder.description()
    if described.get("mixed_code"):
        lines.append("this study mixes records of different code or data (allow_mixed_code)")
    if failed := (described.get("doctor") or {}).get("failed"):
        lines.append(f"doctor found faults in this workload that affect every number here: {', '.join(failed)}")
    lines += timing_caveats(rows, records.hardware())
    if replicas := records.replicas():
        lines.append(
            f"{words.count(replicas, 'replica')} on another topology: kept in the study, excluded from these numbers"
        )
    return lines


def _from_rereading(design: Design, records: Records) -> list[str]:
    """What holds when a finished study is asked for another target or budget than it was run for."""
    own, asked, beside = design.workload.target, records.target, design.workload.read_beside
    lines = [_unmeasured(target.metric, records) for target in (asked, beside) if target is not None]
    lines = [line for line in lines if line is not None]
    if asked is not None and asked != own:
        lines.append(f"read for {asked} without new trials: the trials were run for {own} and stopped there")
        easier = asked.value <= own.value if own.mode == "max" else asked.value >= own.value
        if asked.metric != own.metric or not easier:
            lines.append(
                "trials that stopped before this target was confirmed count as misses at the place they stopped"
            )
    if records.budget_examples is not None:
        epochs = records.budget_examples / design.workload.train_examples
        lines.append(f"read as if the budget had been {words.count(epochs, 'epoch')}")
    return lines


def _unmeasured(metric: str, records: Records) -> str | None:
    """Of trials that ran before the metric was listed."""
    missing = records.unmeasured(metric)
    trials = words.count(missing, "trial")
    return f"{metric} is {words.NOT_MEASURED} for {trials}, excluded from its numbers" if missing else None


def _from_failures(rows: Sequence[ArmFinding]) -> list[str]:
    lines = []
    diverged = [f"{row.label} TBS {row.total_batch_size}" for row in rows if row.outcomes.diverged]
    if diverged:
        lines.append(f"diverged: {', '.join(diverged)}")
    failed = sum(row.outcomes.failed for row in rows)
    if failed:
        lines.append(
            f"{words.count(failed, 'trial')} failed and are excluded: run the same command again to repeat them"
        )
    return lines


def _from_misses(design: Design, rows: Sequence[ArmFinding]) -> list[str]:
    lines = []
    missed = sum(row.outcomes.missed for row in rows)
    if missed:
        lines.append(
            f"{words.count(missed, 'trial')} ended the budget without reaching the target and "
            f"{'counts' if missed == 1 else 'count'} as later than the budget"
        )
    fastest = min((row.place.examples for row in rows if row.n), default=math.inf)
    half_life = design.workload.averaging.half_life_examples
    if design.workload.averaging.decide_on == "averaged" and half_life > AVERAGING_SHARE * fastest:
        lines.append(
            f"the average's half-life of {words.count(half_life, 'example')} is more than 1/8 of the fastest arm's "
            f"{fastest:g}: it delays that arm's crossing"
        )
    return lines
