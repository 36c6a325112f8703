"""P4-P8, P10, P11, P13 and P14 on one rank, read from the rows and files of a trial."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_trials import (
    DIGITS,
    EVERY_EVALUATION,
    NEVER,
    SGD,
    SMALL,
    WITHOUT_BATCH_NORM,
    evaluations,
    events,
    run,
    task,
    timeless,
)
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.datasets.digits import Digits
from harness.datasets.examples import Batch, Splits
from harness.models.mlp import MLP
from harness.plan.instantiate import instantiate
from harness.plan.outcome import Outcome
from harness.plan.settings import Settings
from harness.plan.target import Target
from harness.record.files import read_json
from harness.record.journal import read_trial
from harness.train import learner
from harness.train.checkpoint import load_checkpoint
from harness.train.trainer import Execution
from harness.train.worker import Worker

EASY = replace(SMALL, target=Target("accuracy", 0.5, "max", confirm=3), budget_examples=12800)
QUADRATIC = replace(
    WITHOUT_BATCH_NORM,
    dataset={"_target_": "harness.datasets.quadratic.NoisyQuadratic", "variances": [1.0], "epoch_examples": 256},
    model={"_target_": "harness.models.quadratic.Quadratic", "eigenvalues": [1.0], "start": 5.0},
    loss="model_output",
    target=Target("loss", -1.0, "min"),
)


@pytest.fixture(scope="module")
def small(worker, tmp_path_factory) -> list[dict[str, Any]]:
    """The rows of SMALL, seed 0."""
    return run(worker, task(tmp_path_factory.mktemp("small")))


# -- the journal ---------------------------------------------------------------------------------------------------


def test_what_a_trial_yields_is_what_its_journal_says(worker, tmp_path):
    rows = run(worker, task(tmp_path))
    start, *journal = events(tmp_path)
    assert journal == json.loads(json.dumps(rows))
    assert (start["kind"], start["resumed_from_step"]) == ("start", 0)
    assert [row["kind"] for row in rows] == ["ready", *["evaluation"] * 6, "end"]
    record = read_json(tmp_path / "record.json")
    assert (record["outcome"], record["steps"], record["examples"], record["epochs"]) == ("censored", 12, 768, 3.0)
    assert (record["evaluations"], record["seed"], record["attempt"]) == (6, 0, 1)
    assert record["test"] == rows[-1]["test"]
    assert record["clock"] == rows[-1]["clock"]


# -- 4: schedules ---------------------------------------------------------------------------------------------------


def test_the_lr_of_a_row_is_that_of_its_last_update_and_the_last_is_the_schedules_last(worker, tmp_path):
    decay = {"_target_": "harness.plan.horizons.Decay", "warmup": 2, "horizon": 12, "final": 0.1}
    settings = replace(SMALL, schedule=decay)
    rows = evaluations(run(worker, task(tmp_path, settings)))
    schedule = instantiate(decay)
    assert [row["lr"] for row in rows] == [0.1 * schedule.lr_factor(row["step"] - 1) for row in rows]
    assert rows[-1]["lr"] == pytest.approx(0.1 * (0.1 + 0.9 / 10))  # the decay arrives after the last update


def test_a_schedule_that_watches_the_metric_changes_the_lr_of_the_next_interval_not_of_the_one_watched(
    worker, tmp_path
):
    watching = {"_target_": "harness.plan.schedules.Plateau", "mode": "max", "min_delta": 2.0, "patience": 1}
    rows = evaluations(run(worker, task(tmp_path, replace(SMALL, schedule=watching))))
    # The first accuracy is the best so far; the second and third cannot beat it by 2, nor can any two that follow.
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


# -- 5 and 6: batches and the evaluation grid -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 48, 112])
def test_epochs_are_examples_over_the_training_set_exactly_also_where_a_batch_spans_two_permutations(
    worker, tmp_path, size
):
    settings = replace(SMALL, total_batch_size=size, evaluate_every_examples=2 * size, budget_examples=8 * size)
    rows = evaluations(run(worker, task(tmp_path, settings)))
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert row["examples"] == row["step"] * size
        assert row["epochs"] == row["step"] * size / 256


@pytest.mark.parametrize("size", [16, 64, 128])
def test_every_batch_size_is_evaluated_after_the_same_examples(worker, tmp_path, size):
    rows = evaluations(run(worker, task(tmp_path, replace(SMALL, total_batch_size=size))))
    assert [row["examples"] for row in rows] == [128, 256, 384, 512, 640, 768]


@pytest.mark.parametrize(
    ("size", "examples"),
    [(48, [144, 288, 384, 528, 672, 768]), (80, [160, 320, 400, 560, 640, 800]), (160, [160, 320, 480, 640, 800])],
)
def test_off_the_grid_an_evaluation_follows_the_first_update_beyond_each_grid_point(worker, tmp_path, size, examples):
    """At 160 two grid points fall into one update now and then, and get one evaluation."""
    rows = evaluations(run(worker, task(tmp_path, replace(SMALL, total_batch_size=size))))
    assert [row["examples"] for row in rows] == examples


def test_an_evaluation_is_the_mean_over_every_validation_example_once(worker, tmp_path):
    order = task(tmp_path, WITHOUT_BATCH_NORM, execution=EVERY_EVALUATION, precision="float64")
    worker.start(order)
    score = evaluations(worker.advance(0.0))[0]["validation"]
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    validation = Digits(256, 70, 50).load().validation
    inputs, targets = validation.batch(torch.arange(70))
    for name, weights in {"raw": loaded[1]["model"], "averaged": loaded[1]["average"]["model"]}.items():
        model = MLP(64, [16], 10).double()
        model.load_state_dict(weights)
        logits = model(inputs.double())
        assert score[name]["loss"] == pytest.approx(functional.cross_entropy(logits, targets).item(), abs=1e-12)
        assert score[name]["accuracy"] == (logits.argmax(-1) == targets).sum().item() / 70


def test_how_many_examples_are_evaluated_at_a_time_does_not_show(worker, tmp_path):
    tables = [
        evaluations(run(worker, task(tmp_path / str(n), execution=Execution(n), precision="float64"))) for n in (7, 500)
    ]
    for few, many in zip(*tables, strict=True):
        for name in ("raw", "averaged"):
            assert few["validation"][name]["accuracy"] == many["validation"][name]["accuracy"]
            assert few["validation"][name]["loss"] == pytest.approx(many["validation"][name]["loss"], abs=1e-12)


@dataclass(frozen=True)
class Counted:
    """Examples that count how often each was asked for."""

    examples: Any
    asked: list[int]

    def __len__(self) -> int:
        return len(self.examples)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Counted":
        return Counted(self.examples.to(device, dtype), self.asked)

    def batch(self, index: torch.Tensor) -> Batch:
        self.asked.extend(index.tolist())
        return self.examples.batch(index)


ASKED: list[int] = []


class CountedDigits(Digits):
    def load(self) -> Splits:
        splits = super().load()
        return replace(splits, test=Counted(splits.test, ASKED))


def test_the_test_set_is_read_once_at_the_confirming_evaluation(worker, tmp_path):
    ASKED.clear()
    worker.start(task(tmp_path, replace(EASY, dataset={**DIGITS, "_target_": f"{__name__}.CountedDigits"})))
    rows = worker.advance(0.0)
    while rows[-1]["kind"] != "end":
        assert not ASKED
        rows = worker.advance(0.0)
    assert rows[-1]["outcome"] == "reached"
    assert sorted(ASKED) == list(range(50))


# -- 8: clocks and warm-up ------------------------------------------------------------------------------------------


def test_clocks_only_move_forward_and_hold_less_than_everything(small):
    clocks = [row["clock"] for row in small if "clock" in row]
    assert len(clocks) == 7
    for before, after in pairwise(clocks):
        assert all(after[key] >= before[key] for key in before)
    for clock in clocks:
        assert 0 < clock["train_s"] < clock["total_s"]
        assert 0 < clock["evaluate_s"] < clock["total_s"]


def test_the_warm_up_is_on_no_clock_and_changes_no_bit_of_the_result(worker, tmp_path, monkeypatch):
    tables = []
    for updates in (0, 2):
        monkeypatch.setattr(learner, "WARM_UP_UPDATES", updates)
        folder = tmp_path / str(updates)
        tables.append(timeless(run(worker, task(folder))))
        tables.append(timeless(read_json(folder / "record.json")))
    assert tables[0] == tables[2]
    assert tables[1] == tables[3]
    monkeypatch.setattr(learner, "WARM_UP_UPDATES", 100)
    rows = run(worker, task(tmp_path / "long"))
    assert rows[0]["startup_s"] > rows[-1]["clock"]["total_s"]


def test_no_result_depends_on_memory_nobody_has_written(worker, tmp_path, small):
    """Deterministic mode fills uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        rows = run(worker, task(tmp_path))
    finally:
        torch.use_deterministic_algorithms(False)
    assert timeless(rows) == timeless(small)


# -- 10: seeds ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_events_apart_from_times(worker, tmp_path):
    for name in ("a", "b"):
        run(worker, task(tmp_path / name, seed=3))
    assert timeless(events(tmp_path / "a")) == timeless(events(tmp_path / "b"))
    records = [timeless(read_json(tmp_path / name / "record.json")) for name in ("a", "b")]
    assert records[0] == records[1]


def batches_and_weights(settings: Settings, seed: int, worker: Worker, folder: Any) -> tuple[list[int], list[float]]:
    """The first epoch's examples and the initial weights (an LR of nearly zero keeps their bits)."""
    still = replace(settings, optimizer={**SGD, "lr": 1e-30})
    order = task(folder, still, seed, execution=EVERY_EVALUATION)
    worker.start(order)
    worker.advance(0.0)
    loaded = load_checkpoint(folder / "checkpoint")
    assert loaded is not None
    made = learner.Learner(still, seed, order.topology, worker.world, worker.splits(still, order.topology))
    drawn = [i for _, examples in made.micro_batches(0, 4) for i in examples[0].flatten().tolist()]
    return drawn, loaded[1]["model"]["head.weight"].flatten().tolist()


def test_another_seed_means_another_order_and_other_weights_on_the_same_split(worker, tmp_path):
    (order0, weights0), (order1, weights1) = (
        batches_and_weights(SMALL, seed, worker, tmp_path / str(seed)) for seed in (0, 1)
    )
    assert order0 != order1
    assert weights0 != weights1
    assert sorted(order0) == sorted(order1) == list(range(256))
    splits = [worker.splits(SMALL, task(tmp_path, seed=seed).topology) for seed in (0, 1)]
    assert splits[0] is splits[1]  # a trial's seed is no argument of its data


# -- 11: divergence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_an_lr_of_a_million_diverges(worker, tmp_path, precision):
    wild = replace(SMALL, optimizer={**SGD, "lr": 1e6})
    rows = run(worker, task(tmp_path, wild, precision=precision))
    assert [row["kind"] for row in rows] == ["ready", "evaluation", "end"]
    assert rows[-1]["outcome"] == Outcome.DIVERGED
    assert rows[-1]["diverged_at_step"] == 2  # the first update's loss is that of the initial weights
    assert rows[-1]["test"] == {}
    assert read_trial(tmp_path).outcome is Outcome.DIVERGED
    assert events(tmp_path)[2]["validation"] == {}


def test_losses_too_large_to_add_up_are_diverged_too(worker, tmp_path):
    """The quadratic's loss grows by a fifth in every update: three in a row are finite and their sum is not."""
    growing = replace(
        QUADRATIC,
        model={**QUADRATIC.model, "start": 6.85e152},
        total_batch_size=1,
        optimizer={"_target_": "torch.optim.SGD", "lr": 1 + 1.2**0.5},
        schedule={"_target_": "harness.plan.schedules.Constant"},
        evaluate_every_examples=20,
        budget_examples=20,
    )
    rows = run(worker, task(tmp_path, growing, precision="float64"))
    assert rows[-1]["outcome"] == Outcome.DIVERGED
    assert rows[-1]["diverged_at_step"] == 4  # 0.60e308, 0.72e308, 0.87e308, infinity


class HostReads(TorchFunctionMode):
    """Counts what makes the host wait for a device: reading a tensor's value."""

    READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(function, "__name__", "") in self.READS
        return function(*args, **(kwargs or {}))


def host_reads(worker: Worker, folder: Any, updates: int) -> int:
    """How often a trial of one interval of `updates` updates read a tensor."""
    once = replace(SMALL, evaluate_every_examples=64 * updates, budget_examples=64 * updates)
    with HostReads() as reads:
        run(worker, task(folder, once))
    return reads.count


def test_divergence_is_watched_without_reading_the_device_at_every_update(worker, tmp_path):
    run(worker, task(tmp_path / "loads the data"))
    few, many = host_reads(worker, tmp_path / "few", 2), host_reads(worker, tmp_path / "many", 20)
    assert few == many
    assert few >= 2  # the losses of the interval, the sums of the evaluations


# -- 13 and 14: what decides and when a trial stops -----------------------------------------------------------------


@pytest.mark.parametrize("decide_on", ["raw", "averaged"])
def test_a_trial_stops_at_the_evaluation_that_confirms_the_target(worker, tmp_path, decide_on):
    settings = replace(EASY, averaging=replace(EASY.averaging, decide_on=decide_on))
    rows = run(worker, task(tmp_path, settings))
    metrics = [row["validation"][decide_on]["accuracy"] for row in evaluations(rows)]
    place = settings.target.crossing(metrics)
    assert rows[-1]["outcome"] == Outcome.REACHED
    assert place.confirmed == len(metrics) - 1
    assert place.crossed == len(metrics) - 3
    assert read_trial(tmp_path).outcome is Outcome.REACHED


def test_a_trial_told_not_to_stop_at_its_target_trains_to_the_end_of_its_budget(worker, tmp_path, small):
    accuracy = [row["validation"]["averaged"]["accuracy"] for row in evaluations(small)]
    easy = replace(SMALL, target=Target("accuracy", min(accuracy), "max", confirm=1))
    stops = run(worker, task(tmp_path / "stops", easy))
    goes_on = run(worker, task(tmp_path / "goes on", replace(easy, stop_at_target=False)))
    assert (stops[-1]["outcome"], stops[-1]["step"]) == (Outcome.REACHED, 2)
    assert (goes_on[-1]["outcome"], goes_on[-1]["step"]) == (Outcome.REACHED, 12)
    assert timeless(evaluations(goes_on)) == timeless(evaluations(small))
    missed = run(worker, task(tmp_path / "misses", replace(SMALL, stop_at_target=False)))
    assert (missed[-1]["outcome"], missed[-1]["step"]) == (Outcome.CENSORED, 12)


def test_both_raw_and_averaged_weights_are_journalled_and_differ(small):
    for row in evaluations(small)[1:]:
        assert row["validation"]["raw"] != row["validation"]["averaged"]


def test_after_one_update_the_average_is_the_weights(worker, tmp_path):
    first = evaluations(run(worker, task(tmp_path, replace(SMALL, evaluate_every_examples=64))))[0]["validation"]
    assert first["raw"] == first["averaged"]


def test_the_memory_of_the_average_has_one_length_in_examples_at_every_batch_size(worker, tmp_path):
    """Quadratic without noise at a tiny LR: weights move on a line, so the average lags by its mean age in examples."""
    lags = []
    for size in (16, 64):
        flat = replace(
            QUADRATIC,
            dataset={**QUADRATIC.dataset, "variances": [0.0]},
            total_batch_size=size,
            optimizer={"_target_": "torch.optim.SGD", "lr": 1e-7 * size},
            schedule={"_target_": "harness.plan.schedules.Constant"},
            budget_examples=5120,
        )
        score = evaluations(run(worker, task(tmp_path / str(size), flat, precision="float64")))[-1]["validation"]
        # loss = 256 / 2 theta^2, and theta falls by 1e-7 x 5 an example.
        theta = {name: (score[name]["loss"] / 128) ** 0.5 for name in score}
        lags.append((theta["averaged"] - theta["raw"]) / 5e-7)
    # The mean age of an average with decay d is d / (1 - d) updates, half-life 128 examples.
    for size, lag in zip((16, 64), lags, strict=True):
        decay = 0.5 ** (size / 128)
        assert lag == pytest.approx(size * decay / (1 - decay), rel=1e-2)


def test_a_first_touch_that_is_not_confirmed_is_kept_and_does_not_stop_the_trial(worker, tmp_path, small):
    metrics = [row["validation"]["averaged"]["accuracy"] for row in evaluations(small)]
    assert metrics[-1] > max(metrics[:-1])  # the level is first reached at the last evaluation of the budget
    strict = replace(SMALL, target=Target("accuracy", metrics[-1], "max", confirm=2))
    rows = run(worker, task(tmp_path, strict))
    assert rows[-1]["outcome"] == Outcome.CENSORED
    stored = read_trial(tmp_path)
    kept = [row["validation"]["averaged"]["accuracy"] for row in stored.evaluations]
    assert strict.target.crossing(kept) == (5, None, None)


def test_a_target_out_of_reach_is_censored_at_the_budget(small):
    assert NEVER.crossing([1.0] * 5) == (None, None, None)
    assert small[-1]["outcome"] == Outcome.CENSORED
    assert small[-1]["step"] == 12
