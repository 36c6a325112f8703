"""What a model keeps between two calls: buffers, plain attributes, modes, hooks, and globals of the files it is from.

A snapshot holds comparable values, not copies: tensors and generators are represented by a digest.
"""

import functools
import hashlib
import itertools
import random
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.train.batch_norm import SpanBatchNorm

INTERNAL = frozenset(vars(nn.Module()))  # attributes of every module; those that matter are looked at by name
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
DEEPEST, LONGEST = 6, 200  # levels of nesting, and items at either end of a container, that a snapshot looks at
OURS = ("harness", "torch", "experiments")


@dataclass(frozen=True)
class Kept:
    """One thing that a model keeps; `owner` is a module of the model or, for a global, a Python module or class."""

    kind: str  # attribute | buffer | parameter | mode | hooks | global
    owner: str
    name: str

    def __str__(self) -> str:
        path = f"{self.owner}.{self.name}" if self.owner else self.name
        return {
            "parameter": f"parameter {path}",
            "buffer": f"buffer {path}",
            "attribute": f"attribute {path}",
            "global": f"global {path}",
            "mode": f"the mode of {self.owner or 'the model'}",
            "hooks": f"the hooks of {self.owner or 'the model'}",
        }[self.kind]


Snapshot = Mapping[Kept, Any]


def snapshot(model: nn.Module) -> dict[Kept, Any]:
    """Everything that `model` keeps between two calls. The trainer's own batch norm is left out: P3 looks after it."""
    kept: dict[Kept, Any] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, SpanBatchNorm):
            continue
        kept[Kept("mode", prefix, "training")] = module.training
        kept[Kept("hooks", prefix, "hooks")] = [len(getattr(module, registry)) for registry in HOOKS]
        for name, value in module._buffers.items():
            kept[Kept("buffer", prefix, name)] = comparable(value)
        for name, value in module._parameters.items():
            if value is not None:
                hooks = len(value._backward_hooks or ())
                kept[Kept("parameter", prefix, name)] = (digest(value), value.requires_grad, hooks)
        for name, value in vars(module).items():
            if name not in INTERNAL:
                kept[Kept("attribute", prefix, name)] = comparable(value)
    for owner, holder in _outside(model):
        for name, value in list(vars(holder).items()):
            is_skipped = name.startswith("__") or isinstance(value, type | ModuleType | nn.Module | property)
            if not is_skipped and (not callable(value) or is_own(getattr(value, "__module__", None) or "torch")):
                kept[Kept("global", owner, name)] = comparable(value)
    return kept


def changed(before: Snapshot, after: Snapshot) -> list[Kept]:
    """What differs between two snapshots of one model, or is in only one of them."""
    missing = object()
    return [kept for kept in {**before, **after} if before.get(kept, missing) != after.get(kept, missing)]


def holder_of(model: nn.Module, kept: Kept) -> Any:
    """Where the value of an attribute, buffer or global is stored: an object for getattr and setattr."""
    if kept.kind == "global":
        return dict(_outside(model))[kept.owner]
    return model.get_submodule(kept.owner)


def _outside(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The user's own classes of which the model is made, and the files where they are defined."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__ if is_own(cls.__module__)}
    for cls in sorted(classes, key=lambda cls: cls.__qualname__):
        yield cls.__qualname__, cls
    for name in sorted({cls.__module__ for cls in classes} & sys.modules.keys()):
        yield name, sys.modules[name]


def is_own(module_name: str) -> bool:
    """Whether a Python module is the user's own: neither ours, nor installed, nor part of Python."""
    root = module_name.partition(".")[0]
    if root in OURS or root in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module_name), "__file__", None) or ""
    return not file.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))


def comparable(value: Any, depth: int = 0, within: AbstractSet[int] = frozenset()) -> Any:
    """Plain data that is equal for equal contents; what cannot hold state is represented by its type."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value if value == value else "nan"
    if isinstance(value, nn.Parameter):
        return "parameter"  # compared where it is registered
    if isinstance(value, Tensor):
        return digest(value)
    state = _stream_state(value)
    if state is not None:
        return state
    if depth >= DEEPEST or id(value) in within:
        return type(value).__name__
    return _contents(value, depth + 1, within | {id(value)})


def _stream_state(value: Any) -> Any:
    """Where a source of numbers is in its stream; None for anything else."""
    if isinstance(value, np.ndarray | np.generic):
        return (str(value.dtype), value.shape, hashlib.blake2b(np.ascontiguousarray(value).tobytes()).hexdigest())
    if isinstance(value, torch.Generator):
        return digest(value.get_state())
    if isinstance(value, random.Random):
        return hashlib.blake2b(repr(value.getstate()).encode()).hexdigest()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    return repr(value) if isinstance(value, itertools.count) else None


def _contents(value: Any, depth: int, within: AbstractSet[int]) -> Any:
    if isinstance(value, Mapping):
        return ("map", len(value), [(str(k), comparable(v, depth, within)) for k, v in _ends(list(value.items()))])
    if isinstance(value, list | tuple) or type(value).__name__ == "deque":
        return ("list", len(value), [comparable(item, depth, within) for item in _ends(list(value))])
    if isinstance(value, AbstractSet):
        return ("set", len(value), sorted(map(repr, _ends(list(value)))))
    if isinstance(value, MethodType):
        return comparable(value.__func__, depth, within)
    if isinstance(value, functools.partial):
        return comparable([value.func, value.args, value.keywords], depth, within)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        kept = [value.__defaults__, value.__kwdefaults__, *cells, vars(value)]
        return comparable([item for item in kept if not isinstance(item, type)], depth, within)
    if hasattr(value, "cache_info"):
        return ("cache", value.cache_info().currsize)
    own = vars(value) if hasattr(value, "__dict__") and not isinstance(value, type | ModuleType) else {}
    return (type(value).__name__, [(name, comparable(item, depth, within)) for name, item in own.items()])


def _ends(items: list[Any]) -> list[Any]:
    return items if len(items) <= 2 * LONGEST else items[:LONGEST] + items[-LONGEST:]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that has no value yet
        return False


def digest(tensor: Tensor) -> Any:
    """Equal for tensors of the same type, shape and bits."""
    values = tensor.detach()
    if values.layout != torch.strided or values.is_quantized or values.is_meta:
        return (str(values.dtype), tuple(values.shape))
    flat = (
        values.cpu().contiguous().flatten().view(torch.uint8) if values.numel() else torch.zeros(0, dtype=torch.uint8)
    )
    return (str(values.dtype), tuple(values.shape), hashlib.blake2b(flat.numpy().data, digest_size=16).hexdigest())


def number_of(model: nn.Module, kept: Kept) -> float | None:
    """The value of something kept that is one number, else None."""
    value = getattr(holder_of(model, kept), kept.name, None)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def set_number(model: nn.Module, kept: Kept, number: float) -> None:
    """Give something kept that is one number another value."""
    holder = holder_of(model, kept)
    value = getattr(holder, kept.name)
    if isinstance(value, Tensor):
        with torch.no_grad():
            value.fill_(number)
    else:
        setattr(holder, kept.name, type(value)(number))
