"""Forward passes without chance: every random operation of torch gives a fixed value that is the same for all examples.

Dropout keeps everything, noise is 0 and a permutation of a batch is reversed, so that what still differs between two
ways to compute the same thing is not due to chance.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.train.batch_norm import SpanBatchNorm

KEPT = frozenset(("bernoulli", "bernoulli_", "native_dropout", "geometric", "geometric_"))
UNIFORM = frozenset(("rand", "rand_like", "uniform_", "uniform"))


class Still(TorchDispatchMode):
    """A context in which torch's random operations give fixed values. They still run, for their shapes and errors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return results
        return _fixed(func.overloadpacket.__name__, results, args)


def _fixed(name: str, results: Any, args: Any) -> Any:
    if name == "native_dropout":
        results[0].copy_(args[0])
        results[1].fill_(True)
        return results
    if not isinstance(results, Tensor):
        return results
    if name == "randperm":
        return results.copy_(torch.arange(len(results) - 1, -1, -1, device=results.device))
    if name == "multinomial":
        return results.copy_(args[0].topk(results.shape[-1]).indices)
    if name == "normal" and any(isinstance(arg, Tensor) for arg in args):
        means = args[0] if isinstance(args[0], Tensor) else torch.full_like(results, args[0])
        return results.copy_(means.expand_as(results))
    return results.fill_(_level(name, args))


def _level(name: str, args: Any) -> float:
    """The value of every element of a random tensor."""
    numbers = [arg for arg in args if isinstance(arg, int | float) and not isinstance(arg, bool)]
    if name in KEPT:
        return 1.0
    if name in UNIFORM:
        return sum(numbers[:2]) / 2 if name == "uniform_" and len(numbers) >= 2 else 0.5
    if name.startswith("randint"):
        return float(numbers[0]) if len(numbers) >= 2 else 0.0
    if name in ("normal_", "normal"):
        return float(numbers[0]) if numbers else 0.0
    return 0.0 if name.startswith("randn") else 1.0


def without_dropout(model: nn.Module) -> nn.Module:
    """The model with its dropout modules off: across splits of a batch, dropout agrees in distribution only."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
    return model


def without_chance(model: nn.Module) -> nn.Module:
    """The model in evaluation mode also where it is trained, batch norm excepted: functional dropout and the like can
    be turned off in no other way. Recurrent layers stay as they are, because cuDNN trains them in no other mode."""
    model.register_forward_pre_hook(_evaluate_all_but_batch_norm)
    return without_dropout(model)


def _evaluate_all_but_batch_norm(model: nn.Module, args: object) -> None:
    for module in model.modules():
        if not isinstance(module, SpanBatchNorm | nn.RNNBase):
            module.training = False
