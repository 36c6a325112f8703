"""What `workload.loss` says about a loss besides its name and its arguments."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from harness.plan.errors import UserError

DECLARED = ("couples", "diverges_at")  # keys of a mapping with a `_target_` that are not arguments of the target
COUPLES = ("none", "batch")


def check_loss(loss: str | Mapping[str, Any]) -> None:
    """Raises UserError for a declaration with an impossible value."""
    if isinstance(loss, str):
        return
    if (couples := loss.get("couples", "none")) not in COUPLES:
        raise UserError(f"workload.loss.couples must be one of {', '.join(COUPLES)}, not {couples!r}")
    at = loss.get("diverges_at")
    is_number = isinstance(at, int | float) and not isinstance(at, bool) and isfinite(at)
    if at is not None and not is_number:
        raise UserError(
            f"workload.loss.diverges_at must be a number, above which a training loss has diverged, not {at!r}"
        )


def couples_examples(loss: str | Mapping[str, Any]) -> bool:
    """Whether an example's loss depends on which others share its micro-batch."""
    return not isinstance(loss, str) and loss.get("couples") == "batch"


def loss_name(loss: str | Mapping[str, Any]) -> str:
    """The name of a loss, or the path of its `_target_`."""
    return loss if isinstance(loss, str) else str(loss["_target_"])
