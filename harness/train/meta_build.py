"""A model built without ever being whole in a process: its constructor runs on meta, its values one tensor at a time.

Every operation on a meta tensor is repeated on the CPU, in the same order and with the same random numbers, so that
values are those of a model built there. A large tensor exists as a whole while operations use it; then this rank keeps
its rows of it, and ranks gather them where it is used again. All ranks must therefore build the same model together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from harness.plan.instantiate import resolve
from harness.plan.settings import Spec
from harness.train.world import World

WHOLE_BYTES = 1 << 20  # smaller tensors stay whole on every rank
REGISTERED = {"_parameters", "_buffers", "_modules"}
WRITES = {"zero_", "fill_", "normal_", "uniform_"}  # whatever was there before
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class MetaBuildError(Exception):
    """The model is to be built on the CPU: its constructor does what cannot be repeated there."""


@dataclass
class Held:
    """The values of one storage: all of them, or this rank's rows, or none yet."""

    storage: StorageWeakRef
    shape: torch.Size  # of the tensor that it was made for
    dtype: torch.dtype
    has_rows: bool  # whether that is large and contiguous
    size: int  # values in the storage
    whole: Tensor | None = None  # [size]
    rows: Tensor | None = None  # as many on every rank, padded with zeros


class MetaModel:
    """A model whose parameters are on meta, and the values that `fill` gives them."""

    def __init__(self, construct: Callable[[], nn.Module], world: World) -> None:
        """Raises MetaBuildError, on every rank."""
        self.values = Values(world)
        try:
            with torch.device("meta"), OnCpu(), self.values:
                self.model = construct()
        except Exception as error:
            raise MetaBuildError from error
        # By object, since a change of dtype gives a parameter another storage.
        self._found = {id(p): (p, self.values.held(p), _place(p)) for p in self.model.parameters()}
        if any(held.whole is None and held.rows is None for _, held, _ in self._found.values()):
            raise MetaBuildError  # nothing has set this parameter
        for module in self.model.modules():
            own = tree_leaves([value for name, value in vars(module).items() if name not in REGISTERED])
            if any(_is_meta(value) and id(value) not in self._found for value in own):
                raise MetaBuildError  # a plain attribute, which would stay on meta
            for name, value in module._buffers.items():
                if value is not None and value.is_meta:
                    module._buffers[name] = self.values.real(value).clone()
        self.values.forget_wholes()

    def fill(self, part: nn.Module) -> None:
        """Replace the meta parameters of a part of the model by whole ones on the world's device."""
        made: dict[int, nn.Parameter] = {}
        for module in part.modules():
            for name, p in list(module._parameters.items()):
                if p is None or not p.is_meta:
                    continue
                if id(p) not in made:
                    _, held, place = self._found[id(p)]
                    value = torch.as_strided(self.values.whole(held), *place)
                    whole = value.to(self.values.world.device, p.dtype, copy=True)
                    made[id(p)] = nn.Parameter(whole, requires_grad=p.requires_grad)
                    self.values.forget_wholes()
                setattr(module, name, made[id(p)])  # some modules, such as nn.LSTM, keep another reference


def can_build_on_meta(model: Spec) -> bool:
    """Whether the model's class says that torch's operations on its parameters give them their values."""
    return hasattr(resolve(model), "init_weights")


class Values(TorchDispatchMode):
    """Repeats every operation on meta tensors on the CPU."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self._held: dict[int, Held] = {}  # by the address of the meta storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [value for value in tree_leaves((args, kwargs)) if _is_meta(value)]
        if func is torch.ops.aten._local_scalar_dense.default:
            return func(*(self.real(value) if _is_meta(value) else value for value in args))
        if inputs and not all(map(_is_meta, _written(func._schema, args, kwargs))):
            raise MetaBuildError  # writes values of meta tensors into one that is on the CPU
        meta_args, meta_kwargs = tree_map(_as_meta, (args, kwargs)) if inputs else (args, kwargs)
        outputs = func(*meta_args, **meta_kwargs)
        if not inputs and not any(_is_meta(value) for value in tree_leaves(outputs)):
            return outputs
        new = [v for v in tree_leaves(outputs) if _is_meta(v) and v.untyped_storage()._cdata not in self._held]
        if not new and not func._schema.is_mutable:
            return outputs  # a view
        name = func._schema.name.removeprefix("aten::")
        if name in EMPTY:
            for value in new:
                self._add(value, None)
            return outputs
        if name in WRITES:
            self._expect(inputs[0])
        self.forget_wholes({value.untyped_storage()._cdata for value in inputs})
        real_args, real_kwargs = tree_map(self._as_real, (args, kwargs))
        results = func(*real_args, **real_kwargs)
        for value, result in zip(tree_leaves(outputs), tree_leaves(results), strict=True):
            if any(value is item for item in new):
                self._add(value, result)
        return outputs

    def held(self, value: Tensor) -> Held:
        """Raises MetaBuildError for a tensor that no operation seen here has made."""
        found = self._held.get(value.untyped_storage()._cdata)
        if found is None or found.dtype != value.dtype:
            raise MetaBuildError
        return found

    def real(self, value: Tensor) -> Tensor:
        """The CPU's counterpart of a meta tensor, which shares its values with those of its views."""
        return torch.as_strided(self.whole(self.held(value)), *_place(value))

    def whole(self, held: Held) -> Tensor:
        """All values; ranks gather them where each has its rows."""
        if held.whole is not None:
            return held.whole
        if held.rows is None:
            held.whole = torch.empty(held.size, dtype=held.dtype, device="cpu")
        else:
            held.whole = self.world.gather(held.rows.to(self.world.device)).flatten()[: held.size].to("cpu")
        return held.whole

    def forget_wholes(self, but: frozenset[int] | set[int] = frozenset()) -> None:
        """Keep this rank's rows of the large tensors, except of those at the addresses `but`."""
        for address, held in list(self._held.items()):
            if held.storage.expired():
                del self._held[address]
            elif address not in but and held.has_rows and held.whole is not None:
                count = -(-held.shape[0] // self.world.size)
                own = held.whole.view(held.shape)[self.world.rank * count : (self.world.rank + 1) * count]
                held.rows = held.whole.new_zeros(count, *held.shape[1:])
                held.rows[: len(own)] = own
                held.whole = None

    def _expect(self, value: Tensor) -> None:
        """Do not gather or look for values that are about to be written over."""
        if not value.is_contiguous() or value.nbytes != value.untyped_storage().nbytes():
            return
        held = self._held.get(value.untyped_storage()._cdata)
        if held is None:
            self._add(value, None)
        elif held.whole is None:
            held.rows = None

    def _as_real(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return self.real(value) if _is_meta(value) else value

    def _add(self, value: Tensor, result: Tensor | None) -> None:
        storage = value.untyped_storage()
        size = storage.nbytes() // value.dtype.itemsize
        has_rows = value.is_contiguous() and value.numel() == size and value.dim() > 0 and value.nbytes >= WHOLE_BYTES
        held = Held(StorageWeakRef(storage), value.shape, value.dtype, has_rows, size)
        if result is not None:
            if _place(result) != _place(value):
                raise MetaBuildError
            held.whole = torch.as_strided(result, (size,), (1,), 0)
        self._held[storage._cdata] = held


class OnCpu(TorchFunctionMode):
    """Tensors say that they are on the CPU: torch's initialisers, and others, do nothing to those on meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.is_meta.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return False
        if func == torch.Tensor.device.__get__:
            return torch.device("cpu")
        return func(*args, **(kwargs or {}))


def _written(schema: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that an operation changes."""
    values = [args[i] if i < len(args) else kwargs.get(a.name) for i, a in enumerate(schema.arguments)]
    changed = [
        value
        for value, argument in zip(values, schema.arguments, strict=True)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [leaf for leaf in tree_leaves(changed) if isinstance(leaf, Tensor)]


def _as_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta and value.dim() else value


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _place(value: Tensor) -> tuple[torch.Size, tuple[int, ...], int]:
    return value.shape, value.stride(), int(value.storage_offset())
