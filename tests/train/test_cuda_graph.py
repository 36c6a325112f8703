"""P8, P9, P20: an update recorded once and replayed has the bits of the same update made anew, and can be resumed."""

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_trials import GHOST, MLP, SGD, SMALL, WITHOUT_BATCH_NORM, evaluations, run, task, topology
from tape import Tape
from torch import nn
from torch.utils._pytree import tree_map

from harness.datasets.digits import Digits
from harness.optimizers.device_step import COUNTED
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.settings import Averaging, Settings
from harness.train import learner as learner_module
from harness.train.averaging import AveragedModel
from harness.train.learner import Learner
from harness.train.learner_state import continue_from, restore, state_of
from harness.train.trainer import Execution
from harness.train.worker import Worker
from harness.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
UPDATES = 9
DECAYED = {"weight_decay": 0.01, "lr": 0.01}
OPTIMIZERS = {
    "SGD": {"lr": 0.1},
    "SGD with all options": {**SGD, "weight_decay": 0.01, "nesterov": True},
    "Adam": {**DECAYED, "amsgrad": True},
    "AdamW": DECAYED,
    "NAdam": DECAYED,
    "RMSprop": {**DECAYED, "momentum": 0.9, "centered": True},
    "Adagrad": {**DECAYED, "lr_decay": 0.01},
    "Adadelta": {**DECAYED, "lr": 1.0},
    "lars.LARS": {**DECAYED, "lr": 1.0},
    "lamb.LAMB": DECAYED,
    "muon.Muon": DECAYED,
}
ONE_CYCLE = {
    "_target_": "harness.plan.horizons.OneCycle",
    "horizon": 12,
    "rise": 4,
    "max_momentum": 0.9,
    "min_momentum": 0.6,
}
DEEP = {**MLP, "widths": [16, 16], "dropout": 0.5}


@pytest.fixture(autouse=True)
def one_thread(worker: Worker) -> None:
    """A worker sets torch's threads."""


def optimizer(name: str) -> dict[str, Any]:
    kind = name.partition(" ")[0]
    return {"_target_": f"harness.optimizers.{kind}" if "." in kind else f"torch.optim.{kind}", **OPTIMIZERS[name]}


# Every optimizer, and between them schedules, accumulation, averaging, clipping, dropout and batch norm.
CASES = {
    **{
        name: (replace(WITHOUT_BATCH_NORM, model=DEEP, optimizer=optimizer(name), clip_norm=1.0), 1 + 3 * (number % 2))
        for number, name in enumerate(OPTIMIZERS)
    },
    "moving momentum": (replace(SMALL, schedule=ONE_CYCLE), 2),
    "moving beta": (replace(SMALL, schedule=ONE_CYCLE, optimizer=optimizer("AdamW")), 1),
    "no average": (replace(SMALL, averaging=Averaging()), 4),
    "per device": (replace(SMALL, batch_norm=replace(GHOST, span="per_device", span_examples=16)), 4),
    "counts that differ": (replace(WITHOUT_BATCH_NORM, loss={"_target_": f"{__name__}.Weighted"}), 4),
}


class Weighted(nn.Module):
    """A mean over targets that weigh differently, so that the count is on the device."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none") * (1 + targets % 3)


def learner(settings: Settings, accumulation: int, speed: Speed) -> Learner:
    splits = Digits(256, 70, 50).load()
    splits = replace(splits, train=splits.train.to(ALONE.device, torch.float64))
    where = topology(settings, accumulation=accumulation, precision="float64")
    return Learner(settings, 0, where, ALONE, splits, speed)


def trained(made: Learner, updates: int = UPDATES) -> list[Any]:
    """Losses, diagnostics and everything a checkpoint holds, with a restart from one in between."""
    losses, rows = [], []
    for step, drawn in made.micro_batches(0, updates):
        losses.append(made.update(step, drawn, last=step % 3 == 2).item())
        if step % 3 == 2:
            rows.append(made.diagnostics.read())
        if step == 4:
            restore(made, copy.deepcopy(state_of(made)))
    return [losses, rows, state_of(made)]


def bits(value: Any) -> Any:
    """The same with tensors as lists, so that equality is equality of every bit."""
    return tree_map(lambda leaf: leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf, value)


def replayed(monkeypatch: pytest.MonkeyPatch, settings: Settings, accumulation: int) -> Learner:
    monkeypatch.setattr(learner_module, "recorder", lambda device: Tape)
    made = learner(settings, accumulation, Speed(cuda_graph=True))
    made.warm_up()
    return made


FAST = ("AdamW", "moving momentum", "counts that differ")
MARKED = [
    pytest.param(*case, id=name, marks=[] if name in FAST else [pytest.mark.long]) for name, case in CASES.items()
]


@pytest.mark.parametrize(("settings", "accumulation"), MARKED)
def test_replays_have_the_bits_of_the_same_update_made_anew(monkeypatch, settings, accumulation):
    found = trained(replayed(monkeypatch, settings, accumulation))
    expected = trained(learner(settings, accumulation, Speed(cuda_graph=True)))
    assert bits(found) == bits(expected)
    plain = trained(learner(settings, accumulation, Speed()))
    assert found[0] == pytest.approx(plain[0], rel=1e-8)
    assert set(found[2]["optimizer"]["state"]) == set(plain[2]["optimizer"]["state"])


# -- state stays in its place --------------------------------------------------------------------------------------


def places(made: Learner) -> list[int]:
    assert isinstance(made.average, AveragedModel)
    values = [*made.model.parameters(), *made.model.buffers(), *made.average.module.parameters()]
    values += [v for state in made.optimizer.state.values() for k, v in state.items() if k not in COUNTED]
    return [value.data_ptr() for value in values]


@pytest.mark.parametrize("name", ["AdamW", "lamb.LAMB"])
def test_restoring_and_branching_move_nothing_that_a_recording_refers_to(name):
    settings = replace(SMALL, optimizer=optimizer(name))
    made = learner(settings, 1, Speed(cuda_graph=True))
    made.warm_up()
    before = places(made)
    assert len(before) > 3 * len(list(made.model.parameters()))
    step, drawn = next(made.micro_batches(0, 1))
    made.update(step, drawn)
    for load in (restore, lambda learner, state: continue_from(learner, state, 64)):
        load(made, copy.deepcopy(state_of(made)))
        assert places(made) == before


@pytest.mark.parametrize("first", [Execution(cuda_graph=True), Execution(fused=True), Execution()])
def test_a_trial_resumes_with_another_implementation_of_its_optimizer(worker, tmp_path, first):
    settings = replace(WITHOUT_BATCH_NORM, optimizer=optimizer("AdamW"))
    expected = evaluations(run(worker, task(tmp_path / "whole", settings, precision="float64")))
    for number, second in enumerate((Execution(cuda_graph=True), Execution(fused=True), Execution())):
        order = task(
            tmp_path / str(number), settings, execution=replace(first, checkpoint_every_s=0), precision="float64"
        )
        worker.start(order)
        rows = evaluations(worker.advance(0.0))
        worker.stop()
        rows += evaluations(run(worker, replace(order, execution=second)))
        assert len(rows) == len(expected)
        losses = [[row["train_loss"] for row in of] for of in (rows, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)


# -- what cannot be recorded ---------------------------------------------------------------------------------------


class Unrecordable(nn.Module):
    """A model that does `what` in its forward pass."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.head = nn.Linear(64, 10)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.what == "reads":
            x = x * x.mean().item()
        elif self.what == "replaces":
            self.calls = self.calls + 1
        elif self.what == "draws":
            x = x * random.random()
        return self.head(x.flatten(1))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("reads", "an update of Unrecordable cannot be recorded .*use cluster.cuda_graph=false"),
        ("replaces", "Unrecordable replaces its calls in forward.*in place"),
        ("draws", "Unrecordable draws random numbers on the host"),
    ],
)
def test_what_a_recording_would_repeat_is_refused_by_name(monkeypatch, what, message):
    model = {"_target_": f"{__name__}.Unrecordable", "what": what}
    with pytest.raises(UserError, match=message):
        replayed(monkeypatch, replace(WITHOUT_BATCH_NORM, model=model), 1)


def test_micro_batches_of_several_shapes_are_refused():
    made = learner(WITHOUT_BATCH_NORM, 1, Speed(cuda_graph=True))
    made.warm_up()
    with pytest.raises(UserError, match=r"one shape, but .*\[64, .* in one and \[32, .* in another"):
        made.update(0, torch.zeros(2, 1, 32, dtype=torch.int64))
