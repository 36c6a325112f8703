"""What tests of published tables ask of a reader."""

from pathlib import Path

import pytest

from harness.plan.errors import UserError
from harness.published.columns import ReadingOptions
from harness.published.curves import PublishedCurve
from harness.published.read import read


def places(curve: PublishedCurve) -> dict[int, list[float]]:
    """The places of the runs at every total batch size."""
    return {arm.total_batch_size: [run.place for run in arm.observations] for arm in curve.arms}


def refusal(path: Path, options: ReadingOptions | None = None) -> str:
    """The one line with which a source is rejected."""
    with pytest.raises(UserError) as refused:
        read(path, options)
    assert "\n" not in str(refused.value)
    return str(refused.value)
