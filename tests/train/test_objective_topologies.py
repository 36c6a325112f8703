"""P1 for every loss and every form of batch: one trajectory, however ranks and accumulation split it."""

import math
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import pytest
import torch
from processes import on_ranks
from small_trials import SGD, WITHOUT_BATCH_NORM, topology
from torch import Tensor, nn
from torch.nn import functional

from harness.datasets.examples import Splits, TensorExamples
from harness.datasets.ragged import Ragged, RaggedExamples
from harness.objectives.objective import IGNORED
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Settings
from harness.train.evaluation import Evaluator
from harness.train.frozen_noise import _of_examples, measure_frozen
from harness.train.learner import Learner
from harness.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
LONG = pytest.mark.long
EXAMPLES, BATCH, UPDATES, CLASSES = 96, 16, 4, 5


def focal(outputs: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Losses of each example, [n]."""
    log_p = functional.log_softmax(outputs, -1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p


def weighted(outputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean over examples with weights of their own."""
    losses = functional.cross_entropy(outputs, targets["label"], reduction="none")
    return (losses * targets["weight"]).sum(), targets["weight"].sum()


# name -> (the loss, what targets it needs)
LOSSES: dict[str, tuple[Any, str]] = {
    "cross_entropy": ("cross_entropy", "labels"),
    "some ignored": ("cross_entropy", "some"),
    "probabilities": ("cross_entropy", "probabilities"),
    "class weights": (
        {
            "_target_": "torch.nn.CrossEntropyLoss",
            "weight": [0.1, 0.2, 0.3, 0.4, 2.0],
            "label_smoothing": 0.1,
            "reduction": "sum",
        },
        "some",
    ),
    "nll": ("nll", "labels"),
    "bce": ({"_target_": "torch.nn.BCEWithLogitsLoss", "pos_weight": [1, 2, 3, 4, 5], "reduction": "none"}, "yes_no"),
    "mse": ("mse", "numbers"),
    "l1": ("l1", "numbers"),
    "huber": ({"_target_": "torch.nn.functional.huber_loss", "delta": 0.3, "reduction": "sum"}, "numbers"),
    "ctc": ("ctc", "symbols"),
    "model_losses": ("model_losses", "some"),
    "fused": ({"_target_": "harness.objectives.fused_cross_entropy.FusedCrossEntropy", "chunk_values": 35}, "some"),
    "focal": ({"_target_": f"{__name__}.focal", "gamma": 1.5}, "labels"),
    "weighted": ({"_target_": f"{__name__}.weighted"}, "weighted"),
}


class Made:
    """Data of one form, with targets of one kind."""

    def __init__(self, form: str, kind: str) -> None:
        self.form, self.kind = form, kind

    def load(self) -> Splits:
        make = torch.Generator().manual_seed(0)
        x = torch.randn(EXAMPLES, 6, generator=make, dtype=torch.float64)
        labels = torch.randint(CLASSES, (EXAMPLES,), generator=make)
        unlabelled = torch.rand(EXAMPLES, generator=make) < 0.4
        symbols = torch.randint(1, CLASSES, (EXAMPLES, 2), generator=make)
        targets: dict[str, Any] = {
            "labels": labels,
            "some": labels.masked_fill(unlabelled, IGNORED),
            "probabilities": torch.softmax(x[:, :CLASSES], 1),
            "yes_no": (torch.rand(EXAMPLES, CLASSES, generator=make) < 0.5).long(),
            "numbers": torch.randn(EXAMPLES, CLASSES, generator=make, dtype=torch.float64),
            "symbols": symbols.masked_fill(unlabelled[:, None] & torch.tensor([False, True]), IGNORED),
            "weighted": {"label": labels, "weight": torch.rand(EXAMPLES, generator=make, dtype=torch.float64)},
        }
        chosen = targets[self.kind]
        if self.form == "ragged":
            lengths = torch.randint(1, 7, (EXAMPLES,), generator=make).tolist()
            pieces = Ragged.of([row[:length, None] for row, length in zip(x, lengths, strict=True)])
            examples = RaggedExamples({"x": pieces}, chosen, mask="mask")
            return Splits(examples, examples, examples, "")
        inputs: Any = {
            "tensor": x,
            "dict": {"x": x},
            "tuple": (x[:, :2], x[:, 2:]),
            "nested": {"parts": (x[:, :2], {"rest": x[:, 2:]})},
        }[self.form]
        examples = TensorExamples(inputs, chosen)
        return Splits(examples, examples, examples, "")


class Reads(nn.Module):
    """A model of any form of inputs, with the outputs that a loss needs."""

    def __init__(self, form: str, loss: str) -> None:
        super().__init__()
        self.form, self.loss = form, loss
        self.lift = nn.Linear(6, 8)
        self.head = nn.Linear(8, CLASSES * (7 if loss == "ctc" else 1))

    def forward(self, *parts: Any, targets: Any = None, mask: Any = None, **named: Any) -> Any:
        if self.form == "ragged":
            x = functional.pad(named["x"][..., 0] * mask, (0, 6 - mask.shape[1]))
        elif self.form == "nested":
            x = torch.cat([named["parts"][0], named["parts"][1]["rest"]], 1)
        else:
            x = torch.cat([*parts, *named.values()], 1)
        hidden = torch.tanh(self.lift(x))
        if self.loss == "fused":
            return hidden, self.head.weight, self.head.bias
        logits = self.head(hidden)
        if self.loss == "ctc":
            return logits.unflatten(1, (7, CLASSES))
        if self.loss == "nll":
            return functional.log_softmax(logits, 1)
        if self.loss == "model_losses":
            return functional.cross_entropy(logits, targets, reduction="sum"), (targets != IGNORED).sum()
        return logits


def settings_of(form: str, name: str) -> Settings:
    loss, kind = LOSSES[name]
    return replace(
        WITHOUT_BATCH_NORM,
        dataset={"_target_": f"{__name__}.Made", "form": form, "kind": kind},
        model={"_target_": f"{__name__}.Reads", "form": form, "loss": name},
        loss=loss,
        optimizer={**SGD, "lr": 0.05},
        total_batch_size=BATCH,
        train_examples=EXAMPLES,
    )


def learner(world: World, settings: Settings, accumulation: int, precision: str = "float64") -> Learner:
    splits = Made(settings.dataset["form"], settings.dataset["kind"]).load()
    where = topology(settings, world.size, accumulation, precision)
    dtype = torch.float64 if precision == "float64" else torch.float32
    examples = splits.train.to(world.device, dtype)
    return Learner(settings, 0, where, world, Splits(examples, examples, examples, ""))


def trajectory(world: World, settings: Settings, accumulation: int, precision: str = "float64") -> list[float]:
    """The mean loss of every update, then the sums of all weights, then the scores of an evaluation."""
    made = learner(world, settings, accumulation, precision)
    losses = [world.sum(made.update(step, drawn)).item() for step, drawn in made.micro_batches(0, UPDATES)]
    weights = [p.detach().double().abs().sum().item() for p in made.model.parameters()]
    scores = Evaluator(made, 7).validation_scores()["raw"]
    return [*losses, *weights, *scores.values()]


def all_trajectories(world: World, cases: list[Settings], accumulation: int) -> list[list[float]]:
    return [trajectory(world, settings, accumulation) for settings in cases]


# Every loss on tensors and on ragged sequences, and in one of the other forms.
CASES = [
    settings_of(form, name)
    for number, name in enumerate(LOSSES)
    for form in ("tensor", ("dict", "tuple", "nested")[number % 3], "ragged")
]
SOME = [settings_of("nested", "class weights"), settings_of("ragged", "some ignored"), settings_of("dict", "weighted")]


@pytest.mark.parametrize("cases", [SOME, pytest.param(CASES, marks=LONG)], ids=["some", "all"])
def test_accumulation_changes_no_loss_in_any_form_of_batch(cases):
    one, two, four = (all_trajectories(ALONE, cases, accumulation) for accumulation in (1, 2, 4))
    for settings, expected, *others in zip(cases, one, two, four, strict=True):
        assert all(map(math.isfinite, expected))
        for found in others:
            assert found == pytest.approx(expected, rel=1e-10, abs=1e-10), (settings.dataset, settings.loss)


@LONG
@pytest.mark.parametrize(("ranks", "accumulation"), [(2, 1), (2, 2), (4, 1)])
def test_ranks_change_no_loss_in_any_form_of_batch(ranks, accumulation):
    expected = all_trajectories(ALONE, CASES, 1)
    for found in on_ranks(ranks, all_trajectories, CASES, accumulation):
        for settings, one, other in zip(CASES, expected, found, strict=True):
            assert other == pytest.approx(one, rel=1e-10, abs=1e-10), (settings.dataset, settings.loss)


@LONG
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bf16", 0.05)])
def test_every_loss_is_the_same_to_rounding_in_every_precision(precision, tolerance):
    for name, form in zip(LOSSES, cycle(("ragged", "nested")), strict=False):
        settings = settings_of(form, name)
        expected = trajectory(ALONE, settings, 1)[:UPDATES]
        found = trajectory(ALONE, settings, 4, precision)[:UPDATES]
        assert found == pytest.approx(expected, rel=tolerance), (settings.dataset, settings.loss)


def by_hand(name: str) -> float:
    """torch's own mean over the first batch."""
    settings = settings_of("tensor", name)
    made = learner(ALONE, settings, 1)
    batch = made.splits.train.batch(made.stream.positions(0, BATCH))
    outputs, targets = made.model(batch.inputs), batch.targets
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0], dtype=torch.float64)
    pos_weight = torch.arange(1, 6, dtype=torch.float64)
    loss = {
        "cross_entropy": lambda: functional.cross_entropy(outputs, targets),
        "some ignored": lambda: functional.cross_entropy(outputs, targets),
        "probabilities": lambda: functional.cross_entropy(outputs, targets),
        "class weights": lambda: functional.cross_entropy(outputs, targets, weight, label_smoothing=0.1),
        "nll": lambda: functional.nll_loss(outputs, targets),
        "bce": lambda: functional.binary_cross_entropy_with_logits(outputs, targets.double(), pos_weight=pos_weight),
        "mse": lambda: functional.mse_loss(outputs, targets),
        "l1": lambda: functional.l1_loss(outputs, targets),
        "huber": lambda: functional.huber_loss(outputs, targets, delta=0.3),
        "ctc": lambda: functional.ctc_loss(
            outputs.log_softmax(2).transpose(0, 1),
            targets.clamp(min=0),
            torch.full((BATCH,), 7),
            (targets != IGNORED).sum(1),
        ),
        "fused": lambda: functional.cross_entropy(outputs[0] @ outputs[1].T + outputs[2], targets),
        "focal": lambda: focal(outputs, targets, 1.5).mean(),
    }[name]()
    return loss.item()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("model_losses", "weighted")])
def test_the_loss_of_an_update_is_torchs_mean(name):
    made = learner(ALONE, settings_of("tensor", name), 4)
    step, drawn = next(made.micro_batches(0, 1))
    assert made.update(step, drawn).item() == pytest.approx(by_hand(name), rel=1e-12)


class TwoViews(nn.Module):
    """Two projections of the inputs, which a contrastive loss compares."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


CONTRASTIVE = replace(
    settings_of("tensor", "cross_entropy"),
    model={"_target_": f"{__name__}.TwoViews"},
    loss={"_target_": "harness.objectives.contrastive.Contrastive", "couples": "batch", "temperature": 0.5},
    coupled_examples=4,
)


def test_a_coupled_loss_depends_on_its_micro_batch():
    four, sixteen = trajectory(ALONE, CONTRASTIVE, 4), trajectory(ALONE, replace(CONTRASTIVE, coupled_examples=16), 1)
    assert four != pytest.approx(sixteen, rel=1e-2)


@LONG
def test_a_coupled_loss_is_the_same_on_any_ranks_with_the_same_micro_batch_and_so_is_its_evaluation():
    expected = trajectory(ALONE, CONTRASTIVE, 4)
    for ranks, accumulation in ((2, 2), (4, 1)):
        for found in on_ranks(ranks, trajectory, CONTRASTIVE, accumulation):
            assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


@dataclass
class Output:
    """As transformers returns it."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()


class Masked(nn.Module):
    """A classifier of padded sequences in the manner of transformers; torch.func cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(1, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, mask: Tensor) -> Output:
        if bool(mask.all()):  # depends on the data
            return Output(self.head(torch.tanh(self.lift(x)).mean(1)))
        hidden = torch.tanh(self.lift(x)) * mask[..., None]
        return Output(self.head(hidden.sum(1) / mask.sum(1, keepdim=True)))


def test_the_noise_of_a_model_that_torch_func_cannot_follow_is_measured_example_by_example():
    ragged = replace(settings_of("ragged", "cross_entropy"), model={"_target_": f"{__name__}.Masked"})
    plan = NoiseScale(frozen_every_examples=ragged.evaluate_every_examples, frozen_units=16)
    made = learner(ALONE, replace(ragged, noise_scale=plan), 1)
    made.seed_random(1)
    measured = measure_frozen(made, 3)
    assert not made.vmaps
    again = measure_frozen(made, 3)
    assert measured == again
    batch = made.splits.train.batch(torch.arange(3))
    count, gradients = _of_examples(made, batch, 3)
    made.measure(made.model, batch)[0].backward()
    whole = torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])
    assert int(count) == 3
    torch.testing.assert_close(gradients.sum(0), whole)
