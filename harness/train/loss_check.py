"""Whether a loss fits the outputs and targets of a batch, and is a sum over examples as P1 needs; tried once."""

import torch

from harness.datasets.examples import Batch
from harness.datasets.tree import check_examples, count_examples, excerpt
from harness.plan.errors import UserError
from harness.plan.loss_choice import loss_name
from harness.train.learner import Learner
from harness.train.precision import HALF

TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2  # relative; of the loss of a batch against that of its halves


@torch.no_grad()
def check_loss(learner: Learner, batch: Batch) -> None:
    """Pass a training batch through model and loss; UserError where they do not fit each other."""
    examples = count_examples(batch.targets)
    check_examples(batch.inputs, examples, "inputs")
    check_examples(batch.targets, examples, "targets")
    learner.loss.check(learner.outputs(learner.model, batch), batch.targets)


@torch.no_grad()
def check_coupling(learner: Learner, batch: Batch) -> None:
    """Raises UserError where an example's loss depends on the others in the batch, dropout and the like aside, and the
    loss does not declare it."""
    examples = count_examples(batch.targets)
    if learner.loss.couples != "none" or examples < 2:
        return
    half = examples // 2
    parts = [Batch(*(excerpt(tree, *ends) for tree in batch)) for ends in ((0, half), (half, examples))]
    was_training = learner.model.training
    learner.model.eval()
    try:
        whole, again, apart = (_mean(learner, batches) for batches in ([batch], [batch], parts))
    finally:
        learner.model.train(was_training)
    is_random = whole != again
    tolerance = HALF_TOLERANCE if learner.precision.name in HALF else TOLERANCE
    if is_random or abs(whole - apart) <= tolerance * max(abs(whole), abs(apart)):
        return
    raise UserError(
        f"loss {loss_name(learner.settings.loss)} gives a batch {whole:.4g} and its two halves {apart:.4g}, so an "
        "example's loss depends on the others in its micro-batch: return the loss of each example, or give the loss "
        "by _target_ with couples: batch and set cluster.per_device_batch_size"
    )


def _mean(learner: Learner, batches: list[Batch]) -> float:
    measured = [learner.loss.measure(learner.outputs(learner.model, one), one.targets) for one in batches]
    count = sum(float(count) for _, count in measured)
    return sum(total.item() for total, _ in measured) / count if count else 0.0
