"""What dry_run says about memory: bytes per parameter, and on which devices and hosts the model fits."""

from collections.abc import Iterator, Sequence

from harness.plan.settings import Settings, fingerprint
from harness.plan.trial import PlannedTrial
from harness.train.memory import Memory, memory_of

SMALL_BYTES = 1e9  # a model that takes less fits anywhere: one line says so
DEVICES_GB = (16, 24, 40, 80, 141)  # T4 or V100, A10, A100, A100 or H100, H200
USABLE = 0.75  # of a device; the rest is for activations and data, which depend on the micro-batch
INDENT = " " * 14


def memory_lines(planned: Sequence[PlannedTrial]) -> list[str]:
    """Of the largest of the models that are planned."""
    kinds = {_kind(p.trial.arm.settings): p for p in planned}.values()
    pairs = [(memory_of(p.trial.arm.settings, p.topology.precision), p) for p in kinds]
    memory, largest = max(pairs, key=lambda pair: pair[0].total)
    ranks, is_split = largest.topology.batch.world_size, largest.topology.sharding == "full"
    which = f"the largest of {len(pairs)} models: " if len(pairs) > 1 else ""
    lines = [f"memory        {which}{memory.parameters:,} parameters of {_each(memory)}"]
    if memory.total < SMALL_BYTES and not is_split:
        return [f"{lines[0]}: {_size(memory.total)} without activations"]
    over = sorted({ranks if is_split else 2, 4, 8})
    split = ", ".join(f"{_size(memory.on_device(w))} over {w} workers" for w in over if w > 1)
    takes_turns = is_split and not memory.on_meta
    host = f"{_size(memory.to_build(ranks if is_split else 1))} per {'node' if takes_turns else 'worker'}"
    saved = f"; {_size(memory.checkpoint_bytes)} on rank 0 for a checkpoint" if is_split else ""
    return [
        *lines,
        f"{INDENT}on each device, without activations: {_size(memory.on_device(1))} with cluster.sharding=none; with "
        f"full {split}",
        f"{INDENT}fits in three quarters of a GPU of {'; '.join(_fits(memory))}",
        f"{INDENT}on the host: {host} to build the model{saved}",
    ]


def _kind(settings: Settings) -> str:
    optimizer, averages = settings.optimizer["_target_"], settings.averaging.half_life_examples > 0
    return fingerprint(
        {"model": dict(settings.model), "optimizer": optimizer, "groups": settings.parameter_groups, "avg": averages}
    )


def _each(memory: Memory) -> str:
    each = {name: memory.each(name) for name in memory.total_bytes}
    words = ", ".join(f"{name} {'not known' if size is None else f'{size:.3g}'}" for name, size in each.items())
    return f"{memory.total / memory.parameters:.3g} bytes ({words})"


def _fits(memory: Memory) -> Iterator[str]:
    for size in DEVICES_GB:
        ranks = memory.fewest_ranks(USABLE * size * 1e9)
        if ranks == 1:
            yield f"{size} GB or more unsplit"
            return
        yield f"{size} GB split over {ranks}" if ranks is not None else f"{size} GB not at all"


def _size(count: float) -> str:
    unit = next((unit for unit in ("TB", "GB", "MB") if count >= {"TB": 1e12, "GB": 1e9, "MB": 1e6}[unit]), "kB")
    return f"{count / {'TB': 1e12, 'GB': 1e9, 'MB': 1e6, 'kB': 1e3}[unit]:.3g} {unit}"
