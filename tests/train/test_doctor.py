"""The doctor passes what is sound and finds each planted fault by the check that is meant to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import on_ranks
from small_trials import CNN, DIGITS, GHOST, run
from test_learner import TOKENS, TokenModel

from harness.datasets.examples import Splits
from harness.objectives.cross_entropy import CrossEntropy
from harness.plan.duration import Duration
from harness.plan.settings import Averaging, BatchNorm
from harness.plan.target import Target
from harness.plan.workload import Workload
from harness.train import learner, supply, trainer
from harness.train.doctor import (
    SPLITS,
    check_clocks,
    check_determinism,
    check_evaluation,
    check_order,
    check_resume,
    evaluations,
    examine,
)
from harness.train.probes import Probes
from harness.train.still import without_chance, without_dropout
from harness.train.worker import Task, Worker
from harness.train.world import World

SOUND = Workload(
    name="digits",
    dataset=DIGITS,
    model=CNN,
    loss="cross_entropy",
    optimizer_name="sgd",
    optimizer={"_target_": "torch.optim.SGD", "momentum": 0.9},
    schedule={"_target_": "harness.plan.horizons.Decay", "horizon": None},
    train_examples=256,
    target=Target("accuracy", 0.9, "max"),
    budget=Duration(2, "epochs"),
    base_batch_size=16,
    base_lr=0.08,
    evaluate_every_examples=256,
    batch_norm=GHOST,
    averaging=Averaging(half_life_examples=128, decide_on="averaged"),
)
SPLIT = set(SPLITS)


@dataclass
class Tokens:
    """Blocks of which a different number of tokens counts."""

    def load(self) -> Splits:
        return Splits(TOKENS, TOKENS, TOKENS, "tokens")


LANGUAGE = replace(
    SOUND,
    dataset={"_target_": f"{__name__}.Tokens"},
    model={"_target_": f"{TokenModel.__module__}.TokenModel"},
    batch_norm=BatchNorm(),
)


def pads(world: World, count: int) -> tuple[int, int]:
    """Parts of one size, the last one filled up with examples that another rank has too."""
    size = -(-count // world.size)
    start = min(world.rank * size, count - size)
    return start, start + size


def plant_padding() -> None:
    World.share = pads  # type: ignore[method-assign]


def plant_order_by_rank() -> None:
    sound = supply.cut
    supply.cut = lambda values, plan, rank, group: sound(values.roll(rank), plan, rank, group)  # type: ignore


def nothing() -> None: ...


def as_rank(world: World, plant: Callable[[], None], order: Task) -> list[dict[str, Any]]:
    plant()
    return run(Worker(world.rank, world.size, "cpu", 1), order)


def on_one_rank(order: Task) -> Task:
    """The same batch on one rank: what two sound ranks compute, without starting them."""
    batch = order.topology.batch
    whole = replace(batch, per_device_batch_size=batch.per_device_batch_size * batch.world_size, world_size=1)
    return replace(order, topology=replace(order.topology, batch=whole))


def failed(
    workload: Workload, folder: Path, worker: Worker, plant_in_ranks: Callable[[], None] | None = None
) -> set[str]:
    """Names of the checks that fail; real ranks only where something is to be planted in them."""

    def run_anywhere(order: Task) -> list[dict[str, Any]]:
        world = order.topology.batch.world_size
        if world == 1 or plant_in_ranks is None:
            return run(worker, on_one_rank(order))
        return on_ranks(world, as_rank, plant_in_ranks, order)[0]

    def interrupt(order: Task) -> list[dict[str, Any]]:
        worker.start(order)
        return worker.advance(0.0) + run(worker, order)

    probes = Probes(workload, folder, 4, "cpu", ("cpu", "float32"))
    return {check.name for check in examine(probes, run_anywhere, interrupt) if not check.passed}


@pytest.mark.parametrize("workload", [SOUND, LANGUAGE], ids=["ghost batch norm", "tokens that may not count"])
def test_a_sound_workload_passes_every_check(workload, worker, tmp_path):
    assert failed(workload, tmp_path, worker, nothing if workload is SOUND else None) == set()


def test_a_mean_of_means_is_found(worker, tmp_path, monkeypatch):
    sound = CrossEntropy.measure

    def mean(self: CrossEntropy, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, int]:
        total, count = sound(self, logits, targets)
        return total / count * len(targets), len(targets)

    monkeypatch.setattr(CrossEntropy, "measure", mean)
    monkeypatch.setattr(CrossEntropy, "counts_examples", True)
    assert "2 accumulation steps = one batch" in failed(LANGUAGE, tmp_path, worker)


def test_batch_norm_over_what_a_device_holds_is_found(worker, tmp_path):
    per_device = replace(SOUND, batch_norm=BatchNorm("per_device", statistics_examples=64))
    assert failed(per_device, tmp_path, worker) >= SPLIT


@pytest.mark.long
def test_an_evaluation_that_pads_is_found(worker, tmp_path):
    assert "evaluation is unpadded" in failed(SOUND, tmp_path, worker, plant_padding)


@pytest.mark.long
def test_an_order_that_depends_on_the_rank_is_found(worker, tmp_path):
    assert failed(SOUND, tmp_path, worker, plant_order_by_rank) == {
        name for name in SPLIT if name.startswith("2 ranks")
    }


@pytest.mark.long
def test_a_schedule_stepped_by_the_micro_batch_is_found(worker, tmp_path, monkeypatch):
    sound = learner.Learner._position

    def by_micro_batch(self: learner.Learner, step: int) -> int:
        return sound(self, step * self.batch.gradient_accumulation_steps)

    monkeypatch.setattr(learner.Learner, "_position", by_micro_batch)
    assert failed(SOUND, tmp_path, worker) == {name for name in SPLIT if "accumulation" in name}


@pytest.mark.long
def test_a_checkpoint_that_forgets_the_momentum_is_found(worker, tmp_path, monkeypatch):
    sound = trainer.restore

    def forgetful(made: learner.Learner, state: dict[str, Any]) -> None:
        sound(made, {**state, "optimizer": made.optimizer.state_dict()})

    monkeypatch.setattr(trainer, "restore", forgetful)
    assert failed(SOUND, tmp_path, worker) == {"resume = one run"}


@pytest.mark.long
def test_a_schedule_that_misses_its_declared_end_is_found(worker, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.plan.horizons.Decay.final_lr_factor", property(lambda self: 0.5))
    assert failed(SOUND, tmp_path, worker) == {"schedule"}


def test_a_stream_that_repeats_examples_is_found(monkeypatch):
    assert check_order(SOUND, 64).passed
    monkeypatch.setattr("torch.randperm", lambda size, generator: torch.zeros(size, dtype=torch.int64))
    assert not check_order(SOUND, 64).passed


def test_clocks_that_run_back_and_seeds_that_do_not_repeat_are_found(worker, tmp_path):
    probes = Probes(SOUND, tmp_path, 3, "cpu", ("cpu", "float32"))
    rows = evaluations(run(worker, probes.real("whole")))
    assert check_clocks(rows).passed
    assert not check_clocks(rows[::-1]).passed
    assert check_determinism(rows, rows, is_exact=False).passed
    other = [*rows[:-1], {**rows[-1], "train_loss": float("nan")}]
    assert not check_determinism(rows, other, is_exact=False).passed


def test_on_a_gpu_a_resumed_run_may_differ_as_two_runs_do_and_on_a_cpu_not_at_all(worker, tmp_path):
    rows = evaluations(run(worker, Probes(SOUND, tmp_path, 3, "cpu", ("cpu", "float32")).real("whole")))

    def apart(by: float) -> list[dict[str, Any]]:
        return [{**row, "train_loss": row["train_loss"] * (1 + by)} for row in rows]

    assert check_resume(rows, apart(2e-6), apart(1e-6), is_exact=False).passed
    assert not check_resume(rows, apart(1e-3), apart(1e-6), is_exact=False).passed
    assert not check_resume(rows, apart(1e-6), apart(0), is_exact=False).passed
    assert not check_resume(rows, apart(1e-12), apart(1e-6), is_exact=True).passed
    assert check_resume(rows, apart(1e-6), apart(0), is_exact=False, rounding=1e-5).passed  # the two agreed by luck
    assert not check_resume(rows, apart(1e-4), apart(0), is_exact=False, rounding=1e-5).passed
    assert check_determinism(rows, apart(1e-12), is_exact=False).passed
    assert not check_determinism(rows, apart(1e-12), is_exact=True).passed


def test_an_example_that_rounding_tips_over_is_no_fault_on_a_gpu_nor_in_float32(worker, tmp_path):
    rows = evaluations(run(worker, Probes(SOUND, tmp_path, 3, "cpu", ("cpu", "float32")).real("whole")))
    scores = rows[-1]["validation"]
    tipped = {weights: {**of, "accuracy": of["accuracy"] + 1 / 101} for weights, of in scores.items()}
    other = [*rows[:-1], {**rows[-1], "validation": tipped}]
    assert check_determinism(rows, other, is_exact=False).passed
    assert check_resume(rows, other, rows, is_exact=False).passed
    assert not check_determinism(rows, other, is_exact=True).passed
    assert check_evaluation(rows, other, tolerance=1e-3, counts=False).passed
    assert not check_evaluation(rows, other, tolerance=1e-3).passed


def test_a_model_for_gpus_only_is_examined_on_one_rank(worker, tmp_path):
    alone = Probes(SOUND, tmp_path, 2, "cpu", ("cpu", "float32"), ranks=1)
    worlds: list[int] = []

    def run_one(order: Task) -> list[dict[str, Any]]:
        worlds.append(order.topology.batch.world_size)
        return run(worker, order)

    checks = {check.name: check for check in examine(alone, run_one, run_one)}
    assert set(worlds) == {1}
    assert checks["2 ranks = one batch"].is_note
    assert checks["2 accumulation steps = one batch"].passed
    assert "2 ranks" not in checks["evaluation is unpadded"].detail


def test_dropout_is_off_in_what_is_compared():
    model = without_dropout(torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.MultiheadAttention(8, 2, dropout=0.5)))
    assert model[0].p == model[1].dropout == 0.0  # type: ignore[index]


def test_chance_that_no_module_holds_is_off_too():
    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(x, 0.5, self.training)

    assert torch.equal(without_chance(Noisy())(torch.ones(64)), torch.ones(64))
