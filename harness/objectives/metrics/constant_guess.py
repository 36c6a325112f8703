"""What one output for all examples scores: a target within that shows nothing."""

import torch
from torch import Tensor

from harness.objectives.metrics.labels import kind_of
from harness.objectives.metrics.metric import Alone, Metric
from harness.objectives.metrics.scores import Scores, takes_probabilities
from harness.objectives.objective import IGNORED, Objective

CHUNK = 1 << 24  # numbers of the outputs at a time
RAREST = 1e-12  # share of a class that does not occur


def constant_guess(objective: Objective, metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    """`metric` of one output for all examples, in float64: by the frequency of classes or labels, or the mean.

    `outputs` [k, ...] are the model's for some examples, of which only the shape counts; `targets` [n, ...].
    """
    guess = _guess(outputs, targets, metric.name)
    guess = guess.sigmoid() if takes_probabilities(objective) else guess
    scores = Scores(objective, [metric], Alone())
    size = max(1, CHUNK // max(1, guess[0].numel()))
    for first in range(0, len(targets), size):
        scores.add(guess[first : first + size], targets[first : first + size])
    return scores.values(len(targets))[metric.name]


def _guess(outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    """[n, ...] of the outputs' shape: log frequencies of classes, log odds of labels, else mean or median."""
    shape = (len(targets), *outputs.shape[1:])
    kind = kind_of(outputs, targets[: len(outputs)])
    if kind == "multiclass":
        last = outputs.shape[:-1] == targets[: len(outputs)].shape
        classes = outputs.shape[-1 if last else 1]
        counted = targets[(targets != IGNORED) & (targets >= 0) & (targets < classes)]
        shares = torch.bincount(counted.long(), minlength=classes).double() / max(1, len(counted))
        logits = shares.clamp(min=RAREST).log()
        return (logits if last else logits.view(-1, *[1] * (len(shape) - 2))).expand(shape)
    values = targets.double()
    is_binary = bool(((values == 0) | (values == 1) | (values == IGNORED)).all()) and name not in ("mse", "mae", "r2")
    counts = (values != IGNORED).double() if is_binary or not targets.is_floating_point() else torch.ones_like(values)
    if is_binary:
        share = ((values * counts).sum(0) / counts.sum(0).clamp(min=1)).clamp(RAREST, 1 - RAREST)
        middle = share.logit()
    else:
        middle = values.median(0).values if name == "mae" else (values * counts).sum(0) / counts.sum(0).clamp(min=1)
    return middle.expand(targets.shape).reshape(shape)
