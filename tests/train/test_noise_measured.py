"""What a trial measures of its gradient's noise: the closed form on the noisy quadratic, the same sums on any number of
ranks and after any interruption, and no change to the numbers of the training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import on_ranks
from small_trials import (
    EVERY_EVALUATION,
    MLP,
    SMALL,
    WITHOUT_BATCH_NORM,
    evaluations,
    run,
    run_on_ranks,
    task,
    timeless,
    topology,
)
from torch import nn

from harness.datasets.digits import Digits
from harness.datasets.quadratic import NoisyQuadratic
from harness.plan.errors import UserError
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import BatchNorm, Settings
from harness.plan.target import Target
from harness.record.journal import read_trial
from harness.statistics.noise_scale import FrozenProducts, TrainingSums, frozen_products, pooled, training_sums
from harness.train.frozen_noise import measure_frozen, measure_noise
from harness.train.learner import Learner
from harness.train.learner_state import rank_state, restore, restore_rank_state, state_of
from harness.train.trainer import Execution
from harness.train.world import World

MEASURED = NoiseScale(in_training=True, frozen_every_examples=256, frozen_units=16)
NOISY = replace(SMALL, noise_scale=MEASURED)
NOISY_MLP = replace(WITHOUT_BATCH_NORM, noise_scale=replace(MEASURED, frozen_units=64))
ADAM = {"_target_": "torch.optim.AdamW", "lr": 0.001}

EIGENVALUES, VARIANCES, COORDINATES = (1.0, 0.25), (0.2, 0.05), 256
FROZEN = Settings(
    dataset={"_target_": "harness.datasets.quadratic.NoisyQuadratic", "variances": list(VARIANCES)},
    model={"_target_": "harness.models.quadratic.Quadratic", "eigenvalues": list(EIGENVALUES)},
    loss="model_output",
    optimizer={"_target_": "torch.optim.SGD", "lr": 1e-30},  # the weights stay where they started, at 1
    schedule={"_target_": "harness.plan.schedules.Constant"},
    total_batch_size=64,
    train_examples=16384,
    target=Target("loss", -1.0, "min"),
    budget_examples=4096,
    evaluate_every_examples=2048,
    noise_scale=NoiseScale(in_training=True, frozen_every_examples=2048, frozen_units=256),
)
TRACE = COORDINATES * sum(VARIANCES)
SQUARED_NORM = COORDINATES * sum(h * h for h in EIGENVALUES)


def learner(settings: Settings, world: World | None = None, accumulation: int = 4) -> Learner:
    world = world or World(0, 1, torch.device("cpu"))
    where = topology(settings, world=world.size, accumulation=accumulation, precision="float64")
    splits = Digits(256, 70, 50).load()
    splits = replace(splits, train=splits.train.to(world.device, torch.float64))
    return Learner(settings, 0, where, world, splits)


def sums_of(rows: list[dict], preconditioned: bool = False) -> TrainingSums:
    found = [training_sums(row, preconditioned) for row in evaluations(rows)]
    return pooled([sums for sums in found if sums is not None])


def frozen_of(row: dict, preconditioned: bool = False) -> FrozenProducts:
    found = frozen_products(row, preconditioned)
    assert found is not None
    return found


# -- the closed form -------------------------------------------------------------------------------------------------


def test_the_noisy_quadratics_noise_scale_comes_out_within_five_percent_at_frozen_weights(worker, tmp_path):
    """4,096 draws of the stream in micro-batches of 16, and 256 apart from it, twice."""
    rows = run(worker, task(tmp_path, FROZEN, accumulation=4))
    found = [sums_of(rows).estimate(), *(frozen_of(row).estimate() for row in evaluations(rows))]
    assert len(found) == 3
    for estimate in found:
        assert estimate.moments.trace == pytest.approx(TRACE, rel=0.05)
        assert estimate.moments.squared_norm == pytest.approx(SQUARED_NORM, rel=0.05)
        assert estimate.noise_scale == pytest.approx(TRACE / SQUARED_NORM, rel=0.05)


def test_its_scale_as_adam_sees_it_is_the_closed_forms_too():
    """With second moments set by hand, so that P is known."""
    where = topology(FROZEN, accumulation=4, precision="float64")
    splits = NoisyQuadratic(list(VARIANCES)).load()
    made = Learner(replace(FROZEN, optimizer=ADAM), 0, where, World(0, 1, torch.device("cpu")), splits)
    (theta,) = made.model.parameters()
    second = torch.tensor([4.0, 0.25], dtype=torch.float64).repeat_interleave(COORDINATES)
    correction = 1 - 0.999**10
    state = {"step": torch.tensor(10.0), "exp_avg": torch.zeros_like(theta), "exp_avg_sq": second * correction}
    made.optimizer.state[theta] = state
    estimate = frozen_of(measure_frozen(made, 0), preconditioned=True).estimate()
    scales = [0.5**2, 2.0**2]
    trace = COORDINATES * sum(s * c for s, c in zip(scales, VARIANCES, strict=True))
    norm = COORDINATES * sum(s * h * h for s, h in zip(scales, EIGENVALUES, strict=True))
    assert estimate.noise_scale == pytest.approx(trace / norm, rel=0.05)


def test_every_variance_of_its_batch_gradients_lies_on_the_line_of_one_over_m(worker, tmp_path):
    rows = evaluations(run(worker, task(tmp_path, FROZEN, accumulation=4)))
    for at in frozen_of(rows[0]).by_batch_size():
        if at.means >= 16:
            assert at.variance * at.examples == pytest.approx(TRACE, rel=0.1)


# -- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [NOISY, NOISY_MLP], ids=["batch norm", "torch.func"])
def test_sums_are_those_of_gradients_computed_one_by_one(settings):
    made = learner(settings)
    group = made.group
    parameters = list(made.model.parameters())

    def gradient(index: torch.Tensor) -> torch.Tensor:
        batch = made.splits.train.batch(index)
        loss = nn.functional.cross_entropy(made.model(batch.inputs), batch.targets)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    ((_, drawn),) = made.micro_batches(0, 1)
    pieces = torch.stack([gradient(index) for index in drawn[0]])
    made.update(0, drawn)
    row = measure_noise(made, 0, 1)
    sums = training_sums(row)
    assert sums is not None
    expected = [1.0, pieces.square().sum(1).mean().item(), pieces.mean(0).square().sum().item()]
    assert sums.blocks.sum(0) == pytest.approx(expected, rel=1e-10)

    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(256, generator=generator)[: 16 * group].view(16, group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.train.frozen_noise._draw", lambda *_: index.flatten())
        made.settings = replace(settings, noise_scale=replace(settings.noise_scale, frozen_units=16))
        frozen = frozen_of(measure_frozen(made, 0))
    vectors = torch.stack([gradient(one) for one in index])
    assert frozen.products == pytest.approx((vectors @ vectors.T).detach().numpy(), rel=1e-9)
    assert frozen.squares == pytest.approx(vectors.square().sum(1).numpy(), rel=1e-9)
    assert frozen.levels == pytest.approx((vectors.square().sum().item(),), rel=1e-9)


def test_measuring_changes_no_number_of_the_training(worker, tmp_path):
    keys = ("noise_scale", "noise_sums")
    for name, settings in (("bn", NOISY), ("mlp", replace(NOISY_MLP, optimizer=ADAM))):
        plain = replace(settings, noise_scale=NoiseScale())
        without = run(worker, task(tmp_path / name / "without", plain, accumulation=4))
        found = run(worker, task(tmp_path / name / "with", settings, accumulation=4))
        assert sum(key in row for row in found for key in keys) == 2 * len(evaluations(found))
        stripped = [{key: value for key, value in row.items() if key not in keys} for row in found]
        assert timeless(stripped) == timeless(without)
        assert task(tmp_path, settings).trial_id == task(tmp_path, plain).trial_id


def test_adams_own_scale_is_measured_from_the_second_update_on(worker, tmp_path):
    rows = evaluations(run(worker, task(tmp_path, replace(NOISY_MLP, optimizer=ADAM), accumulation=4)))
    first, second = (training_sums(row, preconditioned=True) for row in rows[:2])
    assert first is not None
    assert second is not None
    assert (first.blocks[:, 0].sum(), second.blocks[:, 0].sum()) == (1, 2)
    assert set(rows[1]["noise_scale"]) == {
        "training", "training_preconditioned", "frozen", "frozen_preconditioned"
    }  # fmt: skip


# -- topology and resume ---------------------------------------------------------------------------------------------


def _measured(world: World, settings: Settings, pieces: int) -> list[dict]:
    made = learner(settings, world, accumulation=pieces // world.size)
    made.warm_up()
    rows = []
    for step, drawn in made.micro_batches(0, 4):
        made.update(step, drawn)
        if step % 2:
            rows.append(measure_noise(made, step - 1, step + 1))
    return rows


@pytest.mark.parametrize("settings", [NOISY, replace(NOISY_MLP, optimizer=ADAM)], ids=["batch norm", "Adam"])
def test_one_two_and_four_ranks_give_the_same_estimate(settings):
    """The same micro-batches of 16, as 4 accumulation steps, 2 x 2, and 4 ranks, in float64."""
    alone = on_ranks(1, _measured, settings, 4)[0]
    for size in (2, 4):
        for shared in on_ranks(size, _measured, settings, 4):
            for row, other in zip(alone, shared, strict=True):
                assert other["noise_scale"] == pytest.approx(row["noise_scale"], rel=1e-6)
                mine, theirs = training_sums(row), training_sums(other)
                assert mine is not None
                assert theirs is not None
                assert theirs.blocks == pytest.approx(mine.blocks, rel=1e-9)
    products = [frozen_of(rows[1]).products for rows in (alone, on_ranks(2, _measured, settings, 4)[0])]
    assert products[1] == pytest.approx(products[0], rel=1e-7)


def test_a_trial_dropped_anywhere_goes_on_with_the_same_sums_and_averages(worker, tmp_path):
    settings = replace(NOISY, batch_norm=BatchNorm("ghost", 16, statistics="running", half_life_examples=256.0))
    run(worker, task(tmp_path / "alone", settings, accumulation=4))
    alone = read_trial(tmp_path / "alone").evaluations
    order = task(tmp_path / "dropped", settings, execution=EVERY_EVALUATION, accumulation=4)
    for _ in range(3):
        worker.start(order)
        worker.advance(0.0)
        worker.stop()
    run(worker, order)
    resumed = read_trial(Path(order.folder))
    assert resumed.attempts == 4
    assert timeless(resumed.evaluations) == timeless(alone)
    assert alone[-1]["noise_scale"]["training"] > 0


def test_sums_of_half_an_interval_survive_a_checkpoint():
    whole, halves = learner(NOISY), learner(NOISY)
    updates = list(whole.micro_batches(0, 2))
    for step, drawn in updates:
        whole.update(step, drawn)
    halves.update(*updates[0])
    again = learner(NOISY)
    restore(again, state_of(halves))
    restore_rank_state(again, rank_state(halves))
    again.update(*updates[1])
    assert measure_noise(again, 0, 2) == measure_noise(whole, 0, 2)


# -- what is left out, and refused -----------------------------------------------------------------------------------


def test_a_batch_that_spans_two_passes_is_left_out():
    only = NoiseScale(in_training=True)
    settings = replace(SMALL, total_batch_size=96, evaluate_every_examples=288, noise_scale=only)
    made = learner(settings, accumulation=2)
    for step, drawn in made.micro_batches(0, 3):  # 0-95, 96-191, 192-287: the last one begins the next pass
        made.update(step, drawn)
    sums = training_sums(measure_noise(made, 0, 3))
    assert sums is not None
    assert sums.blocks[:, 0].sum() == 2


def test_a_batch_in_one_piece_and_half_precision_with_a_scaled_loss_are_refused():
    with pytest.raises(UserError, match="fp16"):
        Learner(
            NOISY,
            0,
            topology(NOISY, accumulation=4, precision="fp16"),
            World(0, 1, torch.device("cpu")),
            Digits(256, 70, 50).load(),
        )
    with pytest.raises(UserError, match="not a multiple"):
        replace(SMALL, noise_scale=NoiseScale(frozen_every_examples=200, frozen_units=16))
    with pytest.raises(UserError, match="use at most 16"):
        replace(SMALL, noise_scale=NoiseScale(frozen_every_examples=128, frozen_units=32))
    with pytest.raises(UserError, match="sync"):
        replace(SMALL, noise_scale=MEASURED, batch_norm=BatchNorm("sync", 64, statistics_examples=64))


def test_two_ranks_of_a_whole_trial_write_the_sums_of_one(worker, tmp_path):
    settings = replace(NOISY_MLP, model=MLP)
    alone = run(worker, task(tmp_path / "one", settings, accumulation=4, precision="float64"))
    order = task(tmp_path / "two", settings, world=2, accumulation=2, precision="float64", execution=Execution())
    (shared,) = run_on_ranks(order)
    for row, other in zip(evaluations(alone), evaluations(shared), strict=True):
        assert other["noise_scale"] == pytest.approx(row["noise_scale"], rel=1e-6)
