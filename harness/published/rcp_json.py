"""MLPerf's reference convergence points: rcps_<benchmark>.json as mlcommons/logging publishes them, per ruleset."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.plan.batch_factors import is_number
from harness.plan.errors import UserError
from harness.published.curves import (
    Meaning,
    PublishedArm,
    PublishedCurve,
    curve,
    observation,
    parse_unit,
)
from harness.published.replicates import LEAST_DISTINCT
from harness.statistics.estimates import Observation

# The files say "Epochs to converge" even where they mean samples or tokens; training_rules.adoc says which.
UNIT_OF = {
    **dict.fromkeys(("resnet", "ssd", "maskrcnn", "retinanet", "rnnt", "cosmoflow", "deepcam", "oc20"), "epochs"),
    **dict.fromkeys(("dlrm", "dlrm_dcnv2", "gnn", "rgat"), "epochs"),  # fractions of an epoch
    **dict.fromkeys(("bert", "llama2_70b_lora", "llama31_8b", "llama31_405b", "flux1"), "examples"),
    **dict.fromkeys(("stable_diffusion", "deepseekv3_671b", "gpt_oss_20b"), "examples"),
    "gpt3": "tokens",
}
MOST_EPOCHS, LEAST_EXAMPLES = 1_000, 20_000  # values between them may be either, so the unit must be given
# Runs of a submission (training_rules.adoc); the references are at least twice as many.
SUBMISSION_RUNS = {"unet3d": 40, "gpt3": 3, "llama31_405b": 3, "deepseekv3_671b": 3} | dict.fromkeys(
    ("resnet", "ssd", "retinanet", "maskrcnn", "oc20", "cosmoflow", "deepcam"), 5
)
USUAL_SUBMISSION_RUNS = 10
DROPPED = {"unet3d": 4}  # runs dropped at each end, where it is not 1


def is_rcp(content: Any) -> bool:
    """Whether a JSON document looks like a file of reference points."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(record, Mapping) and "BS" in record for record in content.values())
    )


def read_rcp(content: Mapping[str, Any], source: str, unit: str | None, label: str | None) -> list[PublishedCurve]:
    """A curve for every benchmark of the file, without records that repeat another. UserError for records without
    numbers, and for a list of runs that is there twice."""
    benchmarks: dict[str, list[Mapping[str, Any]]] = {}
    for record in content.values():
        records = benchmarks.setdefault(str(record.get("Benchmark", "benchmark")), [])
        if record not in records:
            records.append(record)
    curves = []
    for benchmark, records in benchmarks.items():
        runs = [_runs(record, source) for record in records]
        arms = [_arm(record, observations) for record, (_, observations) in zip(records, runs, strict=True)]
        curves += curve(
            label or f"MLPerf {benchmark}",
            source,
            parse_unit(unit) if unit else _unit(benchmark, runs, source),
            Meaning.TO_TARGET,
            arms,
            target="quality target of the benchmark's ruleset",
            submission_runs=SUBMISSION_RUNS.get(benchmark, USUAL_SUBMISSION_RUNS),
            dropped=DROPPED.get(benchmark, 1),
        )
    return curves


def _runs(record: Mapping[str, Any], source: str) -> tuple[str, tuple[Observation, ...]]:
    """The name of the record's list, and the runs in it; a run without a number did not converge."""
    name = next((key for key in record if key.lower().endswith("to converge")), None)
    values = record[name] if name else None
    if name is None or not isinstance(values, list) or not values:
        raise UserError(f"{source}: the record with BS {record.get('BS')} has no list '... to converge'")
    if wrong := [value for value in values if is_number(value) and value <= 0]:
        raise UserError(
            f"{source}: the record with BS {record.get('BS')} has {wrong[0]:g} in {name!r}: costs must be > 0, or null "
            "if a run did not converge"
        )
    half = len(values) // 2
    if len({str(value) for value in values}) >= LEAST_DISTINCT and values == 2 * values[:half]:
        raise UserError(
            f"{source}: the record with BS {record.get('BS')} lists the same {half} runs twice: keep one half"
        )
    return name, tuple(observation(float(v) if is_number(v) else math.inf) for v in values)


def _arm(record: Mapping[str, Any], runs: tuple[Observation, ...]) -> PublishedArm:
    try:
        size = int(record["BS"])
    except (TypeError, ValueError) as error:
        raise UserError(f"BS must be a number, not {record['BS']!r}") from error
    lr = (record.get("Hyperparams") or {}).get("opt_base_learning_rate")
    peak = float(lr) if isinstance(lr, int | float) else None
    return PublishedArm(size, runs, len(runs), lr=peak, note=str(record.get("Creator", "")))


def _unit(benchmark: str, runs: list[tuple[str, tuple[Observation, ...]]], source: str) -> str:
    words = {name.lower().removesuffix("to converge").strip() for name, _ in runs}
    if words != {"epochs"} and len(words) == 1:
        return parse_unit(words.pop())
    if benchmark in UNIT_OF:
        return UNIT_OF[benchmark]
    reached = [run.value for _, observations in runs for run in observations if run.reached]
    middle = statistics.median(reached) if reached else math.nan
    if middle <= MOST_EPOCHS:
        return "epochs"
    if middle >= LEAST_EXAMPLES:
        return "examples"
    raise UserError(f"{source} does not give the unit of {benchmark}: give --unit epochs, examples or tokens")


def is_collection(content: Any) -> bool:
    """Whether a JSON document lists several benchmarks, each with its unit and `points`."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(part, Mapping) and "points" in part for part in content.values())
    )


def read_collection(content: Mapping[str, Any], source: str, label: str | None) -> list[PublishedCurve]:
    """A curve for every benchmark of {name: {unit, target, ruleset, points: [{global_batch_size, to_converge}]}}."""
    curves = []
    for benchmark, part in content.items():
        unit = str(part.get("unit", "epochs"))
        records = {
            str(number): {
                "Benchmark": benchmark,
                "BS": point.get("global_batch_size"),
                f"{unit} to converge": point.get("to_converge"),
                "Hyperparams": point.get("hyperparameters"),
                "Creator": point.get("creator", ""),
            }
            for number, point in enumerate(part["points"])
        }
        of_benchmark = read_rcp(records, f"{source}, {part.get('ruleset', '')}".strip(", "), unit, label)
        target = str(part.get("target", ""))
        curves += [replace(curve, target=target) if target else curve for curve in of_benchmark]
    return curves
