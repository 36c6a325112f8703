"""How long the timing pass measures, what seconds per update depend on, and their names in timing.jsonl (P34)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.plan.execution import Speed
from harness.plan.settings import PATHS, Settings, Spec, fingerprint
from harness.plan.trial import Arm, PlannedTrial, Topology

ROUNDS = 3  # of every topology; where compile is off, they alternate with those of the other topologies
LEAST_STEPS = 5  # updates of a topology, however slow they are

# Numbers of an optimizer that change with the TBS or the rule (P12), but not the work of an update.
VARYING = ("lr", "momentum", "betas", "eps", "weight_decay")

LIBRARIES = ("cuda", "cudnn", "nccl")  # fields of a Machine that are empty on a CPU


@dataclass(frozen=True)
class RoundLimits:
    """One round of one topology: at least `min_steps` updates and `min_s` seconds, unless `max_s` comes first."""

    min_steps: int
    min_s: float
    max_s: float
    least_steps: int = math.ceil(LEAST_STEPS / ROUNDS)

    @staticmethod
    def of_pass(min_steps: int, min_s: float, max_s: float) -> "RoundLimits":
        """A round's part of what the whole pass spends on a topology."""
        return RoundLimits(math.ceil(min_steps / ROUNDS), min_s / ROUNDS, max_s / ROUNDS)

    def wanted_steps(self, step_s: float) -> int:
        """Updates of a round where one takes `step_s`."""
        enough = max(self.min_steps, math.ceil(self.min_s / step_s))
        return min(enough, self.most_steps(step_s))

    def most_steps(self, step_s: float) -> int:
        """Updates that fit into `max_s`, but never fewer than `least_steps`."""
        return max(self.least_steps, int(self.max_s / step_s))


@dataclass(frozen=True)
class Machine:
    """What a gang computes on."""

    device: str  # model of the GPU or processor; several are joined by " + "
    driver: str  # of the GPU; empty on a CPU
    torch: str  # version, with the CUDA version it was built for
    cpus: int  # that a rank may use on its node
    host: str
    cuda: str = ""  # versions of the libraries of a GPU; empty on a CPU and in rows of earlier versions of harness
    cudnn: str = ""
    nccl: str = ""


def hardware(device: str, driver: str) -> str:
    """`NVIDIA H100, driver 550.54`: what seconds are never compared across."""
    return f"{device}, driver {driver}" if driver else device


def library_text(versions: Mapping[str, Any]) -> list[str]:
    """`CUDA 12.8`, `cuDNN 9.10.2`, `NCCL 2.27.3`, as far as they are known."""
    spelled = {"cuda": "CUDA", "cudnn": "cuDNN", "nccl": "NCCL"}
    return [f"{spelled[name]} {versions[name]}" for name in LIBRARIES if versions.get(name)]


def hardware_line(recorded: Mapping[str, Any]) -> str:
    """What study.json records of its machine, for a reader: GPUs first."""
    known = {key: value for key, value in recorded.items() if value}
    if "gpu" not in known:
        return ", ".join(map(str, known.values()))
    gpus = [hardware(str(known["gpu"]), str(known.get("driver", ""))), *library_text(known)]
    processor = f"{known.get('cpu', 'unknown processor')}, {known.get('cpus', 'unknown')} CPUs"
    return ", ".join([*gpus, processor])


def joined(machines: Sequence[Machine]) -> Machine:
    """The machine of a gang from those of its ranks."""
    names = ("device", "driver", *LIBRARIES)
    return replace(machines[0], **{name: " + ".join(sorted({getattr(m, name) for m in machines})) for name in names})


@dataclass(frozen=True)
class Conditions:
    """What seconds per update depend on besides the arm and its topology."""

    speed: Speed
    threads: int  # CPU threads of a rank
    machine: Machine

    @property
    def text(self) -> str:
        """In one line, equal exactly where seconds may be compared."""
        options = "+".join(name for name, is_on in asdict(self.speed).items() if is_on) or "eager"
        machine = self.machine
        parts = [options, f"threads-{self.threads}", f"torch-{machine.torch}", machine.device, machine.driver]
        libraries = [f"{name}-{getattr(machine, name)}" for name in LIBRARIES if getattr(machine, name)]
        return "/".join([*filter(None, parts), *libraries])

    def to_json(self) -> dict[str, Any]:
        """The columns of a row of timing.jsonl."""
        machine = {name: value for name, value in asdict(self.machine).items() if value or name not in LIBRARIES}
        return {"conditions": self.text, **asdict(self.speed), "threads": self.threads, **machine}


def old_timing_key(arm: Arm, topology: Topology) -> str:
    """The key that a row had up to version 0.1.0: it names no setting, option or device."""
    return f"{arm.workload}/{arm.optimizer}/{topology.key}"


def work_key(arm: Arm, topology: Topology) -> str:
    """What an update does and on how many devices: arms with one such key share their seconds per update."""
    span = arm.settings.batch_norm
    groups = f"{span.span}-{span.span_examples}" if span.span != "none" else "no-batch-norm"
    return f"{old_timing_key(arm, topology)}/{groups}/{fingerprint(_work(arm.settings), 8)}"


def timing_key(arm: Arm, topology: Topology, conditions: Conditions) -> str:
    """Everything that seconds per update depend on: the key of a row of timing.jsonl."""
    return f"{work_key(arm, topology)}/{conditions.text}"


def conditions_of(row: Mapping[str, Any]) -> str:
    """The conditions a row was measured under, as far as it names them: an old row has its device alone."""
    return row.get("conditions", row.get("device", ""))


def is_timing_of(row: Mapping[str, Any], arm: Arm, topology: Topology) -> bool:
    """Whether a row is about this arm on this topology, under whatever conditions; an old row goes by its old key."""
    if "work" in row:
        return row["work"] == work_key(arm, topology)
    return row["key"] == old_timing_key(arm, topology)


def untimed(
    planned: Iterable[PlannedTrial], rows: Iterable[Mapping[str, Any]], speed: Speed, threads: int
) -> list[PlannedTrial]:
    """One planned trial of every topology, small batches first; none where nothing has to be timed.

    All or none: unless all have been timed under the same conditions, each is timed where the pass runs now, so that a
    study that is continued on another machine compares seconds of one machine.
    """
    given = {**asdict(speed), "threads": threads}
    usable = [row for row in rows if {**given, **_options_of(row)} == given]
    distinct = list({work_key(p.trial.arm, p.topology): p for p in planned}.values())
    by_conditions: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in usable:
        by_conditions[conditions_of(row)].append(row)
    if any(_covers(alike, distinct) for alike in by_conditions.values()):
        return []
    return sorted(distinct, key=lambda p: (p.topology.batch.world_size, p.topology.batch.total_batch_size))


def _options_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The options and threads a row was measured with, as far as it tells: an option added later was off."""
    named = {name: row[name] for name in (*asdict(Speed()), "threads") if name in row}
    return {**asdict(Speed()), **named} if "conditions" in row else named


def _covers(rows: Sequence[Mapping[str, Any]], planned: Iterable[PlannedTrial]) -> bool:
    return all(any(is_timing_of(row, p.trial.arm, p.topology) for row in rows) for p in planned)


def _work(settings: Settings) -> dict[str, Any]:
    """The settings that decide what is computed in an update; not how far it goes."""
    return {
        "dataset": {key: value for key, value in settings.dataset.items() if key not in (*PATHS, "split_seed")},
        "model": settings.model,
        "loss": settings.loss,
        "optimizer": _without_sizes(settings.optimizer),
        "statistics": settings.batch_norm.statistics,
        "averages": settings.averaging.half_life_examples > 0,
        "parameter_groups": settings.parameter_groups,
        "clips": settings.clip_norm is not None,
        "adascale_ratio": settings.adascale_ratio,
    }


def _without_sizes(optimizer: Spec) -> dict[str, Any]:
    """An optimizer with only whether each of its varying numbers is zero, as that may skip work."""
    return {key: _is_on(value) if key in VARYING else value for key, value in optimizer.items()}


def _is_on(value: Any) -> Any:
    return [_is_on(item) for item in value] if isinstance(value, list | tuple) else bool(value)
