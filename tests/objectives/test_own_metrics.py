"""Metrics by `_target_`: torchmetrics on any number of ranks equal those in one process, and functions of one's own."""

import math
from typing import Any

import pytest
import torch
from test_metrics import LABELS, NUMBERS, SEVEN, SINGLE, TOKENS, on_ranks
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, classification, regression

from harness.objectives.metrics.listed import made_metric, metrics_of
from harness.objectives.metrics.own import declared_kind, own_metric
from harness.objectives.objective import objective_named
from harness.plan.errors import UserError
from harness.plan.metrics import check_metrics, metric_name


class MeanOfMeans(Metric):
    """What a rank's mean is does not say how many examples it is of."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean", torch.tensor(0.0), dist_reduce_fx="mean")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.mean = (outputs - targets).mean()

    def compute(self) -> Tensor:
        return self.mean


def within(outputs: Tensor, targets: Tensor, tolerance: float = 0.5) -> tuple[Tensor, int]:
    """Share of numbers that are predicted well enough."""
    return ((outputs - targets).abs() < tolerance).sum(), targets.numel()


def each_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean(1)


def mean_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def measured(spec: dict[str, Any]) -> Any:
    return metrics_of(objective_named("bce_with_logits"), "bce_with_logits", [spec])[-1]


def tensors(case: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(case[0]), torch.tensor(case[1])


def flat(case: Any) -> tuple[Tensor, Tensor]:
    outputs, targets = tensors(case)
    return outputs.flatten(0, -2), targets.flatten()


TORCHMETRICS = [
    ("classification.MulticlassF1Score", {"num_classes": 7}, tensors(SEVEN), tensors(SEVEN)),
    ("classification.MulticlassAUROC", {"num_classes": 7}, tensors(SEVEN), tensors(SEVEN)),
    ("classification.MulticlassAccuracy", {"num_classes": 7, "average": "micro"}, tensors(TOKENS), flat(TOKENS)),
    ("classification.BinaryAveragePrecision", {}, tensors(SINGLE), tensors(SINGLE)),
    (
        "classification.MultilabelAUROC",
        {"num_labels": 4},
        tensors(LABELS),
        (tensors(LABELS)[0], tensors(LABELS)[1].long()),
    ),
    ("regression.PearsonCorrCoef", {}, (tensors(NUMBERS)[0][:, 0], tensors(NUMBERS)[1][:, 0]), None),
    ("regression.R2Score", {}, (tensors(NUMBERS)[0][:, 0] - 1e3, tensors(NUMBERS)[1][:, 0] - 1e3), None),
]


@pytest.mark.parametrize(("name", "arguments", "given", "whole"), TORCHMETRICS)
def test_torchmetrics_on_ranks_equal_one_process(
    name: str, arguments: dict[str, Any], given: tuple[Tensor, Tensor], whole: Any
):
    family, cls = name.split(".")
    alone = getattr({"classification": classification, "regression": regression}[family], cls)(**arguments)
    alone.set_dtype(torch.float64)
    alone.update(*(whole or given))
    expected = float(alone.compute())
    metric = measured({"_target_": f"torchmetrics.{name}", **arguments})
    metric.check(*given)
    for world, batch in (
        (1, 100),
        (2, 7),
        (4, 3),
        *([] if "Pearson" in name else [(60, 5)]),
    ):  # Pearson's needs two each
        assert on_ranks(metric, *given, world, batch) == pytest.approx([expected] * world, rel=1e-9), (world, batch)


@pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef` will save all:UserWarning")
def test_a_metric_of_several_numbers_is_refused():
    with pytest.raises(UserError, match="must give one number, not 3 numbers: give it an average"):
        measured({"_target_": "torchmetrics.regression.SpearmanCorrCoef", "num_outputs": 3}).check(*tensors(NUMBERS))


@pytest.mark.parametrize("made", [MeanOfMeans(), MetricCollection([MeanMetric()])])
def test_metrics_that_ranks_cannot_reduce_exactly_are_refused(made: Any):
    with pytest.raises(UserError, match=r"not exact over ranks|wraps other metrics|must be a torchmetrics Metric"):
        own_metric("mine", made)


def test_functions_give_a_sum_and_a_count_or_a_value_for_each_example():
    outputs, targets = tensors(NUMBERS)
    share = measured({"_target_": f"{__name__}.within", "tolerance": 1.0})
    each = measured({"_target_": f"{__name__}.each_error", "name": "error_of_mine"})
    assert each.name == "error_of_mine"
    errors = (outputs - targets).abs()
    assert on_ranks(share, outputs, targets, 3, 4) == pytest.approx([float((errors < 1).double().mean())] * 3)
    assert on_ranks(each, outputs, targets, 3, 4) == pytest.approx([float(errors.mean())] * 3)
    with pytest.raises(
        UserError, match=r"must return \(sum, count\), or a tensor with a value for each example, not a mean"
    ):
        measured({"_target_": f"{__name__}.mean_error"}).check(outputs, targets)


@pytest.mark.parametrize(
    ("cls", "kind"),
    [
        ("classification.MulticlassF1Score", ("max", -math.inf, 1.0)),
        ("regression.MeanSquaredError", ("min", 0.0, math.inf)),
    ],
)
def test_torchmetrics_declare_direction_and_best_value(cls: str, kind: tuple[str, float, float]):
    arguments = {"num_classes": 3} if "Multi" in cls else {}
    assert declared_kind(made_metric({"_target_": f"torchmetrics.{cls}", **arguments})) == kind


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("torchmetrics.F1Score", "f1_score"),
        ("torchmetrics.classification.BinaryAUROC", "binary_auroc"),
        ("torchmetrics.R2Score", "r2_score"),
        ("mine.within", "within"),
    ],
)
def test_names_of_metrics_follow_from_their_class(target: str, name: str):
    assert metric_name({"_target_": target}) == name


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["f1"], "there is no metric 'f1'"),
        (["accuracy", "accuracy"], "two metrics are called accuracy"),
        ([{"_target_": "torchmetrics.AUROC"}], "{_target_: torchmetrics.AUROC, name: my_auroc}"),
        ([{"_target_": "torchmetrics.AUROC", "name": "a b"}], "must be letters, digits and _"),
    ],
)
def test_names_that_clash_are_refused(metrics: list[Any], said: str):
    with pytest.raises(UserError) as refused:
        check_metrics(metrics)
    assert said in str(refused.value)
