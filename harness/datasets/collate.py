"""One example of a user's data set as tensors, and several of them as a batch."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.plan.errors import UserError

Tree = Any  # a tensor, or a dict or tuple of trees; in a batch every leaf has the example axis first


def as_tensors(value: Any, name: str = "") -> Tree:
    """Tensors, arrays, numbers and lists of numbers, in nested dicts and tuples, as tensors; UserError for anything
    else. `name`: where `value` is in its example."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return _tensor(np.asarray(value), value, name)
    if isinstance(value, Mapping):
        return {str(key): as_tensors(item, f"{name}[{key}]") for key, item in value.items()}
    if isinstance(value, list) and not any(isinstance(item, Tensor | Mapping) for item in value):
        try:
            return _tensor(np.asarray(value), value, name)
        except ValueError as error:  # rows of different lengths
            raise UserError(f"{_what(name)} is a list of lists of different lengths: pad it in a transform") from error
    if isinstance(value, tuple | list):
        return tuple(as_tensors(item, f"{name}[{number}]") for number, item in enumerate(value))
    raise _refusal(value, name)


def _tensor(array: np.ndarray, value: Any, name: str) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise _refusal(value, name)
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _refusal(value: Any, name: str) -> UserError:
    kind = type(value)
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
        advice = "tokenise it, or name the columns to use in dataset.inputs"
    elif kind.__module__.startswith("PIL."):
        advice = "turn it into a tensor in a transform, such as torchvision.transforms.v2.ToImage and ToDtype"
    elif value is None:
        advice = "leave the column out of dataset.inputs"
    else:
        advice = "give tensors, numpy arrays, numbers, or dicts and tuples of them"
    given = "None" if value is None else f"a {kind.__module__}.{kind.__qualname__}".replace("builtins.", "")
    return UserError(f"{_what(name)} is {given}: {advice}")


def _what(name: str) -> str:
    """A place in an example, which is a pair of inputs and targets."""
    for number, part in enumerate(("inputs", "targets")):
        name = part + name.removeprefix(f"[{number}]") if name.startswith(f"[{number}]") else name
    return f"part {name}" if name else "it"


def collate(examples: Sequence[Tree]) -> Tree:
    """Examples of one structure as a batch; UserError where their shapes differ."""
    return _combine(examples, torch.stack, lambda leaf: f"{list(leaf.shape)} {leaf.dtype}")


def join(batches: Sequence[Tree], pinned: bool = False) -> Tree:
    """Batches one after another, in memory of their own; `pinned`: page-locked."""

    def joined(leaves: list[Tensor]) -> Tensor:
        shape = (sum(len(leaf) for leaf in leaves), *leaves[0].shape[1:])
        return torch.cat(leaves, out=torch.empty(shape, dtype=leaves[0].dtype, pin_memory=pinned))

    return _combine(batches, joined, lambda leaf: f"{list(leaf.shape[1:])} {leaf.dtype}")


def map_tree(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with every leaf replaced by `function` of it."""
    return _combine([tree], lambda leaves: function(leaves[0]), lambda leaf: "")


def digest(tree: Tree) -> str:
    """SHA-256 of a tree's structure, shapes, dtypes and bytes."""
    sha = hashlib.sha256()

    def add(leaf: Tensor) -> Tensor:
        array = leaf.contiguous()
        sha.update(f"{array.dtype}{tuple(array.shape)}".encode())
        sha.update(array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b"")
        return leaf

    sha.update(_structure(tree).encode())
    map_tree(add, tree)
    return sha.hexdigest()


def _combine(
    trees: Sequence[Tree],
    function: Callable[[list[Tensor]], Tensor],
    alike: Callable[[Tensor], str],
    name: str = "",
) -> Tree:
    """One tree of the structure of all `trees`, each leaf `function` of theirs, of which `alike` must be equal."""
    first = trees[0]
    if all(isinstance(tree, Tensor) for tree in trees):
        if len(kinds := {alike(leaf) for leaf in trees}) > 1:
            shapes = " or ".join(sorted(kinds)[:2])
            raise UserError(
                f"examples of different shapes cannot be one batch ({_what(name)} is {shapes}): pad or crop them in a "
                "transform"
            )
        return function(list(trees))
    if len(parts := {_structure(tree) for tree in trees}) > 1:
        raise UserError(f"examples must all have the same parts, not {' or '.join(sorted(parts)[:2])}")
    keys = list(first) if isinstance(first, Mapping) else range(len(first))
    inner = [_combine([tree[key] for tree in trees], function, alike, f"{name}[{key}]") for key in keys]
    return dict(zip(keys, inner, strict=True)) if isinstance(first, Mapping) else tuple(inner)


def _structure(tree: Tree) -> str:
    """The keys and lengths of a tree, in words."""
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_structure(value)}" for key, value in tree.items()) + "}"
    return f"({', '.join(map(_structure, tree))})" if isinstance(tree, tuple) else "tensor"
