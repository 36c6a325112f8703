"""What a reader must know of the seconds per update."""

from collections import defaultdict
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding
from harness.analyse.step_times import Excluded, StepTiming
from harness.statistics import words

LOADER_SHARE = 0.1  # of an update's time spent waiting for data, above which its seconds say little of the device
BUSY_SHARE = 0.1  # of the CPUs, kept busy by others


def timing_caveats(rows: Sequence[ArmFinding], ran_on: Sequence[str] = ()) -> list[str]:
    """One line each: arms without headline seconds, a busy machine, waiting for data, rounds that did not alternate,
    several devices (`ran_on`: those of the trials)."""
    arms: dict[StepTiming, list[str]] = defaultdict(list)
    for row in rows:
        if row.timing is not None:
            arms[row.timing].append(f"{row.label} TBS {row.total_batch_size}")
    counted = [timing for timing in arms if timing.excluded is not Excluded.OTHER_CONDITIONS]
    lines = [_why_excluded(timing, labels, counted) for timing, labels in arms.items() if timing.excluded]
    busiest = max(counted, key=lambda timing: timing.other_cpus, default=None)
    if busiest is not None and busiest.cpus and busiest.other_cpus > BUSY_SHARE * busiest.cpus:
        lines.append(words.busy_machine(busiest.other_cpus, busiest.cpus))
    waiting = max((timing.loader_fraction for timing in counted), default=0.0)
    if waiting > LOADER_SHARE:
        lines.append(
            f"updates wait for data up to {words.percent(waiting)} of their time: seconds depend partly on the disk"
        )
    if len(counted) > 1 and not all(timing.interleaved for timing in counted):
        lines.append(words.NOT_INTERLEAVED)
    if len(ran_on) > 1:
        lines.append(words.several_devices(ran_on))
    return lines


def _why_excluded(timing: StepTiming, labels: Sequence[str], counted: Sequence[StepTiming]) -> str:
    names = words.joined(labels)
    if timing.excluded is Excluded.OTHER_CONDITIONS:
        return words.other_conditions(names, timing.conditions, counted[0].conditions)
    assert timing.packed_s is not None  # what it was compared with
    return words.slower_than_packed(names, timing.seconds, timing.packed_s)
