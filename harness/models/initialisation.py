"""Initial weights as a setting: He or Xavier, the same for every convolution and matrix of a model."""

from collections.abc import Callable

from torch import Tensor, nn

from harness.plan.errors import UserError


def _he(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "he": _he,  # N(0, 2 / fan_in): He et al. 2015 (1502.01852), eq. 10
    "xavier": nn.init.xavier_uniform_,  # U(+-sqrt(6 / (fan_in + fan_out))): Glorot & Bengio 2010, eq. 16
}


def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of every convolution and linear layer and set their biases to zero; norms are not changed.

    Raises UserError for an unknown `init`.
    """
    if init not in INITS:
        raise UserError(f"unknown model.init {init!r}: choose one of {', '.join(INITS)}")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            INITS[init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
