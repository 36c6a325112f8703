"""Schedules are the curves of torch's own schedulers where both exist, they end where they say at every total batch
size, and a length reaches them with a unit or not at all."""

import json
import math
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.optim import lr_scheduler

from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.horizons import Decay, MomentumRangeTest, OneCycle, RangeTest, WithHorizon
from harness.plan.instantiate import instantiate
from harness.plan.schedules import Constant, Cyclical, Exponential, MultiStep, Plateau, Schedule, Step
from harness.plan.target import Target
from harness.plan.workload import Workload

ROOT = Path(__file__).parents[2]
CONF = {path.stem: path for path in sorted((ROOT / "conf" / "schedule").glob("*.yaml"))}
WITH_HORIZON = [name for name, path in CONF.items() if "horizon:" in path.read_text()]
UPDATES = 101


def curve(schedule, updates=UPDATES):
    return [schedule.lr_factor(step) for step in range(updates)]


def torch_curve(make, updates=UPDATES, lr=1.0):
    """LR and momentum of every update under one of torch's schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for _ in range(updates):
        values.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return [lr for lr, _ in values], [momentum for _, momentum in values]


def workload(schedule, train_examples=1024, budget_epochs=8):
    return Workload(
        name="digits",
        dataset={},
        model={},
        loss="cross_entropy",
        optimizer_name="sgd",
        optimizer={"_target_": "torch.optim.SGD"},
        schedule=schedule,
        train_examples=train_examples,
        target=Target("validation_accuracy", 0.97, "max"),
        budget=Duration(budget_epochs, "epochs"),
        base_batch_size=16,
        base_lr=0.08,
        evaluate_every_examples=512,
    )


def conf(name) -> dict[str, Any]:
    values = OmegaConf.to_object(OmegaConf.load(CONF[name]))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


# --- torch's schedulers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Step(every=30, gamma=0.2), lambda o: lr_scheduler.StepLR(o, 30, gamma=0.2)),
        (MultiStep(milestones=[30, 60, 60, 80]), lambda o: lr_scheduler.MultiStepLR(o, [30, 60, 60, 80])),
        (Exponential(half_life=10), lambda o: lr_scheduler.ExponentialLR(o, 0.5**0.1)),
        (Decay(horizon=100), lambda o: lr_scheduler.PolynomialLR(o, 100)),
        (Decay(horizon=100, power=2.0), lambda o: lr_scheduler.PolynomialLR(o, 100, power=2)),
        (Decay(horizon=100, final=0.2), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 100)),
        (
            Decay(horizon=100, decay_shape="cosine", final=0.1),
            lambda o: lr_scheduler.CosineAnnealingLR(o, 100, eta_min=0.1),
        ),
        (
            Decay(horizon=100, decay=40),
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.ConstantLR(o, 1.0), lr_scheduler.PolynomialLR(o, 40)], [60]
            ),
        ),
        (RangeTest(horizon=100, start=0.01), lambda o: lr_scheduler.LinearLR(o, 0.01, 1.0, 99)),
        (
            RangeTest(horizon=101, start=1e-4, ramp="exponential"),
            lambda o: lr_scheduler.LambdaLR(o, lambda t: 1e-4 * (1e4 ** (1 / 100)) ** t),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Schedule) else "",
)
def test_a_schedule_is_the_curve_of_torchs_own(ours, theirs):
    assert curve(ours) == pytest.approx(torch_curve(theirs)[0], rel=1e-9, abs=1e-12)


def test_the_exponential_range_ramp_is_torchs_exponential_lr_upwards():
    lr, _ = torch_curve(lambda o: lr_scheduler.ExponentialLR(o, (1e4) ** (1 / 99)), updates=100, lr=1e-4)
    assert curve(RangeTest(horizon=100, start=1e-4, ramp="exponential"), 100) == pytest.approx(lr, rel=1e-9)


def test_a_momentum_range_test_lengthens_the_memory_evenly_in_its_logarithm_at_one_lr():
    schedule = MomentumRangeTest(horizon=103, warmup=3, low=0.5, high=0.995)
    memory = [1 / (1 - (schedule.momentum(step) or 0.0)) for step in range(3, 103)]
    assert (memory[0], memory[-1]) == pytest.approx((2.0, 200.0))
    assert [after / before for before, after in pairwise(memory)] == pytest.approx([100 ** (1 / 99)] * 99)
    assert {schedule.lr_factor(step) for step in range(3, 200)} == {1.0}
    assert schedule.momentum(500) == pytest.approx(0.995)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.9), (0.5, 1.0), (-0.1, 0.5)])
def test_a_momentum_range_lies_below_one_and_rises(low, high):
    with pytest.raises(UserError, match=r"must both be in \[0, 1\)"):
        MomentumRangeTest(horizon=100, low=low, high=high)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclical_lrs_are_torchs_cyclic_lr(mode):
    ours = Cyclical(half_cycle=12, floor=0.1, mode=mode, half_life=30 if mode == "exp_range" else None)
    lr, _ = torch_curve(
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=12, mode=mode, gamma=0.5 ** (1 / 30)), lr=0.1
    )
    assert curve(ours) == pytest.approx(lr, rel=1e-9)


@pytest.mark.parametrize(("anneal", "torchs_name"), [("linear", "linear"), ("cosine", "cos")])
@pytest.mark.parametrize("three_phase", [True, False])
def test_1cycle_is_torchs_one_cycle_lr_in_lr_and_momentum(anneal, torchs_name, three_phase):
    ours = OneCycle(horizon=100, rise=39, annihilate=21 if three_phase else 0, start=0.04, final=0.04e-4, anneal=anneal)
    options = {"pct_start": 0.4, "three_phase": three_phase, "anneal_strategy": torchs_name}
    lr, momentum = torch_curve(lambda o: lr_scheduler.OneCycleLR(o, 1.0, 100, **options), updates=100)
    assert curve(ours, 100) == pytest.approx(lr, rel=1e-9)
    assert [ours.momentum(step) for step in range(100)] == pytest.approx(momentum, rel=1e-9)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_is_torchs_reduce_lr_on_plateau(mode):
    sign = 1 if mode == "max" else -1
    metrics = [sign * (1 - math.exp(-i / 4) + 0.02 * math.sin(5.0 * i)) for i in range(60)] + [math.nan] * 12
    ours = Plateau(mode=mode, gamma=0.5, patience=3, min_delta=0.01, floor=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, factor=0.5, patience=3, threshold=0.01, threshold_mode="abs", min_lr=0.01
    )
    seen = set()
    for step, metric in enumerate(metrics):
        ours.observe(metric)
        theirs.step(metric)
        assert ours.lr_factor(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        seen.add(ours.lr_factor(step))
    assert len(seen) > 5


# --- the shared warm-up


@pytest.mark.parametrize("name", CONF)
@pytest.mark.parametrize("shape", ["linear", "constant"])
def test_every_schedule_takes_both_warm_ups_and_then_reaches_its_own_start(name, shape):
    spec = {**conf(name), "warmup": {"examples": 1024}, "warmup_shape": shape, "warmup_start": 0.25}
    if name == "multi_step":
        spec["milestones"] = [{"epochs": 4}, {"epochs": 6}]
    schedule = instantiate(workload(spec).resolved_schedule(64))
    assert schedule.warmup == 16
    after = schedule.lr_factor(16)
    ramp = [schedule.lr_factor(step) / after for step in range(16)]
    expected = [0.25 + 0.75 * (step + 1) / 16 if shape == "linear" else 0.25 for step in range(16)]
    assert ramp == pytest.approx(expected)


def test_the_last_update_of_a_linear_warm_up_is_the_first_at_the_peak():
    assert curve(Constant(warmup=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_decay_after_a_warm_up_is_the_decay_of_the_shorter_horizon():
    plain = Decay(horizon=80, decay_shape="cosine")
    delayed = Decay(horizon=100, decay_shape="cosine", warmup=20)
    assert curve(delayed, 100)[20:] == curve(plain, 80)


def test_drops_are_counted_from_the_start_of_training_with_or_without_a_warm_up():
    for warmup in (0, 7):
        factors = curve(MultiStep(milestones=[30, 60], warmup=warmup))
        assert [step for step, (a, b) in enumerate(pairwise(factors), start=1) if b < a] == [30, 60]


# --- ends


@given(
    name=st.sampled_from(WITH_HORIZON),
    total_batch_size=st.integers(1, 512),
    epochs=st.floats(4.0, 30.0),
    warmup_examples=st.sampled_from([0, 64, 1024]),
)
def test_a_schedule_ends_exactly_at_its_final_factor_at_every_total_batch_size(
    name, total_batch_size, epochs, warmup_examples
):
    spec = {**conf(name), "horizon": {"epochs": epochs}, "warmup": {"examples": warmup_examples}}
    resolved = workload(spec).resolved_schedule(total_batch_size)
    assume(resolved["horizon"] >= 3 * resolved["warmup"] + 8)  # room for warm-up, rise and annihilation of 1cycle
    schedule = instantiate(resolved)
    assert isinstance(schedule, WithHorizon)
    assert schedule.horizon == math.ceil(round(epochs * 1024 / total_batch_size, 9))
    assert schedule.lr_factor(schedule.horizon) == schedule.final_lr_factor
    assert schedule.lr_factor(schedule.horizon + 1000) == schedule.final_lr_factor
    last = schedule.lr_factor(schedule.horizon - 1)
    if isinstance(schedule, OneCycle | RangeTest):
        assert last == schedule.final_lr_factor
    else:
        assert schedule.final_lr_factor == 0.0
        assert last > 0.0


@pytest.mark.parametrize("name", [name for name in CONF if name not in WITH_HORIZON])
def test_a_schedule_without_a_horizon_claims_no_end(name):
    assert instantiate(workload(conf(name)).resolved_schedule(64)).final_lr_factor is None


@given(st.integers(4, 400), st.data())
def test_1cycle_momentum_mirrors_its_lr_until_the_annihilation(horizon, data):
    annihilate = data.draw(st.integers(0, horizon - 3))
    rise = data.draw(st.integers(1, horizon - 1 - max(annihilate, 1)))
    schedule = OneCycle(horizon=horizon, rise=rise, annihilate=annihilate, start=0.1, final=0.001)
    assert schedule.lr_factor(rise) == 1.0 == max(curve(schedule, horizon))
    assert schedule.momentum(rise) == 0.85
    for step in range(horizon):
        # without annihilation the fall ends at `final`, and the mirror with it
        bottom = 0.001 if not annihilate and step > rise else 0.1
        mirrored = 0.95 - 0.1 * (schedule.lr_factor(step) - bottom) / (1 - bottom)
        annihilating = annihilate and step > horizon - 1 - annihilate
        assert schedule.momentum(step) == pytest.approx(0.95 if annihilating else mirrored)


def test_1cycle_can_leave_the_momentum_alone():
    assert OneCycle(horizon=10, rise=4, max_momentum=None, min_momentum=None).momentum(3) is None


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
def test_warmup_stable_decay_stays_at_the_peak_and_then_falls_all_the_way(shape):
    schedule = Decay(horizon=100, warmup=10, decay=20, decay_shape=shape, final=0.05)
    factors = curve(schedule)
    assert factors[9:81] == [1.0] * 72
    assert all(b < a for a, b in pairwise(factors[80:]))
    assert factors[100] == 0.05


def test_the_sqrt_decay_is_one_minus_the_square_root_of_its_share():
    assert Decay(horizon=100, decay=64, decay_shape="sqrt").lr_factor(36 + 16) == pytest.approx(0.5)


# --- what else a trainer asks


def test_a_users_schedule_overrides_what_it_changes_and_inherits_the_rest():
    class Ramp(Schedule):
        def shape(self, step):
            return 1 / (1 + step)

        def weight_decay_factor(self, step):
            return 2.0

    ours = Ramp(warmup=2)
    assert ours.lr_factor(0) == pytest.approx(1 / 6)
    assert (ours.weight_decay_factor(0), Constant().weight_decay_factor(0)) == (2.0, 1.0)
    assert ours.momentum(0) is None
    ours.observe(0.5)
    ours.restore(ours.state())


def test_plateau_goes_on_from_a_checkpoint_as_if_never_stopped():
    metrics = [0.1, 0.5, 0.4, 0.5, 0.3, 0.6, 0.6, 0.6, 0.6, 0.2]
    whole = Plateau(mode="max", patience=1)
    for metric in metrics:
        whole.observe(metric)
    for cut in range(len(metrics)):
        before, after = Plateau(mode="max", patience=1), Plateau(mode="max", patience=1)
        for metric in metrics[:cut]:
            before.observe(metric)
        after.restore(json.loads(json.dumps(before.state())))
        for metric in metrics[cut:]:
            after.observe(metric)
        assert after.state() == whole.state()
    assert whole.lr_factor(0) == pytest.approx(1e-3)


# --- durations


def test_a_list_of_durations_becomes_a_list_of_updates():
    spec = {
        "_target_": "x.Y",
        "milestones": [{"epochs": 2}, {"examples": 3000}, {"fraction": 0.5}],
        "warmup": {"steps": 5},
    }
    resolved = workload(spec).resolved_schedule(64)  # fmt: skip
    assert resolved == {"_target_": "x.Y", "milestones": [32, 47, 64], "warmup": 5}


def test_a_fraction_refers_to_the_horizon_and_an_open_horizon_is_the_budget():
    spec = {"horizon": {"epochs": 4}, "decay": {"fraction": 0.25}}
    assert workload(spec).resolved_schedule(64) == {"horizon": 64, "decay": 16}
    assert workload({**spec, "horizon": None}).resolved_schedule(64) == {"horizon": 128, "decay": 32}
    assert workload({**spec, "horizon": {"fraction": 0.5}}).resolved_schedule(64) == {"horizon": 64, "decay": 16}


@given(name=st.sampled_from(sorted(CONF)), doublings=st.integers(0, 5))
def test_a_schedule_is_the_same_curve_in_examples_at_every_total_batch_size(name, doublings):
    spec = {**conf(name), "warmup": {"examples": 4096}}
    if name == "multi_step":
        spec["milestones"] = [{"epochs": 2}, {"epochs": 5}]
    ratio = 2**doublings
    small, large = (instantiate(workload(spec, 4096).resolved_schedule(tbs)) for tbs in (16, 16 * ratio))
    fine = curve(small, 9 * 4096 // 16)
    for step in range(8 * 4096 // (16 * ratio)):
        # within what the fine curve does from one coarse update before to one after: lengths are whole updates
        nearby = fine[max(0, step - 1) * ratio : (step + 2) * ratio + 1]
        assert min(nearby) - 1e-9 <= large.lr_factor(step) <= max(nearby) + 1e-9


# --- documentation


@pytest.mark.parametrize("name", CONF)
def test_every_schedule_of_conf_is_documented_and_drawn(name):
    assert f"`{name}`" in (ROOT / "docs" / "schedules.md").read_text()
    assert f">{name}</text>" in (ROOT / "docs" / "schedules" / "schedules.svg").read_text()


def test_drawing_twice_gives_the_same_bytes(tmp_path):
    draw = runpy.run_path(str(ROOT / "docs" / "draw_schedules.py"))["main"]
    for folder in ("a", "b"):
        draw(tmp_path / folder)
    assert (tmp_path / "a" / "schedules.svg").read_bytes() == (tmp_path / "b" / "schedules.svg").read_bytes()


# --- refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant(warmup=-1), "schedule.warmup must be a duration of 0 or more updates, not -1"),
        (lambda: Constant(warmup={"epoch": 5}), "not {'epoch': 5}: write it with one unit, like {epochs: 5}"),  # type: ignore[arg-type]
        (lambda: Constant(warmup=2.5), "schedule.warmup"),  # type: ignore[arg-type]
        (lambda: Constant(warmup=5, warmup_shape="cosine"), "warmup_shape 'cosine': choose one of linear, constant"),
        (lambda: Constant(warmup=5, warmup_shape="constant"), "use a value in (0, 1]"),
        (lambda: Constant(warmup_start=1.5), "schedule.warmup_start must be a number >= 0 and <= 1, not 1.5"),
        (lambda: Step(every=0), "schedule.every"),
        (lambda: Step(every=5, gamma=0.0), "schedule.gamma must be a number > 0 and <= 1, not 0.0"),
        (lambda: Step(every=5, gamma="0.1"), "schedule.gamma"),  # type: ignore[arg-type]
        (lambda: MultiStep(milestones=30), "must be a list of durations"),  # type: ignore[arg-type]
        (lambda: MultiStep(milestones=[]), "must be a list of durations"),
        (lambda: MultiStep(milestones=[60, 30]), "ascending order"),
        (lambda: MultiStep(milestones=[30], warmup=31), "within the warm-up of 31"),
        (lambda: MultiStep(milestones=[0]), "schedule.milestones"),
        (lambda: Exponential(half_life=0), "schedule.half_life"),
        (lambda: Plateau(mode="up"), "choose one of min, max"),
        (lambda: Plateau(mode="max", patience=-1), "patience (evaluations)"),
        (lambda: Plateau(mode="max", min_delta=math.nan), "schedule.min_delta must be a number >= 0, not nan"),
        (lambda: Plateau(mode="max", floor=-0.1), "schedule.floor"),
        (lambda: Cyclical(half_cycle=5, mode="sine"), "choose one of triangular, triangular2, exp_range"),
        (lambda: Cyclical(half_cycle=5, mode="exp_range"), "schedule.half_life"),
        (lambda: Cyclical(half_cycle=5, half_life=5), "applies to mode=exp_range only"),
        (lambda: Decay(horizon=10, warmup=10), "fills the horizon of 10 updates"),
        (lambda: Decay(horizon=0), "schedule.horizon"),
        (lambda: Decay(horizon=10, warmup=5, decay=6), "exceed the horizon of 10 updates"),
        (lambda: Decay(horizon=10, decay=0), "schedule.decay"),
        (lambda: Decay(horizon=10, power=0.0), "schedule.power must be a number > 0, not 0.0"),
        (lambda: Decay(horizon=10, power=2.0, decay_shape="cosine"), "applies to decay_shape=linear only"),
        (lambda: OneCycle(horizon=10, rise=6, annihilate=4), "need a horizon of at least 11 updates, not 10"),
        (lambda: OneCycle(horizon=10, rise=4, max_momentum=None), "must both be in [0, 1), or both be null"),
        (lambda: OneCycle(horizon=10, rise=4, min_momentum=0.99), "min_momentum <= max_momentum"),
        (lambda: RangeTest(horizon=10, start=0.0), "schedule.start must be a number > 0"),
        (lambda: RangeTest(horizon=10, warmup=9), "at least 2 updates"),
        (lambda: RangeTest(horizon=10, ramp="cubic"), "choose one of linear, exponential"),
        (lambda: workload({"horizon": {"epoch": 3}}).resolved_schedule(16), "not {'epoch': 3}"),
        (lambda: workload({"horizon": 300}).resolved_schedule(16), "horizon needs a unit, like {epochs: 5}, not 300"),
        (lambda: workload({"warmup": 500}).resolved_schedule(16), "warmup needs a unit, like {epochs: 5}, not 500"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(make, words):
    with pytest.raises(UserError) as refusal:
        make()
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
