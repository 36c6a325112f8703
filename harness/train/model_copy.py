"""Deep copies of models, also where `copy.deepcopy` alone fails."""

import copy

from torch import Tensor, nn

from harness.plan.errors import UserError, one_line


def copy_model(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with `model`. UserError for a model that cannot be copied.

    torch copies no tensor that autograd has computed. Old-style weight_norm and spectral_norm keep one as the attribute
    `weight` and compute it again in every forward pass, so its values are copied without their graph.
    """
    attributes = [value for module in model.modules() for value in vars(module).values()]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    except Exception as error:
        raise UserError(
            f"the model cannot be copied for the average of its weights ({one_line(error)}): make copy.deepcopy work "
            "on it, or keep no average with workload.averaging={half_life_examples: 0, decide_on: raw}"
        ) from error
