"""harness +experiment=step_time: seconds of an update over micro-batch x workers x accumulation, alone on the machine.

Timed like the timing pass of a study, in rounds that alternate, and kept in the study's timing.jsonl as they come: run
the same command again to resume. With them goes what a run spends besides: an evaluation pass, a checkpoint, start-up,
and an all-reduce alone by payload.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from rich.console import Console

from harness.analyse.findings import Findings
from harness.analyse.sections import Plot, Section, Series, Table
from harness.commands.checks import check_gpus
from harness.launch.capacity import fit
from harness.launch.measures import Gangs, Row
from harness.launch.ray_probe import NodeResources
from harness.launch.tasks import Cluster, task_of
from harness.launch.timing_pass import TimingPass
from harness.plan.batch import BatchPlan, Placement
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import fingerprint
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.record.code_fingerprint import Fingerprint
from harness.record.files import append_lines
from harness.record.provenance import usable_cpus
from harness.record.study import StudyFolder
from harness.statistics import words
from harness.statistics.step_model import StepModel, StepRow, fit_step_model
from harness.statistics.step_time import relative_sds

PROTOCOL = "updates of the workload's own training loop, alone on the machine, in three alternating rounds"


class StepTime:
    """A Measurement of seconds per update; it plans no trials."""

    def __init__(
        self,
        design: Design,
        micro_batches: Sequence[int],
        workers: Sequence[int] = (1,),
        accumulation: Sequence[int] = (1,),
    ) -> None:
        for name, values in (("micro_batches", micro_batches), ("workers", workers), ("accumulation", accumulation)):
            if not values or min(values) < 1:
                raise UserError(f"question.{name} must be numbers >= 1, at least one, not {list(values)}")
        group = design.workload.batch_norm.group_examples
        if odd := [micro for micro in micro_batches if micro % group]:
            raise UserError(
                f"question.micro_batches must be multiples of the batch-norm span of {group} examples, not {odd}"
            )
        self.design = design
        self.splits = sorted(product(sorted(workers), sorted(micro_batches), sorted(accumulation)))
        largest = design.workload.train_examples
        self.kept = [(w, m, s) for w, m, s in self.splits if w * m * s <= largest]

    def announce(self, console: Console, cluster: Cluster) -> None:
        """What will be timed. UserError where the machine has too few CPUs or GPUs, or no batch fits the data."""
        if not self.kept:
            least = min(w * m * s for w, m, s in self.splits)
            raise UserError(
                f"every update would take {least} examples or more, but the training set has "
                f"{self.design.workload.train_examples}: use smaller question.micro_batches"
            )
        most = max(workers for workers, _, _ in self.kept)
        check_gpus(cluster, most)
        fit(cluster, {most}, [NodeResources(float(cluster.cpus or usable_cpus()), cluster.gpus_per_worker * most)])
        _say(console, f"step_time: {words.count(len(self.kept), 'split')} of {self.design.workload.name}, each timed "
                      f"{cluster.timing_min_s:g} s or {cluster.timing_min_steps} updates at least")  # fmt: skip
        if left_out := len(self.splits) - len(self.kept):
            _say(console, f"{words.count(left_out, 'split')} left out: an update would exceed the training set")

    def measure(self, gangs: Gangs, study: Path) -> Iterator[Row]:
        """A row of timing.jsonl for each split that is not timed yet."""
        planned = [self._planned(*split, gangs.cluster) for split in self.kept]
        by_topology = {trial.topology.key: trial for trial in planned}
        done = {row["key"] for row in StudyFolder(study).timings()}
        found = TimingPass(planned, done, print, lambda: False).measure(gangs, study)
        parts: dict[int, Mapping[str, object]] = {}
        for row in found:
            trial = by_topology[row["topology"]]
            workers = trial.topology.batch.world_size
            if workers not in parts:  # they do not depend on the micro-batch
                task = task_of(trial, study, gangs.cluster.execution)
                parts[workers] = gangs.of(workers).measure_parts(task)
            whole = {**row, **parts[workers]}
            append_lines(study / "timing.jsonl", [whole])
            yield whole

    def report(self, console: Console, rows: Sequence[Row], study: Path, cluster: Cluster, code: Fingerprint) -> int:
        """The table of all that the study has timed, as page, Markdown, CSV and JSON."""
        timed = StudyFolder(study).timings()
        if not timed:
            return ExitCode.FAILED
        from harness.report.write import write_reports  # with it comes matplotlib, which planning does not wait for

        whole = write_reports(console, study, step_time_findings(self.design.workload.name, timed))
        complete = {row["topology"] for row in timed} >= {self._planned(*s, cluster).topology.key for s in self.kept}
        return ExitCode.DONE if whole and complete else ExitCode.FAILED

    def _planned(self, workers: int, micro: int, accumulation: int, cluster: Cluster) -> PlannedTrial:
        """A trial that is never run: what one update of this split is."""
        size = workers * micro * accumulation
        workload = replace(
            self.design.workload,
            evaluate_every_examples=size,
            noise_scale=NoiseScale(),
            placement=Placement(workers, micro),
        )
        arm = workload.arm_at_lr(workload.base_lr, size, label="step time")
        topology = Topology(BatchPlan(size, micro, workers, accumulation), cluster.device, cluster.precision)
        return PlannedTrial(Trial(arm, self.design.seeds[0]), topology)


def step_time_findings(workload: str, rows: Sequence[Row]) -> Findings:
    """What was timed, and the law through it; for every renderer."""
    newest = {row["topology"]: row for row in rows}
    timed = [*newest.values()]
    batches = [Topology.from_key(row["topology"]).batch for row in timed]
    sds = relative_sds([row.get("rounds_s", ()) for row in timed])
    steps = [
        StepRow(b.world_size, b.per_device_batch_size, b.gradient_accumulation_steps, row["median_s"], sd or 0.0)
        for b, row, sd in zip(batches, timed, sds, strict=True)
    ]
    model = fit_step_model(steps)
    section = Section("Seconds of an update", _sentences(timed, model), [_plot(steps)], _tables(timed, steps))
    return Findings(
        question=f"How many seconds does an update of {workload} take, and what is it made of?",
        protocol=PROTOCOL,
        target="none",
        read_beside=None,
        verdict=[section.sentences[0]],
        not_established=[],
        aims_at_target=False,
        arms=[],
        comparisons=[],
        fits=[],
        sections=[section],
        curves=[],
        fixed_budgets=[],
        by_target=[],
        reach=[],
        caveats=[],
        metric="seconds",
        target_value=0.0,
        outcomes={},
        planned=0,
        settings=[],
        data=fingerprint([dict(row) for row in timed], 16),
        trials=0,
        provenance={"experiment": "step_time", "name": workload},
    )


def _sentences(rows: Sequence[Row], model: StepModel) -> list[str]:
    fastest = max(model.rows, key=lambda row: row.devices * row.micro_batch * row.accumulation / row.seconds)
    rate = fastest.devices * fastest.micro_batch * fastest.accumulation / fastest.seconds
    pinned = f" Not determined by these timings: {', '.join(model.pinned)}." if model.pinned else ""
    busy = max(float(row.get("other_cpus", 0.0)) for row in rows)
    device = rows[0].get("device") or "an unnamed device"
    return [
        f"Most examples a second: {words.number(rate)}, with {words.count(fastest.devices, 'worker')} at micro-batch "
        f"{fastest.micro_batch:g} x {fastest.accumulation:g} accumulation, {words.number(fastest.seconds)} s each.",
        f"Timed on {device}; other processes kept up to {busy:.1f} CPUs busy.",
        f"T = s (a + b m) + communication, fitted to {words.count(len(rows), 'timing')}.{pinned}",
    ]


def _plot(steps: Sequence[StepRow]) -> Plot:
    series = []
    for workers, accumulation in sorted({(row.devices, row.accumulation) for row in steps}):
        mine = sorted(
            (row for row in steps if (row.devices, row.accumulation) == (workers, accumulation)),
            key=lambda row: row.micro_batch,
        )
        label = f"{words.count(workers, 'worker')}, {accumulation:g} accumulated"
        series.append(Series(label, [row.micro_batch for row in mine], [row.seconds for row in mine], kind="line"))
    said = "; ".join(
        f"{row.devices:g} x {row.micro_batch:g} x {row.accumulation:g}: {row.seconds:.3g} s" for row in steps
    )
    alt = f"Seconds of an update (workers x micro-batch x accumulation): {said}."
    return Plot(
        "step_seconds", "Seconds of an update", alt, "micro-batch (examples)", "seconds of an update", series, [], 2, 2
    )


def _tables(rows: Sequence[Row], steps: Sequence[StepRow]) -> list[Table]:
    columns = [
        "workers", "micro_batch", "accumulation", "step_s", "step_sd", "fastest_s", "slowest_s", "updates",
        "loader_fraction", "other_cpus",
    ]  # fmt: skip
    table = [
        [
            step.devices, step.micro_batch, step.accumulation, step.seconds, step.relative_sd, row.get("fastest_s"),
            row.get("slowest_s"), row.get("steps"), row.get("loader_fraction"), row.get("other_cpus"),
        ]
        for row, step in zip(rows, steps, strict=True)
    ]  # fmt: skip
    names = ["start_up_s", "evaluation_s", "optimizer_s", "checkpoint_s", "gradient_bytes", "peak_memory_bytes"]
    by_workers = {step.devices: row for row, step in zip(rows, steps, strict=True)}
    parts = [[workers, *(row.get(name) for name in names)] for workers, row in by_workers.items()]
    reduced = [
        [workers, size, seconds] for workers, row in by_workers.items() for size, seconds in row.get("all_reduce", [])
    ]
    return [
        Table("step_seconds", columns, table),
        Table("step_parts", ["workers", *names], parts),
        *([Table("all_reduce", ["workers", "payload_bytes", "seconds"], reduced)] if reduced else []),
    ]


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
