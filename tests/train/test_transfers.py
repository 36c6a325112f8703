"""An update copies nothing between host and device and reads nothing back, whatever it consists of.

On the meta device a read raises by itself, and any operation on tensors of two devices is a copy.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_trials import GHOST, MLP, SMALL, topology
from test_cuda_graph import OPTIMIZERS, optimizer
from test_objective_topologies import LOSSES, Made, settings_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.datasets.augment import Augmentation
from harness.datasets.examples import Augment, Examples, Splits, TensorExamples
from harness.plan.execution import Speed
from harness.plan.settings import BatchNorm, Settings
from harness.train import supply
from harness.train.learner import Learner
from harness.train.world import World

DEVICE = torch.device("meta")


class Transfers(TorchDispatchMode):
    """Counts operations that have tensors on two devices; a scalar of the host is an argument of a kernel, no copy."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        values = [v for v in tree_leaves((args, kwargs, made)) if isinstance(v, Tensor)]
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if len({v.device for v in values if is_copy or v.dim()}) > 1:
            self.found.append(str(func))
        return made


def transfers(
    settings: Settings,
    data: Examples,
    augment: Augment | None = None,
    accumulation: int = 1,
    speed: Speed | None = None,
    all_count: bool = True,
) -> list[str]:
    """Operations of two updates that copy, the second update before an evaluation."""
    examples = data.to(DEVICE, torch.float32)
    # Otherwise the targets are looked through, once, before training.
    object.__setattr__(examples, "every_target_counts", all_count)
    where = topology(settings, accumulation=accumulation)
    splits = Splits(examples, examples, examples, "", augment=augment)
    made = Learner(settings, 0, where, World(0, 1, DEVICE), splits, speed)
    (_, first), *updates = made.micro_batches(0, 3)
    made.update(0, first)  # brings tables to the device
    with Transfers() as seen:
        for step, drawn in updates:
            made.update(step, drawn, last=step == 2)
    return seen.found


IMAGES = TensorExamples(torch.zeros(256, 1, 8, 8), torch.zeros(256, dtype=torch.int64))
DENSE = {**MLP, "widths": [16, 16], "dropout": 0.5}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("recorded", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_optimizer_copies(name, recorded):
    settings = replace(SMALL, model=DENSE, batch_norm=BatchNorm(), optimizer=optimizer(name), clip_norm=1.0)
    assert not transfers(settings, IMAGES, speed=Speed(cuda_graph=recorded))


# Torch's ctc_loss needs lengths on the host (Objective.waits), so it is not among them.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "ctc"])
def test_no_loss_copies(name):
    examples = Made("tensor", LOSSES[name][1]).load().train
    assert not transfers(settings_of("tensor", name), examples, accumulation=4, all_count="some" not in LOSSES[name])


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(pad_crop=2, cutout=2),
        Augmentation(pad_crop=0, random_resized_crop=0.3),
        Augmentation(mixup_alpha=0.4, label_smoothing=0.1, classes=10),
    ],
)
def test_no_augmentation_copies(monkeypatch, augment):
    for bytes_of_a_chunk in (0, 3 << 13):  # one micro-batch, and one and a half updates, at a time
        monkeypatch.setattr(supply, "CHUNK_BYTES", {"meta": bytes_of_a_chunk})
        assert not transfers(replace(SMALL, model=DENSE), IMAGES, augment, accumulation=2)


@pytest.mark.parametrize("span", ["ghost", "sync", "per_device"])
@pytest.mark.parametrize("statistics", ["reestimated", "running"])
def test_no_batch_norm_copies(span, statistics):
    half_life = 128 if statistics == "running" else 0
    mode = replace(GHOST, span=span, statistics=statistics, half_life_examples=half_life)
    assert not transfers(replace(SMALL, batch_norm=mode), IMAGES, speed=Speed(channels_last=True))


def test_recomputing_activations_copies_nothing():
    assert not transfers(SMALL, IMAGES, accumulation=2, speed=Speed(activation_checkpointing=True))


class Planted(nn.Module):
    """A model that does `what` in its forward pass."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "read":
            x = x * x.mean().item()
        elif self.what == "copy":
            x = x * torch.ones(8).to(x.device)
        return self.head(x.flatten(1))


def test_a_read_and_a_copy_in_a_model_are_found():
    def planted(what: str) -> list[str]:
        model = {"_target_": f"{__name__}.Planted", "what": what}
        return transfers(replace(SMALL, model=model, batch_norm=BatchNorm()), IMAGES)

    assert planted("") == []
    assert planted("copy") == ["aten._to_copy.default"] * 2
    with pytest.raises(RuntimeError, match="item"):
        planted("read")
