"""A deep copy of a model that works where `copy.deepcopy` does not."""

import copy

from torch import Tensor, nn


def copy_model(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with `model`.

    torch copies no tensor that autograd has computed. Old-style weight_norm and spectral_norm keep one as the attribute
    `weight` and compute it again in every forward pass, so its values are copied without their graph.
    """
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
