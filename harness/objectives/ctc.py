"""Connectionist temporal classification: symbols without their times (Graves et al. 2006)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.objectives.objective import IGNORED, Measured, Objective, check_class_indices, logits_of, shapes
from harness.plan.errors import UserError


class Ctc(Objective):
    """Logits [n, time, classes], or (logits, their lengths [n]); targets [n, symbols], padded with IGNORED, or a
    mapping with `targets` and, where needed, `target_lengths` and `input_lengths` [n].

    The mean is torch's: each example's loss is divided by its number of symbols.
    """

    counts_examples = True
    waits = True  # torch reads the lengths

    def __init__(self, blank: int = 0, zero_infinity: bool = False) -> None:
        self.blank = blank
        self.zero_infinity = zero_infinity

    def read(self, outputs: Any) -> Any:
        return tuple(outputs) if isinstance(outputs, tuple | list) else logits_of(outputs)

    def measure(self, outputs: Any, targets: Any) -> Measured:
        losses, symbols = self._losses(outputs, targets)
        return (losses / symbols.clamp(min=1)).sum(), len(losses)

    def _losses(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        logits, lengths = outputs if isinstance(outputs, tuple) else (outputs, None)
        labels, given = (targets["targets"], targets) if isinstance(targets, Mapping) else (targets, {})
        lengths = given.get("input_lengths", lengths)
        if lengths is None:
            lengths = torch.full((len(logits),), logits.shape[1], device=logits.device)
        symbols = given.get("target_lengths", (labels != IGNORED).sum(1))
        log_probabilities = functional.log_softmax(logits, -1).transpose(0, 1)
        padded = labels.where(labels != IGNORED, self.blank)
        losses = functional.ctc_loss(
            log_probabilities, padded, lengths, symbols, self.blank, "none", self.zero_infinity
        )
        return losses, symbols

    def classes(self, outputs: Any, targets: Any) -> int | None:
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return logits.shape[2] if isinstance(logits, Tensor) and logits.dim() == 3 else None

    def check(self, outputs: Any, targets: Any) -> None:
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        labels: Any = targets.get("targets") if isinstance(targets, Mapping) else targets
        tensors = isinstance(logits, Tensor) and isinstance(labels, Tensor)
        if not tensors or (logits.dim(), labels.dim()) != (3, 2) or len(logits) != len(labels):
            raise UserError(
                "ctc needs outputs [n, time, classes], or (outputs, lengths), and targets [n, symbols], not outputs "
                f"{shapes(outputs)} and targets {shapes(targets)}"
            )
        check_class_indices(labels, logits.shape[2])
        losses, symbols = self._losses(outputs, targets)
        if not self.zero_infinity and bool(losses.isinf().any()):
            raise UserError(
                f"ctc: {int(symbols[losses.isinf()][0])} symbols do not fit into the time steps of their example: "
                "give longer inputs, or zero_infinity: true to leave such examples out"
            )


OBJECTIVES = {"ctc": Ctc}
