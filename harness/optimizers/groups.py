"""How a model's parameters become groups: which decay, which have their own LR factor, which are frozen."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from harness.plan.errors import UserError
from harness.plan.parameter_groups import ParameterGroups


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    options: ParameterGroups | None = None,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, in the order of their first parameter; the same for the same model.

    Each group has `params`, `param_names`, `weight_decay`, `lr_factor` and `norms_and_biases`; the trainer sets its LR
    to peak LR x schedule x `lr_factor`, so an LR rule acts the same on every group. Patterns are shell patterns over
    parameter names ("blocks.0.*"); frozen parameters no longer require a gradient, so call this before DDP wraps the
    model. Raises UserError for a pattern that matches nothing, for two factors on one parameter, and if nothing is left
    to train.
    """
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise UserError(f"weight_decay must be >= 0, not {weight_decay}")
    named = dict(model.named_parameters())
    options = options or ParameterGroups()
    for name in matching(options.frozen, named, "frozen"):
        named[name].requires_grad_(False)
    factors = _factor_of_each(options.lr_factors, named)
    exempt = set(_norms_and_biases(model))

    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        norm_or_bias, lr_factor = name in exempt, factors.get(name, 1.0)
        group = groups.setdefault(
            (norm_or_bias, lr_factor),
            {
                "params": [],
                "param_names": [],
                "weight_decay": 0.0 if norm_or_bias and options.no_decay_on_norms_and_biases else float(weight_decay),
                "lr_factor": lr_factor,
                "norms_and_biases": norm_or_bias,
            },
        )
        group["params"].append(parameter)
        group["param_names"].append(name)
    if not groups:
        raise UserError("every parameter is frozen: leave at least one unfrozen")
    return list(groups.values())


def matching(patterns: Iterable[str], names: Iterable[str], option: str) -> list[str]:
    """The names that match any of the shell patterns, in their own order.

    Raises UserError for a pattern that matches none, naming `option` and the nearest name.
    """
    names, matched = list(names), set[str]()
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            near = get_close_matches(pattern.replace("*", ""), names, 1, cutoff=0.0)
            hint = f": the nearest is {near[0]!r}" if near else ""
            raise UserError(f"{option} pattern {pattern!r} matches no parameter of the model{hint}")
        matched.update(hits)
    return [name for name in names if name in matched]


def _factor_of_each(lr_factors: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Name -> LR factor. Patterns that match the same parameter need the same factor: conf defines no precedence."""
    names, owner = list(names), dict[str, str]()
    for pattern, factor in lr_factors.items():
        if not (isinstance(factor, int | float) and math.isfinite(factor) and factor > 0):
            raise UserError(f"lr_factors[{pattern!r}] must be a number > 0, not {factor!r}: use frozen to fix weights")
        for name in matching([pattern], names, "lr_factors"):
            other = owner.setdefault(name, pattern)
            if lr_factors[other] != factor:
                raise UserError(
                    f"lr_factors {other!r} ({lr_factors[other]}) and {pattern!r} ({factor}) both match {name!r}: "
                    "make them disjoint"
                )
    return {name: float(lr_factors[pattern]) for name, pattern in owner.items()}


def _norms_and_biases(model: nn.Module) -> Iterable[str]:
    """Names of all parameters of normalisation layers, recognised by class name, and of all called bias."""
    # By class name, because the libraries' RMS norms and the trainer's batch norm have no common base class. Not by
    # dimension, because a vector may be the weights themselves, as in the noisy quadratic.
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False):
            if is_norm or name == "bias":
                yield f"{prefix}.{name}" if prefix else name
