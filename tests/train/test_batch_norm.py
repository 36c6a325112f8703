"""P3: batch norm over a chosen span, and evaluation statistics that belong to the weights being evaluated."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from processes import on_ranks
from small_trials import DIGITS, EVERY_EVALUATION, GHOST, SGD, SMALL, evaluations, run, task
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from harness.datasets.digits import Digits
from harness.datasets.examples import Batch
from harness.models.bn_cnn import BnCnn
from harness.plan.errors import UserError
from harness.plan.settings import Averaging, BatchNorm
from harness.plan.target import Target
from harness.train.batch_norm import SpanBatchNorm, batch_norms, convert_batch_norm, reestimate
from harness.train.checkpoint import load_checkpoint
from harness.train.stream import ExampleStream, group_layout
from harness.train.world import World

ALONE = World(0, 1, torch.device("cpu"))


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cnn(plan: BatchNorm | None = None) -> nn.Module:
    """The digits CNN with weights, scales and shifts drawn; plain, or converted to `plan`."""
    torch.manual_seed(0)
    model = BnCnn().double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    return model if plan is None else convert_batch_norm(model, plan).double()


def laid_out(x: Tensor, group: int) -> Tensor:
    return x[group_layout(torch.arange(len(x)), group)]


class Copies(TorchDispatchMode):
    """Counts copies of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        if func in (aten.clone.default, aten.copy_.default, aten._to_copy.default) and made.dim() > 2:
            self.count += 1
        return made


def passed(in_place: bool, affine: bool, memory_format: torch.memory_format, dtype: torch.dtype) -> tuple[Any, int]:
    """What a ghost batch norm and an in-place activation give, forward and backward, and the copies that it takes."""
    make = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, 4, 3, generator=make, dtype=torch.float64) * 3 + 2
    x = x.to(dtype, memory_format=memory_format).requires_grad_()
    plain = nn.BatchNorm2d(5, affine=affine).to(torch.promote_types(dtype, torch.float32))
    if affine:
        plain.weight.data = torch.rand(5, generator=make).to(plain.weight)
        plain.bias.data = torch.rand(5, generator=make).to(plain.bias)
    layer = SpanBatchNorm(plain, "ghost", 4).to(torch.promote_types(dtype, torch.float32))
    layer.in_place, layer.collecting = in_place, True
    weigh = torch.randn(12, 5, 4, 3, generator=make, dtype=torch.float64).to(dtype, memory_format=memory_format)
    with Copies() as seen:
        out = functional.relu(layer(x), inplace=True)
        out.backward(weigh)
    assert out.is_contiguous(memory_format=memory_format) or not in_place
    return [out.detach(), x.grad, *(p.grad for p in plain.parameters()), *layer.collected()], seen.count


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_activations_in_channels_last_are_normalised_alike_without_a_copy(affine, dtype, tolerance):
    folded, copies = passed(False, affine, torch.channels_last, dtype)
    assert copies > 0
    found, copies = passed(True, affine, torch.channels_last, dtype)
    assert copies == 0
    torch.testing.assert_close(found, folded, rtol=tolerance, atol=tolerance)


def test_an_in_place_activation_after_a_ghost_group_copies_no_gradient():
    assert passed(False, True, torch.contiguous_format, torch.float32)[1] == 0


@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_a_ghost_group_is_normalised_as_if_it_were_alone(groups, shape):
    plain, span = nn.BatchNorm1d(6) if shape == () else nn.BatchNorm2d(6), 4
    plain = plain.double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    ghost = SpanBatchNorm(plain, "ghost", span)
    x = torch.randn(span * groups, 6, *shape, dtype=torch.float64, requires_grad=True)
    together = ghost(x[group_layout(torch.arange(len(x)), span)])
    alone = torch.cat([plain(part) for part in x.split(span)])
    torch.testing.assert_close(together, laid_out(alone, span))
    weigh = torch.randn_like(alone)
    inputs = (x, plain.weight, plain.bias)
    expected = torch.autograd.grad((alone * weigh).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((together * laid_out(weigh, span)).sum(), inputs), expected)


def by_hand(examples: Tensor, span: int) -> list[tuple[Tensor, Tensor]]:
    """Per layer, the mean over groups of what torch's own batch norm with momentum 1 keeps of one group."""
    kept = []
    for part in examples.split(span):
        model = cnn()
        layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            model.train()(part)
        kept.append(layers)
    return [
        (torch.stack([x.running_mean for x in layer]).mean(0), torch.stack([x.running_var for x in layer]).mean(0))
        for layer in zip(*kept, strict=True)
    ]


def reestimated(world: World, plan: BatchNorm, examples: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The statistics that this rank ends with, its share of the groups being a contiguous one."""
    model = cnn(plan)
    start, stop = world.share(len(examples) // plan.span_examples)
    mine = examples[start * plan.span_examples : stop * plan.span_examples]
    mine = laid_out(mine, plan.span_examples) if len(mine) else mine
    reestimate(model, Batch(mine, torch.zeros(len(mine))), plan, world)
    return [(layer.mean.clone(), layer.var.clone()) for layer in batch_norms(model)]


def test_reestimated_statistics_are_the_mean_over_ghost_groups_at_the_weights_given():
    torch.testing.assert_close(reestimated(ALONE, GHOST, images(64)), by_hand(images(64), 16), rtol=1e-12, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 5])
def test_reestimated_statistics_are_the_same_on_any_number_of_ranks_also_where_some_have_no_group(ranks):
    alone = reestimated(ALONE, GHOST, images(64))
    for rank in on_ranks(ranks, reestimated, GHOST, images(64)):
        torch.testing.assert_close(rank, alone, rtol=1e-12, atol=1e-12)


def test_reestimation_leaves_the_model_training_as_it_was():
    model = cnn(GHOST)
    model.train()
    before = model(images(32))
    reestimate(model, Batch(laid_out(images(64), 16), torch.zeros(64)), GHOST, ALONE)
    assert model.training
    assert torch.equal(model(images(32)), before)


def statistics_after(folder, worker, updates: int, batch_norm: BatchNorm, **changes: object) -> dict[str, Tensor]:
    """The model's buffers in the checkpoint after `updates` updates."""
    settings = replace(
        SMALL, batch_norm=batch_norm, evaluate_every_examples=64 * updates, budget_examples=128 * updates, **changes
    )
    worker.start(task(folder, settings, execution=EVERY_EVALUATION, precision="float64"))
    worker.advance(0.0)
    worker.stop()
    loaded = load_checkpoint(folder / "checkpoint")
    assert loaded is not None
    assert loaded[0] == updates
    return loaded[1]["model"]


def test_the_running_average_takes_one_update_a_step_from_all_groups_and_forgets_by_examples(worker, tmp_path):
    running = BatchNorm("ghost", 16, statistics="running", half_life_examples=100.0)
    still = {"optimizer": {**SGD, "lr": 1e-30}}
    found = statistics_after(tmp_path, worker, 6, running, **still)
    data = Digits(256, 70, 50).load().train
    first = nn.functional.conv2d
    decay, mean, var = 0.5 ** (64 / 100), torch.zeros(16).double(), torch.ones(16).double()
    stream = ExampleStream(0, 256)
    for step in range(6):
        batch = data.batch(stream.positions(step * 64, (step + 1) * 64)).inputs.double()
        groups = first(batch, found["features.0.weight"], padding=1).unflatten(0, (4, 16))
        # Mean over the step's groups of each group's mean and unbiased variance.
        mean = decay * mean + (1 - decay) * groups.mean((1, 3, 4)).mean(0)
        var = decay * var + (1 - decay) * groups.transpose(1, 2).flatten(2).var(-1).mean(0)
    torch.testing.assert_close((found["features.1.mean"], found["features.1.var"]), (mean, var))


def test_the_running_average_is_the_same_for_every_split_of_the_batch(worker, tmp_path):
    running = replace(SMALL, batch_norm=BatchNorm("ghost", 16, statistics="running", half_life_examples=256.0))
    tables = [
        evaluations(run(worker, task(tmp_path / str(steps), running, accumulation=steps, precision="float64")))
        for steps in (1, 2, 4)
    ]
    for table in tables[1:]:
        assert [row["validation"]["raw"]["loss"] for row in table] == pytest.approx(
            [row["validation"]["raw"]["loss"] for row in tables[0]], abs=1e-10
        )


def test_sync_spans_the_micro_batches_of_all_ranks():
    expected = whole_batch(ALONE)
    for rank in on_ranks(2, whole_batch):
        torch.testing.assert_close(rank, expected)


def whole_batch(world: World) -> tuple[Tensor, Tensor]:
    """Input gradient and statistics of a sync batch norm that sees 12 examples over all ranks."""
    x = torch.randn(12, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weigh = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer = SpanBatchNorm(nn.BatchNorm1d(3).double(), "sync", 12).double()
    layer.collecting = True
    start, stop = world.share(12)
    mine = x[start:stop].requires_grad_()
    (layer(mine) * weigh[start:stop]).sum().backward()
    assert mine.grad is not None
    mean, var, groups = layer.collected()
    everyone = torch.zeros_like(x)
    everyone[start:stop] = mine.grad
    return world.sum(everyone), torch.stack([mean, var]) / groups


def test_every_batch_norm_of_a_model_is_converted_and_keeps_its_weights():
    plain, converted = cnn(), cnn(GHOST)
    assert len(batch_norms(converted)) == 3
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in converted.modules())
    assert [name for name, _ in converted.named_parameters()] == [name for name, _ in plain.named_parameters()]
    torch.testing.assert_close(converted(laid_out(images(32), 16))[::2], cnn()(images(16)))


def test_a_batch_norm_without_a_declared_span_is_refused():
    with pytest.raises(UserError, match=r"the model has batch norm but .* none: choose one of ghost"):
        convert_batch_norm(BnCnn(), BatchNorm())


def test_a_batch_norm_that_does_more_than_normalise_is_refused():
    class ActivatedBatchNorm(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="ActivatedBatchNorm is not torch's own batch norm and cannot be converted"):
        convert_batch_norm(nn.Sequential(ActivatedBatchNorm(3)), GHOST)


def test_evaluation_statistics_depend_on_the_weights_alone_not_on_the_batches_that_led_there(worker, tmp_path):
    still = replace(SMALL, optimizer={**SGD, "lr": 1e-30}, evaluate_every_examples=256)  # every weight keeps its bits
    losses = set()
    for size in (16, 64, 256):
        rows = evaluations(run(worker, task(tmp_path / str(size), replace(still, total_batch_size=size))))
        losses |= {row["validation"]["raw"]["loss"] for row in rows}
    assert len(losses) == 1


@pytest.mark.long
def test_running_statistics_fake_slowness_at_a_large_batch_and_reestimated_ones_do_not(worker, tmp_path):
    """Digits at TBS 512, square-root rule: a memory of 10 steps moves the crossing, one of half a step and
    re-estimation agree."""
    large = replace(
        SMALL,
        dataset={**DIGITS, "train": 1024, "validation": 386, "test": 387},
        train_examples=1024,
        total_batch_size=512,
        optimizer={**SGD, "lr": 0.08 * (512 / 16) ** 0.5},
        schedule={"_target_": "harness.plan.schedules.Constant", "warmup": 2},
        target=Target("accuracy", 0.97, "max"),
        budget_examples=40 * 1024,
        evaluate_every_examples=512,
        averaging=Averaging(256, "averaged"),
    )
    crossing = {}
    for name, batch_norm in {
        "reestimated": BatchNorm("ghost", 16, statistics_examples=256),
        "half a step": BatchNorm("ghost", 16, statistics="running", half_life_examples=256.0),
        "10 steps": BatchNorm("ghost", 16, statistics="running", half_life_examples=5120.0),
    }.items():
        epochs = []
        for seed in range(3):
            order = task(tmp_path / f"{name}-{seed}", replace(large, batch_norm=batch_norm), seed)
            epochs.append(evaluations(run(worker, order))[-2]["epochs"])
        crossing[name] = sorted(epochs)[1]
    assert abs(crossing["half a step"] - crossing["reestimated"]) <= 2.0, crossing
    assert crossing["10 steps"] >= 1.5 * crossing["reestimated"], crossing
