"""Which arms of a grid are not distinguished from its best one (P27)."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding
from harness.analyse.results import TrialResult
from harness.statistics.best_set import best_set
from harness.statistics.comparisons import Verdict, compare


def equals_of_best(
    best: ArmFinding, rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]], resolution: int
) -> list[ArmFinding]:
    """Those of `rows` that may be the best with 95 %, `best` among them; `results[i]` are the trials of `rows[i]`.

    A median within one evaluation interval (`resolution`, in examples) of that of `best` is never distinguished.
    """
    observed = {i: [r.observation() for r in found] for i, found in enumerate(results) if found}

    def excludes(arm: int, other: int) -> bool:
        return compare(observed[other], observed[arm]).verdict is Verdict.SLOWER

    found = best_set(observed, excludes=excludes)
    members = found.members if found.coverage else ()
    return [
        row
        for i, row in enumerate(rows)
        if row is best
        or (i in members and math.isfinite(row.place.examples))
        or row.place.examples <= best.place.examples + resolution
    ]
