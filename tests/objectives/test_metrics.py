"""Every metric equals scikit-learn's on one process, on any number of ranks and for any evaluation batch size."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from harness.objectives.metrics.listed import metrics_of
from harness.objectives.metrics.metric import Metric
from harness.objectives.metrics.scores import Scores
from harness.objectives.objective import IGNORED, named_objectives, objective_named
from harness.plan.errors import UserError
from harness.plan.metrics import LOSS_METRICS, METRICS

GENERATOR = np.random.default_rng(0)


@dataclass
class Meeting:
    """Ranks as threads that hand each other their tensors."""

    size: int
    barrier: Barrier = field(init=False)
    given: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier, self.given = Barrier(self.size, timeout=20), [None] * self.size


class ThreadRank:
    """The collectives of World between threads; like it, they need equal shapes and dtypes on all ranks."""

    device = torch.device("cpu")

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size

    def gather(self, tensor: Tensor) -> Tensor:
        self.meeting.given[self.rank] = tensor
        self.meeting.barrier.wait()
        given = list(self.meeting.given)
        self.meeting.barrier.wait()
        assert len({(t.shape, t.dtype) for t in given}) == 1
        return torch.stack(given)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.gather(tensor.clone()).sum(0))

    def maximum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.gather(tensor.clone()).amax(0))


def on_ranks(
    metric: Metric, outputs: Tensor, targets: Tensor, world: int, batch: int, loss: str = "bce_with_logits"
) -> list[float]:
    """What every rank finds of the whole, each given its share in batches."""
    meeting = Meeting(world)

    def of_rank(rank: int) -> float:
        scores, stop = (
            Scores(objective_named(loss), [metric], ThreadRank(meeting, rank)),
            (rank + 1) * len(targets) // world,
        )
        for first in range(rank * len(targets) // world, stop, batch):
            last = min(first + batch, stop)
            scores.add(outputs[first:last], targets[first:last])
        return scores.values(len(targets))[metric.name]

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(of_rank, range(world)))


def measured(name: str, loss: str = "bce_with_logits") -> Metric:
    return next(metric for metric in metrics_of(objective_named(loss), loss, [name]) if metric.name == name)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).round(1)  # rounded, so that there are ties


def with_every_class(targets: np.ndarray, classes: int) -> np.ndarray:
    targets.reshape(-1)[:classes] = np.arange(classes)
    return targets


SEVEN = normal(53, 7), with_every_class(GENERATOR.integers(0, 7, 53), 7)
TWO = normal(53, 2), GENERATOR.integers(0, 2, 53)
SINGLE = normal(53), GENERATOR.integers(0, 2, 53)
COLUMN = normal(53, 1), GENERATOR.integers(0, 2, (53, 1)).astype(float)
LABELS = normal(53, 4), GENERATOR.integers(0, 2, (53, 4)).astype(float)
TOKENS = normal(11, 5, 7), with_every_class(GENERATOR.integers(0, 7, (11, 5)), 7)
MAPS = normal(5, 7, 3, 4), with_every_class(GENERATOR.integers(0, 7, (5, 3, 4)), 7)
NUMBERS = normal(53, 3) + 1e3, normal(53, 3) + 1e3
FLAT = normal(53, 1), normal(53)


def softmax(scores: np.ndarray) -> np.ndarray:
    return torch.tensor(scores).softmax(-1).numpy()


def rows(case: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Scores [m, classes] and classes [m] of tokens or maps."""
    scores, targets = case
    scores = np.moveaxis(scores, 1, -1) if scores.shape[:-1] != targets.shape else scores
    return scores.reshape(-1, scores.shape[-1]), targets.ravel()


def of_classes(score: Callable[..., Any], **how: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda scores, targets: score(*(targets, scores.argmax(-1)), **how)


def of_logits(score: Callable[..., Any], **how: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda scores, targets: score(targets, scores > 0, **how)


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    each = [sk.average_precision_score(targets == k, column) for k, column in enumerate(softmax(scores).T)]
    return float(np.mean(each))


BY_CLASS = {
    "accuracy": of_classes(sk.accuracy_score),
    "top5": lambda scores, targets: np.mean(
        [t in np.argsort(-s, kind="stable")[:5] for s, t in zip(scores, targets, strict=True)]
    ),
    "balanced_accuracy": of_classes(sk.balanced_accuracy_score),
    "f1_macro": of_classes(sk.f1_score, average="macro"),
    "f1_weighted": of_classes(sk.f1_score, average="weighted"),
    "mean_iou": of_classes(sk.jaccard_score, average="macro"),
    "auroc": lambda scores, targets: sk.roc_auc_score(targets, softmax(scores), multi_class="ovr"),
    "average_precision": mean_average_precision,
    "loss": lambda scores, targets: sk.log_loss(targets, softmax(scores)),
    "perplexity": lambda scores, targets: math.exp(sk.log_loss(targets, softmax(scores))),
    "bits_per_byte": lambda scores, targets: sk.log_loss(targets, softmax(scores)) / math.log(2),
}
BY_LOGIT = {
    "accuracy": of_logits(sk.accuracy_score),
    "balanced_accuracy": of_logits(sk.balanced_accuracy_score),
    "f1_macro": of_logits(sk.f1_score, average="macro"),
    "f1_weighted": of_logits(sk.f1_score, average="weighted"),
    "mean_iou": of_logits(sk.jaccard_score, average="macro"),
    "auroc": lambda scores, targets: sk.roc_auc_score(targets, scores),
    "average_precision": lambda scores, targets: sk.average_precision_score(targets, scores),
}
BY_LABEL = {
    "accuracy": lambda scores, targets: np.mean((scores > 0) == targets),
    "f1_macro": BY_LOGIT["f1_macro"],
    "f1_weighted": BY_LOGIT["f1_weighted"],
    "mean_iou": BY_LOGIT["mean_iou"],
    "auroc": lambda scores, targets: sk.roc_auc_score(targets, scores, average="macro"),
    "average_precision": lambda scores, targets: sk.average_precision_score(targets, scores, average="macro"),
}
OF_NUMBERS = {
    "mse": lambda values, targets: sk.mean_squared_error(targets, values),
    "mae": lambda values, targets: sk.mean_absolute_error(targets, values),
    "r2": lambda values, targets: sk.r2_score(targets, values),
}
OF_TWO = {
    "auroc": lambda scores, targets: sk.roc_auc_score(targets, scores[:, 1] - scores[:, 0]),
    "average_precision": lambda scores, targets: sk.average_precision_score(targets, scores[:, 1] - scores[:, 0]),
    "f1_macro": BY_CLASS["f1_macro"],
}
TABLE: dict[str, tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], dict[str, Any]]] = {
    "classes": (SEVEN, SEVEN, BY_CLASS),
    "two classes": (TWO, TWO, OF_TWO),
    "one logit": (SINGLE, SINGLE, BY_LOGIT),
    "a column of logits": (COLUMN, (COLUMN[0].ravel(), COLUMN[1].ravel()), BY_LOGIT),
    "labels": (LABELS, LABELS, BY_LABEL),
    "tokens": (TOKENS, rows(TOKENS), BY_CLASS),
    "maps": (MAPS, rows(MAPS), {key: BY_CLASS[key] for key in ("accuracy", "mean_iou", "f1_macro", "auroc")}),
    "columns of numbers": (NUMBERS, NUMBERS, OF_NUMBERS),
    "numbers": (FLAT, (FLAT[0].ravel(), FLAT[1]), OF_NUMBERS),
}


@pytest.mark.parametrize(
    ("shape", "world", "batch"),
    [
        *((shape, *split) for shape in TABLE for split in ((1, 1000), (1, 4), (2, 4), (4, 3))),
        *((shape, 54, 2) for shape in ("classes", "labels", "numbers")),  # a rank has no example
    ],
)
def test_metrics_equal_those_of_scikit_learn_on_any_ranks(shape: str, world: int, batch: int):
    (outputs, targets), flat, expected = TABLE[shape]
    loss = "cross_entropy" if expected in (BY_CLASS, OF_TWO) or shape == "maps" else "bce_with_logits"
    for name, of_sklearn in expected.items():
        metric = measured(name, loss)
        metric.check(torch.tensor(outputs), torch.tensor(targets))
        found = on_ranks(metric, torch.tensor(outputs), torch.tensor(targets), world, batch, loss)
        assert found == pytest.approx([float(of_sklearn(*flat))] * world, rel=1e-12), name


def test_the_metrics_of_a_loss_are_those_that_plan_knows():
    for name, make in named_objectives().items():
        assert make().metrics == ("loss", *LOSS_METRICS.get(name, ())), name


def test_the_table_has_every_metric():
    assert {name for _, _, expected in TABLE.values() for name in expected} == set(METRICS)


@pytest.mark.parametrize("name", BY_CLASS)
def test_ignored_targets_do_not_count(name: str):
    (outputs, targets), world = SEVEN, 3
    ignored = np.where(np.arange(53) % 5 == 4, IGNORED, targets)
    metric = measured(name, "cross_entropy")
    found = on_ranks(metric, torch.tensor(outputs), torch.tensor(ignored), world, 4, "cross_entropy")
    kept = ignored != IGNORED
    assert found == pytest.approx([float(BY_CLASS[name](outputs[kept], targets[kept]))] * world, rel=1e-12)


@pytest.mark.parametrize("name", BY_LABEL)
def test_ignored_labels_do_not_count(name: str):
    outputs, targets = (torch.tensor(part) for part in LABELS)
    ignored = targets.clone()
    ignored[::5, 1] = IGNORED
    changed = outputs.clone()
    changed[::5, 1] = -outputs[::5, 1]
    expected = on_ranks(measured(name), outputs, ignored, 1, 100)
    assert on_ranks(measured(name), changed, ignored, 2, 7) == pytest.approx(expected * 2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "case", "said"),
    [
        ("f1_macro", FLAT, "targets of 0 or 1 and one logit for each as outputs; here a target is"),
        ("accuracy", (normal(8, 3), GENERATOR.integers(0, 3, (8, 1))), "outputs are [8, 3] and integer targets [8, 1]"),
        ("auroc", NUMBERS, "a target is"),
        ("top5", TWO, "needs more than 5 classes, and the model has 2: use accuracy"),
        ("balanced_accuracy", LABELS, "class indices as targets"),
        ("mse", SEVEN, "one number as output for each number of the targets"),
        ("bits_per_byte", (normal(4, 600), np.arange(4)), "600 classes: use perplexity"),
        (
            "f1_macro",
            (normal(8, 3), np.array([0, 1, 2, 3, 0, 1, 2, 0])),
            "here the model has 3 classes, and a target is 3",
        ),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_in_one_line(name: str, case: Sequence[np.ndarray], said: str):
    outputs, targets = (torch.tensor(part) for part in case)
    with pytest.raises(UserError) as refused:
        measured(name).check(outputs, targets)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["auroc", "r2"])
def test_targets_of_one_value_give_no_score(name: str):
    outputs = torch.tensor(normal(8))
    assert on_ranks(measured(name), outputs, torch.ones(8, dtype=torch.float64), 1, 4) == pytest.approx(
        [torch.nan], nan_ok=True
    )
