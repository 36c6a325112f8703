"""One example of a user's data set as tensors, and several of them as a batch."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.datasets.tree import Tree, leaves
from harness.plan.errors import UserError


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


Padding = Mapping[str, float]  # by column, or `inputs` or `targets` of examples without columns: what fills the end


def collate(examples: Sequence[Tree], padding: Padding | None = None) -> Tree:
    """Examples of one structure as a batch; UserError where their shapes differ without `padding` for it."""
    return _combine(examples, lambda leaves, name: torch.stack(_alike(leaves, 0, name, padding)))


def join(batches: Sequence[Tree], padding: Padding | None = None, pinned: bool = False) -> Tree:
    """Batches one after another, in memory of their own; `pinned`: page-locked."""

    def joined(leaves: list[Tensor], name: str) -> Tensor:
        alike = _alike(leaves, 1, name, padding)
        shape = (sum(len(leaf) for leaf in alike), *alike[0].shape[1:])
        return torch.cat(alike, out=torch.empty(shape, dtype=alike[0].dtype, pin_memory=pinned))

    return _combine(batches, joined)


def _alike(leaves: list[Tensor], axis: int, name: str, padding: Padding | None) -> list[Tensor]:
    """The leaves with one shape from `axis` on, where an example begins: padded at the end of that axis if `padding`
    names their column. UserError where they differ otherwise."""
    kinds = {(leaf.shape[axis:], leaf.dtype) for leaf in leaves}
    if len(kinds) == 1:
        return leaves
    value = (padding or {}).get(_column(name))
    is_length_alone = len({(shape[1:], dtype) for shape, dtype in kinds}) == 1 and all(shape for shape, _ in kinds)
    if value is None or not is_length_alone:
        shown = " or ".join(sorted(f"{list(shape)} {dtype}" for shape, dtype in kinds)[:2])
        advice = "pad or crop them in a transform"
        if is_length_alone:
            advice = f"set dataset.padding.{_column(name)} to the value that fills the shorter ones"
        raise UserError(
            f"examples of different shapes or types cannot be one batch ({_what(name)} is {shown}): {advice}"
        )
    longest = max(shape[0] for shape, _ in kinds)

    def padded(leaf: Tensor) -> Tensor:
        missing = (*leaf.shape[:axis], longest - leaf.shape[axis], *leaf.shape[axis + 1 :])
        return torch.cat([leaf, leaf.new_full(missing, value)], axis)

    return [padded(leaf) for leaf in leaves]


def _column(name: str) -> str:
    """The column of a place like [0][input_ids]; `inputs` or `targets` for examples without columns."""
    last = name.rpartition("[")[2].rstrip("]")
    return {"[0]": "inputs", "[1]": "targets"}.get(name, last)


def digest(tree: Tree) -> str:
    """SHA-256 of a tree's places, shapes, dtypes and bytes."""
    sha = hashlib.sha256()
    for place, leaf in leaves(tree):
        sha.update(f"{place} {leaf.dtype} {tuple(leaf.shape)}".encode())
        sha.update(leaf.contiguous().flatten().view(torch.uint8).numpy().tobytes() if leaf.numel() else b"")
    return sha.hexdigest()


def _combine(trees: Sequence[Tree], function: Callable[[list[Tensor], str], Tensor], name: str = "") -> Tree:
    """One tree of the structure of all `trees`, each leaf `function` of theirs and of its place."""
    tensors = [tree for tree in trees if isinstance(tree, Tensor)]
    if len(tensors) == len(trees):
        return function(tensors, name)
    if len(parts := {_structure(tree) for tree in trees}) > 1:
        raise UserError(f"examples must all have the same parts, not {' or '.join(sorted(parts)[:2])}")
    first, parts_of = trees[0], [*map(_parts, trees)]
    keys = parts_of[0].keys()
    inner = [_combine([held[key] for held in parts_of], function, f"{name}[{key}]") for key in keys]
    return dict(zip(keys, inner, strict=True)) if isinstance(first, Mapping) else tuple(inner)


def _parts(tree: Tree) -> Mapping[Any, Tree]:
    return tree if isinstance(tree, Mapping) else dict(enumerate(tree))


def _structure(tree: Tree) -> str:
    """The keys and lengths of a tree, in words."""
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_structure(value)}" for key, value in tree.items()) + "}"
    return f"({', '.join(map(_structure, tree))})" if isinstance(tree, tuple) else "tensor"
