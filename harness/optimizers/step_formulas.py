"""The steps of optimizers as operations on lists of tensors, with hyper-parameters that are numbers on the device."""

# Torch's own optimizers use the foreach functions too; only their names are private.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.optimizers.lamb import LAMB
from harness.optimizers.lars import LARS
from harness.optimizers.layerwise import adapts, norms, trust_ratios
from harness.optimizers.muon import Muon

Group = Mapping[str, Any]
Tensors = list[Tensor]


@dataclass(frozen=True)
class Step:
    """The step of one optimizer on a group's parameters that have a gradient.

    `state`: names of its state, given the group; tensors of it have the shape of their parameter. `numbers`: what may
    differ from update to update, given the update's number, from 1, and the product of NAdam's momenta. `apply`: given
    the group, those numbers on the device, parameters, gradients and state; gradients are not changed.
    """

    state: Callable[[Group], Collection[str]]
    numbers: Callable[[Group, int, float], dict[str, float]]
    apply: Callable[[Group, Mapping[str, Tensor], Tensors, Tensors, Mapping[str, Tensors]], None]


@torch.no_grad()
def lerp(tensors: Tensors, targets: Tensors, weight: Tensor) -> None:
    """Move `tensors` in place by `weight`, a scalar on the device, of the way to `targets`."""
    distances = torch._foreach_sub(targets, tensors)
    torch._foreach_mul_(distances, weight)
    torch._foreach_add_(tensors, distances)


def _decayed(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors) -> Tensors:
    """Gradients with coupled weight decay."""
    if not group["decays"]:
        return grads
    return list(torch._foreach_add(grads, torch._foreach_mul(params, at["weight_decay"])))


def _subtract(params: Tensors, updates: Tensors | tuple[Tensor, ...], factor: Tensor) -> None:
    torch._foreach_sub_(params, torch._foreach_mul(updates, factor))


def _plain(group: Group, count: int, product: float) -> dict[str, float]:
    numbers = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
    return {**numbers, "momentum": group["momentum"]} if "momentum" in group else numbers


def _sgd(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]) -> None:
    grads = _decayed(group, at, params, grads)
    if group["has_momentum"]:
        buffers = own["momentum_buffer"]
        torch._foreach_mul_(buffers, at["momentum"])
        torch._foreach_add_(buffers, grads)
        ahead = torch._foreach_mul(buffers, at["momentum"]) if group["nesterov"] else None
        grads = buffers if ahead is None else list(torch._foreach_add(grads, ahead))
    _subtract(params, grads, at["lr"])


def _adam_numbers(group: Group, count: int, product: float) -> dict[str, float]:
    beta1, beta2 = group["betas"]
    return {
        "fresh": 1 - beta1,
        "step_size": group["lr"] / (1 - beta1**count),
        "correction": math.sqrt(1 - beta2**count),
        "weight_decay": group["weight_decay"],
        "kept": 1 - group["lr"] * group["weight_decay"],
    }


def _moments(
    group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]
) -> Any:
    """Weight decay, both moments of Adam's family, and the root of the second one, not yet corrected."""
    if group.get("decoupled_weight_decay") and group["decays"]:
        torch._foreach_mul_(params, at["kept"])
    else:
        grads = _decayed(group, at, params, grads)
    first, second, beta2 = own["exp_avg"], own["exp_avg_sq"], group["betas"][1]
    lerp(first, grads, at["fresh"])
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
    if group.get("amsgrad"):
        torch._foreach_maximum_(own["max_exp_avg_sq"], second)
        second = own["max_exp_avg_sq"]
    return grads, first, list(torch._foreach_sqrt(second))


def _adam(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]) -> None:
    _, first, roots = _moments(group, at, params, grads, own)
    torch._foreach_div_(roots, at["correction"])
    torch._foreach_add_(roots, group["eps"])
    _subtract(params, torch._foreach_div(first, roots), at["step_size"])


def nadam_momentum(group: Group, count: int) -> float:
    return group["betas"][0] * (1 - 0.5 * 0.96 ** (count * group["momentum_decay"]))


def _nadam_numbers(group: Group, count: int, product: float) -> dict[str, float]:
    now, then = nadam_momentum(group, count), nadam_momentum(group, count + 1)
    steps = {
        "of_gradient": group["lr"] * (1 - now) / (1 - product),
        "of_moment": group["lr"] * then / (1 - product * then),
    }
    return {**_adam_numbers(group, count, product), **steps}


def _nadam(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]) -> None:
    grads, first, roots = _moments(group, at, params, grads, own)
    torch._foreach_div_(roots, at["correction"])
    torch._foreach_add_(roots, group["eps"])
    _subtract(params, torch._foreach_div(grads, roots), at["of_gradient"])
    _subtract(params, torch._foreach_div(first, roots), at["of_moment"])


def _rmsprop(
    group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]
) -> None:
    grads, squares, alpha = _decayed(group, at, params, grads), own["square_avg"], group["alpha"]
    torch._foreach_mul_(squares, alpha)
    torch._foreach_addcmul_(squares, grads, grads, 1 - alpha)
    if group["centered"]:
        torch._foreach_lerp_(own["grad_avg"], grads, 1 - alpha)
        squares = torch._foreach_addcmul(squares, own["grad_avg"], own["grad_avg"], -1)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, group["eps"])
    updates = torch._foreach_div(grads, roots)
    if group["has_momentum"]:
        torch._foreach_mul_(own["momentum_buffer"], at["momentum"])
        torch._foreach_add_(own["momentum_buffer"], updates)
        updates = own["momentum_buffer"]
    _subtract(params, updates, at["lr"])


def _adagrad_numbers(group: Group, count: int, product: float) -> dict[str, float]:
    return {**_plain(group, count, product), "lr": group["lr"] / (1 + (count - 1) * group["lr_decay"])}


def _adagrad(
    group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]
) -> None:
    grads = _decayed(group, at, params, grads)
    torch._foreach_addcmul_(own["sum"], grads, grads, 1.0)
    roots = torch._foreach_sqrt(own["sum"])
    torch._foreach_add_(roots, group["eps"])
    _subtract(params, torch._foreach_div(grads, roots), at["lr"])


def _adadelta(
    group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]
) -> None:
    grads, squares, deltas, rho = _decayed(group, at, params, grads), own["square_avg"], own["acc_delta"], group["rho"]
    torch._foreach_mul_(squares, rho)
    torch._foreach_addcmul_(squares, grads, grads, 1 - rho)
    updates = torch._foreach_add(deltas, group["eps"])
    torch._foreach_sqrt_(updates)
    roots = torch._foreach_add(squares, group["eps"])
    torch._foreach_sqrt_(roots)
    torch._foreach_div_(updates, roots)
    torch._foreach_mul_(updates, grads)
    torch._foreach_mul_(deltas, rho)
    torch._foreach_addcmul_(deltas, updates, updates, 1 - rho)
    _subtract(params, updates, at["lr"])


def _lars(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]) -> None:
    directions, velocities = _decayed(group, at, params, grads), own["velocity"]
    if adapts(group):
        weights = norms(params)
        sizes = norms(grads) + at["weight_decay"] * weights
        directions = torch._foreach_mul(directions, trust_ratios(group["trust_coefficient"] * weights, sizes))
    torch._foreach_mul_(velocities, at["momentum"])
    torch._foreach_add_(velocities, torch._foreach_mul(directions, at["lr"]))
    torch._foreach_sub_(params, velocities)


def _lamb_numbers(group: Group, count: int, product: float) -> dict[str, float]:
    beta1, beta2 = group["betas"]
    corrections = {"first": 1 - beta1**count, "second": 1 - beta2**count}
    return {**_plain(group, count, product), "fresh": 1 - beta1, **corrections}


def _lamb(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]) -> None:
    first, second, beta2 = own["first_moment"], own["second_moment"], group["betas"][1]
    lerp(first, grads, at["fresh"])
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
    roots = torch._foreach_div(second, at["second"])
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, group["eps"])
    updates = torch._foreach_div(first, at["first"])
    torch._foreach_div_(updates, roots)
    updates = _decayed(group, at, params, list(updates))
    if adapts(group):
        updates = torch._foreach_mul(updates, trust_ratios(norms(params), norms(updates)))
    _subtract(params, updates, at["lr"])


def _muon_numbers(group: Group, count: int, product: float) -> dict[str, float]:
    kept, fresh = 1 - group["lr"] * group["weight_decay"], 1 - group["momentum"]
    return {**_plain(group, count, product), "kept": kept, "fresh": fresh}


def _muon(group: Group, at: Mapping[str, Tensor], params: Tensors, grads: Tensors, own: Mapping[str, Tensors]) -> None:
    from torch.optim import _muon as torchs

    lerp(own["momentum_buffer"], grads, at["fresh"])
    options = group["ns_coefficients"], group["ns_steps"], group["eps"]
    for p, gradient, buffer in zip(params, grads, own["momentum_buffer"], strict=True):
        update = gradient + (buffer - gradient) * at["momentum"] if group["nesterov"] else buffer
        update = torchs._zeropower_via_newtonschulz(update, *options)
        ratio = torchs._adjust_lr(1.0, group["adjust_lr_fn"], p.shape)
        p.mul_(at["kept"]).sub_(update.to(p.dtype) * (at["lr"] * ratio))


def _state(*names: str, **optional: str) -> Callable[[Group], list[str]]:
    """`optional`: names of state that an option of the group turns on."""
    return lambda group: [*names, *(name for name, option in optional.items() if group.get(option))]


ADAM = Step(_state("step", "exp_avg", "exp_avg_sq", max_exp_avg_sq="amsgrad"), _adam_numbers, _adam)

STEPS: dict[type[Optimizer], Step] = {
    torch.optim.SGD: Step(_state(momentum_buffer="has_momentum"), _plain, _sgd),
    torch.optim.Adam: ADAM,
    torch.optim.AdamW: ADAM,
    torch.optim.NAdam: Step(_state("step", "mu_product", "exp_avg", "exp_avg_sq"), _nadam_numbers, _nadam),
    torch.optim.RMSprop: Step(
        _state("step", "square_avg", grad_avg="centered", momentum_buffer="has_momentum"), _plain, _rmsprop
    ),
    torch.optim.Adagrad: Step(_state("step", "sum"), _adagrad_numbers, _adagrad),
    torch.optim.Adadelta: Step(_state("step", "square_avg", "acc_delta"), _plain, _adadelta),
    LARS: Step(_state("velocity"), _plain, _lars),
    LAMB: Step(_state("step", "first_moment", "second_moment"), _lamb_numbers, _lamb),
    Muon: Step(_state("momentum_buffer"), _muon_numbers, _muon),  # of hidden matrices; the others have Adam's
}
