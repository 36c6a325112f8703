"""Precision as a part of the topology: half precision learns the same thing, a skipped update is none (P11)."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_trials import NEVER, SGD, SMALL, WITHOUT_BATCH_NORM, evaluations, run, run_on_ranks, task, topology
from torch import Tensor, nn

from harness.datasets.digits import Digits
from harness.datasets.examples import Splits
from harness.plan.errors import UserError
from harness.plan.trial import Topology
from harness.train.evaluation import Evaluator
from harness.train.learner import PROBES, WARM_UP_UPDATES, Learner
from harness.train.learner_state import restore, state_of
from harness.train.precision import Precision
from harness.train.trainer import Execution
from harness.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
RAMP = {"_target_": "harness.plan.schedules.Constant", "warmup": 8}


class Overflows(nn.Module):
    """Its output is fine, but the gradient of a large input overflows half precision once the loss is scaled."""

    def __init__(self, at_call: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.calls, self.at_call = 0, at_call

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.head(images.flatten(1)) * (1.0 if self.calls != self.at_call else 3e4)


def learner(settings, precision: str) -> Learner:
    splits: Splits = Digits(256, 70, 50).load()
    return Learner(settings, 0, topology(settings, precision=precision), ALONE, splits)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_computes_in_half_and_keeps_weights_and_losses_in_float32(precision, dtype):
    made = learner(SMALL, precision)
    seen = []
    made.model.features[3].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))  # type: ignore
    step, examples = next(made.micro_batches(0, 1))
    loss = made.update(step, examples)
    Evaluator(made, 1000).evaluate(made.splits.validation, averaged=True)
    assert set(seen) == {dtype}
    assert {p.dtype for p in made.model.parameters()} == {loss.dtype} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_float32_within_its_rounding(worker, tmp_path, precision):
    exact = evaluations(run(worker, task(tmp_path / "float32")))
    rough = evaluations(run(worker, task(tmp_path / precision, precision=precision)))
    losses = [[row["train_loss"] for row in rows] for rows in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_an_update_skipped_in_fp16_is_counted_and_moves_neither_weights_nor_schedule_nor_average():
    settings = replace(
        WITHOUT_BATCH_NORM,
        model={"_target_": f"{__name__}.Overflows"},
        schedule=RAMP,
        optimizer={**SGD, "momentum": 0.0},
    )
    made = learner(settings, "fp16")
    rates, skipped = [], []
    for step, examples in made.micro_batches(0, 6):
        before = [p.detach().clone() for p in made.model.parameters()]
        made.update(step, examples)
        skipped.append(made.skipped)
        rates.append(made.optimizer.param_groups[0]["lr"])
        unmoved = all(torch.equal(old, new) for old, new in zip(before, made.model.parameters(), strict=True))
        assert unmoved == (step == 2)
    assert skipped == [0, 0, 1, 1, 1, 1]
    assert rates == pytest.approx([0.1 * n / 8 for n in (1, 2, 3, 3, 4, 5)])
    assert made.average is not None
    assert made.average.steps == 5
    assert made.diagnostics.updates == 5


def test_an_fp16_trial_interrupted_after_a_skipped_update_ends_with_the_same_numbers():
    settings = replace(WITHOUT_BATCH_NORM, model={"_target_": f"{__name__}.Overflows"}, schedule=RAMP)
    whole, resumed = learner(settings, "fp16"), learner(settings, "fp16")
    batches = list(whole.micro_batches(0, 6))
    for step, examples in batches[:4]:
        whole.update(step, examples)
    restore(resumed, copy.deepcopy(state_of(whole)))
    resumed.model.calls = whole.model.calls  # type: ignore
    losses = [[m.update(step, examples).item() for step, examples in batches[4:]] for m in (whole, resumed)]
    assert losses[0] == losses[1]
    assert resumed.skipped == whole.skipped == 1
    assert resumed.lr(6) == whole.lr(6)


def test_ranks_agree_on_what_fp16_skips(tmp_path):
    # This call of the model is an update of the trial's own, after the probes and the two of the warm-up.
    model = {"_target_": f"{__name__}.Overflows", "at_call": PROBES + WARM_UP_UPDATES + 1}
    settings = replace(WITHOUT_BATCH_NORM, model=model, schedule=RAMP, target=NEVER)
    rows = evaluations(run_on_ranks(task(tmp_path, settings, world=2, precision="fp16"))[0])
    assert [row["skipped_updates"] for row in rows] == [1] * len(rows)


def test_tf32_is_refused_where_it_does_not_exist():
    with pytest.raises(UserError, match="tf32 is available on GPUs only"):
        topology(SMALL, precision="tf32")
    assert Topology(topology(SMALL).batch, "cuda", "tf32").key.endswith("-tf32")


def test_channels_last_is_a_matter_of_rounding(worker, tmp_path):
    tables = [
        evaluations(
            run(worker, task(tmp_path / str(flag), execution=Execution(channels_last=flag), precision="float64"))
        )
        for flag in (False, True)
    ]
    losses = [[row["train_loss"] for row in rows] for rows in tables]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.long
def test_a_compiled_trial_is_a_matter_of_rounding_and_the_next_trial_compiles_nothing(worker, tmp_path):
    compiled = Execution(compile=True)
    plain = evaluations(run(worker, task(tmp_path / "eager", precision="float64")))
    torch._dynamo.utils.counters.clear()  # pyright: ignore
    first = evaluations(run(worker, task(tmp_path / "first", execution=compiled, precision="float64")))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]  # pyright: ignore
    second = run(worker, task(tmp_path / "second", seed=1, execution=compiled, precision="float64"))
    assert [row["train_loss"] for row in first] == pytest.approx([row["train_loss"] for row in plain], rel=1e-9)
    assert graphs >= 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # pyright: ignore
    assert len(evaluations(second)) == len(first)


class AsTransformers(nn.Module):
    """Answers as the models of transformers do, with an object that has the logits among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(64, 10)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=None, logits=self.classifier(pixel_values.flatten(1)))


def test_a_model_that_answers_as_those_of_transformers_do_is_trained_and_evaluated(worker, tmp_path):
    settings = replace(WITHOUT_BATCH_NORM, model={"_target_": f"{__name__}.AsTransformers"})
    rows = evaluations(run(worker, task(tmp_path, settings)))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["validation"]["raw"]["accuracy"] > rows[0]["validation"]["raw"]["accuracy"]


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.complex64), ("float64", torch.complex128)])
def test_complex_buffers_keep_their_imaginary_parts(precision, dtype):
    model = torch.nn.Linear(2, 2)
    model.register_buffer("phase", torch.tensor([1j, 2j]))
    placed = Precision(precision, torch.device("cpu")).place(model)
    assert placed.get_buffer("phase").dtype == dtype
    assert placed.get_buffer("phase").imag.tolist() == [1.0, 2.0]
    assert placed.get_parameter("weight").dtype == dtype.to_real()
