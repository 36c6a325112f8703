"""A batch's inputs and targets as trees: a tensor, or a mapping or tuple of trees, examples first in every tensor."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from harness.plan.errors import UserError

Tree: TypeAlias = Tensor | Mapping[str, "Tree"] | tuple["Tree", ...]


def map_tree(function: Callable[[Any], Any], tree: Any, leaf: Any = Tensor) -> Any:
    """The tree of `function` of each tensor, or of each of type `leaf`; mappings become dicts, and lists tuples."""
    if isinstance(tree, leaf):
        return function(tree)
    if isinstance(tree, Mapping):
        return {name: map_tree(function, value, leaf) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(map_tree(function, value, leaf) for value in tree)
    raise UserError(f"a batch may hold tensors in mappings and tuples, not {a(tree)}")


def leaves(tree: Any, leaf: Any = Tensor) -> Iterator[tuple[str, Any]]:
    """(place, tensor) of each; a place is like `.input_ids` or `[0].mask`, and empty for a single tensor."""
    if isinstance(tree, leaf):
        yield "", tree
    elif isinstance(tree, Mapping | tuple | list):
        named = isinstance(tree, Mapping)
        for key, value in tree.items() if named else enumerate(tree):
            yield from ((f".{key}{place}" if named else f"[{key}]{place}", part) for place, part in leaves(value, leaf))
    else:
        raise UserError(f"a batch may hold tensors in mappings and tuples, not {a(tree)}")


def count_examples(tree: Tree) -> int:
    """The length of the first tensor's first axis."""
    if isinstance(tree, Tensor):
        return len(tree)
    first = next(leaves(tree), None)
    if first is None:
        raise UserError("a batch holds no tensor: its inputs and its targets need at least one each")
    return len(first[1])


def check_examples(tree: Tree, examples: int, name: str) -> None:
    """Raises UserError unless the first axis of every tensor has `examples`; `name`: inputs or targets."""
    count_examples(tree)
    for place, leaf in leaves(tree):
        if leaf.dim() == 0 or len(leaf) != examples:
            raise UserError(
                f"{name}{place} of {examples} examples has the shape {list(leaf.shape)}: its first axis must be the "
                "examples"
            )


def take(tree: Tree, index: Tensor) -> Tree:
    """The examples at `index` (int64 [n], on the device of the tree)."""
    return map_tree(lambda leaf: leaf.index_select(0, index), tree)


def excerpt(tree: Tree, start: int, stop: int) -> Any:
    """The examples from `start` to `stop`."""
    return map_tree(lambda leaf: leaf[start:stop], tree)


def floats_in(tree: Tree, dtype: torch.dtype) -> Tree:
    """The tree with its floating tensors in `dtype`."""
    return map_tree(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def to_device(tree: Tree, device: torch.device, non_blocking: bool = False) -> Tree:
    """`non_blocking`: only for copies to a device, from page-locked memory."""
    return map_tree(lambda leaf: leaf.to(device, non_blocking=non_blocking), tree)


def call(function: Callable[..., Any], inputs: Tree, **more: Any) -> Any:
    """f(x) of a tensor, f(**x) of a mapping, f(*x) of a tuple; `more`: further keyword arguments."""
    if isinstance(inputs, Tensor):
        return function(inputs, **more)
    return function(**inputs, **more) if isinstance(inputs, Mapping) else function(*inputs, **more)


def a(value: Any) -> str:
    """The type of a value in words: `a dict`, `None`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
