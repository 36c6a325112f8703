"""Cross entropy of a linear head that is computed in pieces, so that the logits of a large vocabulary never exist at
once (Wijmans et al. 2024, 2411.09009; Hsu et al. 2024, 2410.10989)."""

import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.objectives.objective import IGNORED, Measured, Objective, check_class_indices, shapes
from harness.plan.errors import UserError

CHUNK_VALUES = 1 << 24  # logits held at a time


class FusedCrossEntropy(Objective):
    """Outputs (hidden [n, ..., width], weight [classes, width]), optionally with a bias [classes]; int targets
    [n, ...], of which IGNORED ones do not count. Loss and gradients are those of cross_entropy on
    hidden @ weight.T + bias.
    """

    metrics = ("loss", "accuracy")

    def __init__(self, chunk_values: int = CHUNK_VALUES) -> None:
        self.chunk_values = chunk_values
        self._compute: torch.dtype | None = None
        self._all_count = False

    def to(self, device: torch.device, dtype: torch.dtype, compute: torch.dtype) -> Self:
        self._compute = compute
        return self

    def where_all_count(self) -> "FusedCrossEntropy":
        alike = copy.copy(self)
        alike._all_count = True
        return alike

    def read(self, outputs: Any) -> Any:
        return tuple(outputs) if isinstance(outputs, tuple | list) else outputs

    def measure(self, outputs: Any, targets: Tensor) -> Measured:
        total, _ = self._sums(outputs, targets)
        return total, self._count(targets)

    def scores(self, outputs: Any, targets: Tensor) -> dict[str, Measured]:
        total, correct = self._sums(outputs, targets)
        count = self._count(targets)
        return {"loss": (total, count), "accuracy": (correct, count)}

    def _sums(self, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight, bias = outputs if len(outputs) == 3 else (*outputs, None)
        rows = max(1, self.chunk_values // len(weight))
        compute = self._compute or hidden.dtype
        sums: Any = _Chunked.apply(hidden.flatten(0, -2), weight, bias, targets.flatten(), rows, compute)
        return sums

    def _count(self, targets: Tensor) -> int | Tensor:
        return targets.numel() if self._all_count else (targets != IGNORED).sum()

    def classes(self, outputs: Any, targets: Any) -> int | None:
        is_pair = isinstance(outputs, tuple) and len(outputs) in (2, 3)
        return len(outputs[1]) if is_pair and _fits(outputs[0], outputs[1], targets) else None

    def check(self, outputs: Any, targets: Any) -> None:
        parts: tuple[Any, ...] = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(parts) not in (2, 3) or not _fits(parts[0], parts[1], targets):
            raise UserError(
                "fused_cross_entropy needs a model that returns (hidden [n, ..., width], weight [classes, width]), "
                f"optionally with a bias [classes], and class indices [n, ...], not outputs {shapes(outputs)} and "
                f"targets {shapes(targets)}"
            )
        check_class_indices(targets, len(parts[1]))


def _fits(hidden: Any, weight: Any, targets: Any) -> bool:
    if not all(isinstance(value, Tensor) for value in (hidden, weight, targets)) or weight.dim() != 2:
        return False
    return hidden.shape == (*targets.shape, weight.shape[1]) and not targets.is_floating_point()


class _Chunked(torch.autograd.Function):
    """(sum of losses, number of correct rows) of hidden [m, width]; gradients are computed along with the losses."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        rows: int,
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        for_hidden, for_weight, for_bias = (ctx.needs_input_grad[i] for i in range(3))
        head = weight.to(compute)
        total = torch.zeros((), dtype=hidden.dtype, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight) if for_weight else None
        d_bias = torch.zeros_like(bias) if bias is not None and for_bias else None
        for first in range(0, len(hidden), rows):
            piece, labels = hidden[first : first + rows].to(compute), targets[first : first + rows, None]
            logits = (piece @ head.T).to(hidden.dtype)
            logits = logits if bias is None else logits + bias
            counts = labels != IGNORED
            labels = labels.where(counts, 0)
            log_sum = logits.logsumexp(1, keepdim=True)
            total += ((log_sum - logits.gather(1, labels)) * counts).sum()
            correct += ((logits.argmax(1, keepdim=True) == labels) & counts).sum()
            if not (for_hidden or for_weight or for_bias):
                continue
            d_logits = (logits - log_sum).exp_()
            d_logits.scatter_add_(1, labels, torch.full_like(log_sum, -1.0))
            d_logits *= counts
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(compute)
            if d_hidden is not None:
                d_hidden[first : first + rows] = d_logits @ head
            if d_weight is not None:
                d_weight += d_logits.T @ piece
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, d_correct: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = (None if g is None else g * d_total for g in ctx.saved_tensors)
        return (*gradients, None, None, None)


OBJECTIVES = {"fused_cross_entropy": FusedCrossEntropy}
