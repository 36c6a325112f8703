"""A recording on the CPU that is as strict as a CUDA graph: the same operations, in the same places, nothing else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """What `function` computes, computed again at every replay; recording it leaves no trace.

    Numbers of the host stay what they were, and every result goes where the first one is, as in a CUDA graph.
    """

    def __init__(self, function: Callable[[], Any], pool: Any) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        with self:
            self._result = function()
        with torch.no_grad():
            for place, value in reversed(self._before):
                place.copy_(value)
        self._before.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self._before += [(value, value.clone()) for value in tensors((args, kwargs))]
        made = func(*args, **kwargs)
        self._operations.append((func, args, kwargs, made))
        return made

    def replay(self) -> Any:
        with torch.no_grad():
            for func, args, kwargs, made in self._operations:
                given = {storage(value) for value in tensors((args, kwargs))}
                for place, value in zip(tensors(made), tensors(func(*args, **kwargs)), strict=True):
                    if storage(place) not in given:  # neither a view of an argument nor changed in place
                        place.copy_(value)
        return self._result


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def storage(value: Tensor) -> int:
    return value.untyped_storage()._cdata
