"""Outputs and targets that do not fit the loss, and losses that break P1, are one line before anything starts."""

import pytest
import torch
from torch import Tensor, nn

from harness.objectives.objective import objective_named
from harness.plan.errors import UserError
from harness.plan.loss_choice import check_loss

N10 = torch.randn(8, 10)
LABELS = torch.arange(8)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "words"),
    [
        ("cross_entropy", N10, LABELS[:, None], r"not outputs \[8, 10\] and targets \[8, 1\]: give targets without"),
        ("cross_entropy", N10, LABELS + 3, "targets hold class 10, but the 10 outputs are for classes 0 to 9"),
        ("cross_entropy", N10, LABELS - 1, "targets hold class -1: classes count from 0, and -100 marks"),
        ("cross_entropy", N10, (N10 > 0).long(), "use bce_with_logits where an example has several labels"),
        ("cross_entropy", N10, (N10 > 0).float(), "sum to .*: use bce_with_logits where an example has several labels"),
        (
            "cross_entropy",
            N10[:, :1],
            torch.rand(8),
            r"float targets \[8\]: give class indices as integers, or use mse",
        ),
        ("cross_entropy", N10[:, :1], torch.ones(8, 1), "of a single class is always 0"),
        ("cross_entropy", N10[:, :1], 0 * LABELS, "of a single class is always 0"),
        ("cross_entropy", N10, {"label": LABELS}, r"targets that are one tensor, not {label: \[8\]}"),
        ("nll", N10.abs(), LABELS, "nll needs log-probabilities"),
        ("mse", N10[:, :1], torch.rand(8), r"not outputs \[8, 1\] and targets \[8\]: give targets the shape \[8, 1\]"),
        ("mse", N10, LABELS, "use cross_entropy for class indices"),
        ("bce_with_logits", N10, 3 * torch.ones(8, 10), "bce_with_logits needs targets from 0 to 1"),
        ("model_output", torch.tensor(1.0), LABELS, "return losses without taking their mean"),
        ("model_losses", torch.tensor(1.0), LABELS, "the model returned one number for a batch"),
        ("fused_cross_entropy", N10, LABELS, r"not outputs \[8, 10\] and targets \[8\]"),
        ("fused_cross_entropy", (N10, torch.rand(5, 10)), LABELS, "targets hold class 7"),
        ("ctc", torch.randn(8, 2, 5), torch.ones(8, 3, dtype=torch.long), "3 symbols do not fit into the time steps"),
        ("ctc", N10, LABELS, r"ctc needs outputs \[n, time, classes\]"),
        (
            {"_target_": "torch.nn.CrossEntropyLoss", "weight": [1, 2], "reduction": "sum"},
            N10,
            LABELS,
            "2 class weights",
        ),
        ({"_target_": f"{__name__}.mean_of_batch"}, N10, LABELS, r"mean_of_batch returned one number for a batch"),
        ({"_target_": f"{__name__}.nothing"}, N10, LABELS, r"nothing must return the loss of every .*, not None"),
        ({"_target_": f"{__name__}.none_counts"}, N10, LABELS, "counted 0 elements"),
        ({"_target_": f"{__name__}.fewer"}, N10, LABELS, r"returned losses \[3\] for outputs \[8, 10\]"),
    ],
)
def test_what_does_not_fit_is_named_with_its_shapes(loss, outputs, targets, words):
    objective = objective_named(loss)
    with pytest.raises(UserError, match=words):
        objective.check(objective.read(outputs), targets)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        ("cross_entropy", N10, LABELS.int()),
        ("cross_entropy", N10, LABELS.masked_fill(LABELS > 5, -100)),
        ("cross_entropy", N10, torch.softmax(N10, 1).double()),
        ("cross_entropy", torch.randn(8, 3, 6, 7), torch.ones(8, 6, 7, dtype=torch.long)),
        ("cross_entropy", torch.randn(8, 3, 6), torch.ones(8, 3, dtype=torch.long)),
        ("bce_with_logits", N10, (N10 > 0).long()),
        ("mse", N10[:, 0], torch.rand(8, dtype=torch.float64)),
    ],
)
def test_what_fits_passes_and_is_measured(loss, outputs, targets):
    objective = objective_named(loss)
    objective.check(outputs, targets)
    total, count = objective.measure(outputs, targets)
    assert torch.isfinite(total / count)
    assert set(objective.scores(outputs, targets)) == set(objective.metrics)


class Mean(nn.Module):
    reduction = "mean"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"_target_": "torch.nn.MSELoss"},
            "MSELoss takes the mean of a micro-batch.*: none or reduction: sum",
        ),
        ({"_target_": "torch.nn.functional.l1_loss"}, "l1_loss takes the mean"),
        ({"_target_": "torch.nn.NLLLoss", "reduction": "mean"}, "NLLLoss takes the mean"),
        ({"_target_": f"{__name__}.Mean"}, "Mean takes the mean"),
        ({"_target_": f"{__name__}.Trained"}, "has parameters, which nothing would train: put them into the model"),
        ({"_target_": f"{__name__}.LABELS"}, "must be a class or a function"),
        ({"_target_": f"{__name__}.fewer", "gama": 1}, "has no argument 'gama'"),
        ({"_target_": "builtins.dict"}, "must give a callable of outputs and targets"),
    ],
)
def test_a_loss_that_cannot_be_divided_once_or_called_is_refused(spec, words):
    with pytest.raises(UserError, match=words):
        objective_named(spec)


def test_declarations_are_checked_and_taken_over():
    declared = objective_named({"_target_": f"{__name__}.fewer", "diverges_at": 7.5, "couples": "none"})
    assert (declared.diverges_at, declared.couples) == (7.5, "none")
    assert objective_named("mse").diverges_at is None
    with pytest.raises(UserError, match=r"workload\.loss\.couples must be one of none, batch, not 'all'"):
        check_loss({"_target_": "mine.loss", "couples": "all"})
    with pytest.raises(UserError, match=r"workload\.loss\.diverges_at must be a number"):
        check_loss({"_target_": "mine.loss", "diverges_at": "never"})


def mean_of_batch(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def nothing(outputs: Tensor, targets: Tensor) -> None:
    return None


def none_counts(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return outputs.sum(), 0


def fewer(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:3, 0]
