"""Measures the gradient noise at frozen weights: products of gradients of independently drawn examples.

A draw is one example, whose exact gradient comes from torch.func, many at a time. Batch norm makes the examples of a
group depend on each other, so there a draw is one ghost group. Draws are without replacement from a training set, and
new examples of an endless stream. Weights, random state and statistics are left unchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.datasets.examples import Batch
from harness.datasets.tree import Tree, count_examples, excerpt, map_tree
from harness.plan.gradient_noise import FROZEN_BLOCKS, two_batch
from harness.train.batch_norm import batch_norms
from harness.train.learner import Learner
from harness.train.noise_meter import METRICS, preconditioner
from harness.train.seeds import derive_seed

CHUNK_VALUES = 1 << 24  # values of per-example gradients held at a time
CHUNK_EXAMPLES = 64
PRODUCT_COLUMNS = 1 << 20


class GradientTree:
    """Squared norms of the sums of 1, 2, 4, ... consecutive vectors, which are added one by one."""

    def __init__(self, share: int, device: torch.device) -> None:
        depth = (share & -share).bit_length()  # 2^j draws for every 2^j that divides a block
        self.levels = torch.zeros(depth, dtype=torch.float64, device=device)
        self._waiting: dict[int, Tensor] = {}  # sums of 2^j vectors without a partner yet

    def add(self, vector: Tensor) -> None:
        level = 0
        while level < len(self.levels):
            self.levels[level] += _square(vector)
            if (partner := self._waiting.pop(level, None)) is None:
                self._waiting[level] = vector
                return
            vector, level = partner + vector, level + 1


def measure_noise(learner: Learner, start: int, step: int) -> dict[str, Any]:
    """The gradient noise since the evaluation at `start`, in training and at frozen weights, for the row of the
    evaluation at `step`; empty where nothing is measured (see plan.gradient_noise)."""
    every, size = learner.settings.noise_scale.frozen_every_examples, learner.batch.total_batch_size
    parts = [] if learner.noise is None else [learner.noise.read()]
    if every and step * size // every > start * size // every:
        parts.append(measure_frozen(learner, step))
    row: dict[str, Any] = {}
    for part in parts:
        row = {key: row.get(key, {}) | values for key, values in part.items()}
    return row


@torch.no_grad()
def measure_frozen(learner: Learner, step: int) -> dict[str, Any]:
    """Rows as harness.statistics.noise_scale reads them; apart from dropout the same for any number of ranks."""
    plan, world, group = learner.settings.noise_scale, learner.world, learner.group
    drawn = _draw(learner, step, plan.frozen_units * group).view(FROZEN_BLOCKS, -1, group)
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    scales = preconditioner(learner.optimizer, parameters)
    flat = [None] if scales is None else [None, torch.cat([scale.flatten() for scale in scales])]
    size = sum(p.numel() for p in parameters)
    make = {"dtype": parameters[0].dtype, "device": world.device}
    sums = [torch.zeros(FROZEN_BLOCKS, size, **make) for _ in flat]
    squares = torch.zeros(len(flat), FROZEN_BLOCKS, dtype=torch.float64, device=world.device)
    trees = [GradientTree(drawn.shape[1], world.device) for _ in flat]
    counted = torch.zeros((), dtype=torch.float64, device=world.device)
    learner.seed_random(_random_seed(learner, step))
    with _as_in_training(learner):
        for block in range(*world.share(FROZEN_BLOCKS)):
            for count, gradients in _gradients(learner, drawn[block], step):
                counted += count
                for metric, scale in enumerate(flat):
                    for gradient in gradients if scale is None else gradients * scale:
                        sums[metric][block] += gradient
                        squares[metric, block] += _square(gradient)
                        trees[metric].add(gradient)
    # Sums over counted elements (e.g. tokens) become means over them.
    factor = (drawn.numel() / world.sum(counted)).square()
    population = None if learner.splits.endless else learner.settings.train_examples
    sizes = {"unit_examples": group, "units": plan.frozen_units, "population": population}
    values: dict[str, float | None] = {}
    parts: dict[str, Any] = {}
    for name, vectors, square, tree in zip(METRICS, sums, squares, trees, strict=False):
        products = _products(world.sum(vectors)) * factor
        own, levels = world.sum(square) * factor, world.sum(tree.levels) * factor
        parts[name] = {"squares": own.tolist(), "products": products.tolist(), "levels": levels.tolist()}
        means = own.sum().item() / plan.frozen_units, products.sum().item() / plan.frozen_units**2
        moments = two_batch(group, plan.frozen_units * group, *means, population)
        values["frozen" if name == "plain" else "frozen_preconditioned"] = moments.noise_scale
    return {"noise_scale": values, "noise_sums": {"frozen": {**sizes, **parts}}}


def _draw(learner: Learner, step: int, count: int) -> Tensor:
    """Indices [count] on the device, a function of (seed, step); independent of the draws of training."""
    seed = derive_seed(learner.seed, "noise", step)
    if learner.splits.endless:
        drawn = torch.arange(count) + (seed >> 16)
    else:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(learner.settings.train_examples, generator=generator)[:count]
    return drawn.to(learner.world.device)


def _gradients(learner: Learner, drawn: Tensor, step: int) -> Iterator[tuple[int | Tensor, Tensor]]:
    """(counted elements, mean gradients [draws, size]) of `drawn` [units, examples of a unit], in chunks."""
    size = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
    together = 1 if batch_norms(learner.model) else max(1, min(CHUNK_EXAMPLES, CHUNK_VALUES // size))
    for units in drawn.split(together):
        index = units.flatten()
        epoch = torch.full_like(index, step)
        batch = learner.augmented(learner.loader.draw(index, epoch), index, epoch)
        yield (_of_group if batch_norms(learner.model) else _of_examples)(learner, batch, step)


def _of_group(learner: Learner, batch: Batch, step: int) -> tuple[int | Tensor, Tensor]:
    """The mean gradient [1, size] of one batch-norm group."""
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    with torch.enable_grad():
        total, count = learner.train_loss.measure(learner.outputs_of(learner.model, batch), batch.targets)
        loss = total / count_examples(batch.targets)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return count, torch.cat([gradient.flatten() for gradient in gradients])[None]


def _of_examples(learner: Learner, batch: Batch, step: int) -> tuple[int | Tensor, Tensor]:
    """The exact gradient of each example, [examples, size]; one by one where torch.func cannot follow the model."""
    if learner.vmaps:
        try:
            return _together(learner, batch)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            learner.vmaps = False
            learner.seed_random(_random_seed(learner, step))  # as if it had not been tried
    alone = (Batch(*(excerpt(tree, i, i + 1) for tree in batch)) for i in range(count_examples(batch.targets)))
    parts = [_of_group(learner, one, step) for one in alone]
    counts, gradients = zip(*parts, strict=True)
    return sum(counts), torch.cat(gradients)


def _together(learner: Learner, batch: Batch) -> tuple[int | Tensor, Tensor]:
    model = learner.model
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], inputs: Tree, targets: Tree) -> tuple[Tensor, Tensor]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(model, {**parameters, **fixed}, args, kwargs)

        one = Batch(*(map_tree(lambda leaf: leaf[None], tree) for tree in (inputs, targets)))
        total, count = learner.train_loss.measure(learner.outputs_of(call, one), one.targets)
        return total, torch.as_tensor(count, device=total.device)

    gradient = torch.func.grad(loss, has_aux=True)
    each = torch.func.vmap(gradient, in_dims=(None, 0, 0), randomness="different")
    with sdpa_kernel(SDPBackend.MATH):  # under vmap the fused attention kernels run one by one, each with a warning
        gradients, counts = each(trained, *(map_tree(lambda leaf: leaf, tree) for tree in batch))
    return counts.sum(), torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)


def _random_seed(learner: Learner, step: int) -> int:
    return derive_seed(learner.seed, "noise", step, learner.world.rank)


@contextmanager
def _as_in_training(learner: Learner) -> Iterator[None]:
    """The model in training mode, without a trace in its running statistics and other buffers."""
    model, buffers = learner.model, learner.buffers.copy()
    collecting = [layer for layer in batch_norms(model) if layer.collecting]
    was_training = model.training
    model.train()
    for layer in collecting:
        layer.collecting = False
    try:
        yield
    finally:
        for layer in collecting:
            layer.collecting = True
        model.train(was_training)
        learner.buffers.load(buffers)


def _products(vectors: Tensor) -> Tensor:
    """Inner products of all pairs of rows, in float64 whatever their dtype, because differences of them are taken."""
    parts = (part.double() for part in vectors.split(PRODUCT_COLUMNS, dim=1))
    return torch.stack([part @ part.T for part in parts]).sum(0)


def _square(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector).double().square()
