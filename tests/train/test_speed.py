"""Options that make updates faster or smaller: the numbers stay, and what cannot be is refused before a launch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trials import (
    GHOST,
    MLP,
    SGD,
    SMALL,
    WITHOUT_BATCH_NORM,
    evaluations,
    run,
    run_on_ranks,
    task,
    timeless,
    topology,
)

from harness.datasets.digits import Digits
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Settings
from harness.plan.trial import Arm, PlannedTrial, Trial
from harness.train.learner import Learner
from harness.train.rehearsal import rehearse
from harness.train.trainer import Execution
from harness.train.world import World

CHECKPOINTED = Execution(activation_checkpointing=True)
COMPRESSED = Execution(gradient_compression=True)
RUNNING = replace(SMALL, batch_norm=replace(GHOST, statistics="running", half_life_examples=128))
RESNET = replace(SMALL, model={"_target_": "harness.models.resnet.CifarResNet", "depth": 20, "in_channels": 1})
GRAPH, FUSED = Speed(cuda_graph=True), Speed(fused=True)
ASGD = {"_target_": "torch.optim.ASGD", "lr": 0.1}
DROPOUT = replace(WITHOUT_BATCH_NORM, model={**MLP, "dropout": 0.5})


def learner(speed: Speed, settings: Settings = SMALL) -> Learner:
    world = World(0, 1, torch.device("cpu"))
    return Learner(settings, 0, topology(settings), world, Digits(256, 70, 50).load(), speed)


def rehearsed(settings: Settings, speed: Speed, precision: str = "float32") -> None:
    trial = Trial(Arm("digits", "sgd", "none", 64, 0.1, settings), 0)
    rehearse([PlannedTrial(trial, topology(settings, precision=precision))], Digits(256, 70, 50).load(), speed)


# -- activation checkpointing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL, RUNNING, DROPOUT], ids=["batch norm", "running statistics", "dropout"])
def test_activations_computed_again_change_no_number(worker, tmp_path, settings):
    kept = evaluations(run(worker, task(tmp_path / "kept", settings)))
    again = evaluations(run(worker, task(tmp_path / "again", settings, execution=CHECKPOINTED)))
    for row, other in zip(kept, again, strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-6)
        assert other["validation"]["averaged"] == pytest.approx(row["validation"]["averaged"], rel=1e-6)


@pytest.mark.long
def test_activations_computed_again_change_no_number_on_two_ranks(tmp_path):
    orders = [
        task(tmp_path / str(number), world=2, execution=execution)
        for number, execution in enumerate((Execution(), CHECKPOINTED))
    ]
    kept, again = run_on_ranks(*orders)
    assert timeless(evaluations(kept)) == timeless(evaluations(again))


def saved_bytes(speed: Speed, settings: Settings) -> int:
    """What a forward pass keeps for its backward pass."""
    made, sizes = learner(speed, settings), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made.outputs(made.train_model, made.splits.train.batch(torch.arange(64)))
    return sum(sizes)


def test_fewer_activations_are_kept_and_no_parameter_changes_its_name():
    for settings in (SMALL, RESNET):
        assert saved_bytes(Speed(activation_checkpointing=True), settings) < 0.5 * saved_bytes(Speed(), settings)
    plain, again = learner(Speed()), learner(Speed(activation_checkpointing=True))
    assert list(plain.model.state_dict()) == list(again.model.state_dict())


@pytest.mark.long
def test_a_compiled_trial_computes_its_activations_again_too(worker, tmp_path):
    both = Execution(compile=True, activation_checkpointing=True)
    plain = evaluations(run(worker, task(tmp_path / "eager", precision="float64")))
    found = evaluations(run(worker, task(tmp_path / "both", execution=both, precision="float64")))
    assert [row["train_loss"] for row in found] == pytest.approx([row["train_loss"] for row in plain], rel=1e-9)


# -- gradient compression -------------------------------------------------------------------------------------------


def test_gradients_exchanged_in_bf16_follow_those_in_float32_within_rounding(tmp_path: Path):
    orders = [
        task(tmp_path / str(number), world=2, precision="bf16", execution=execution)
        for number, execution in enumerate((Execution(), COMPRESSED))
    ]
    exact, rounded = ([row["train_loss"] for row in evaluations(rows)] for rows in run_on_ranks(*orders))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "speed", "precision", "message"),
    [
        (RUNNING, Speed(compile=True), "float32", "compile=true does not work with .*running: use reestimated"),
        (SMALL, Speed(gradient_compression=True), "float32", "use it with cluster.precision=bf16"),
        (RUNNING, GRAPH, "float32", "cuda_graph=true does not work with .*running: use reestimated"),
        (SMALL, GRAPH, "fp16", "cuda_graph=true does not work with cluster.precision=fp16"),
        (SMALL, replace(GRAPH, fused=True), "float32", "cuda_graph=true does not work with cluster.fused=true"),
        (replace(SMALL, noise_scale=NoiseScale(in_training=True)), GRAPH, "float32", "noise_scale.in_training"),
        (replace(SMALL, loss="ctc"), GRAPH, "float32", "cuda_graph=true does not work with loss ctc"),
        (replace(SMALL, optimizer=ASGD), GRAPH, "float32", "choose one of Adadelta, .*SGD, not ASGD"),
        (replace(SMALL, optimizer={**SGD, "dampening": 0.1}), GRAPH, "float32", "optimizer.dampening=0.1"),
        (replace(SMALL, optimizer=ASGD), FUSED, "float32", "choose one of Adam, AdamW, SGD of torch.optim, not .*ASGD"),
        (replace(SMALL, optimizer={**SGD, "fused": False}), FUSED, "float32", "contradicts optimizer.fused=false"),
        (
            replace(SMALL, model={"_target_": "torch.nn.Linear", "in_features": 64, "out_features": 10}),
            Speed(activation_checkpointing=True),
            "float32",
            "blocks, which Linear does not have",
        ),
        (
            replace(SMALL, noise_scale=NoiseScale(frozen_every_examples=128, frozen_units=16)),
            Speed(activation_checkpointing=True),
            "float32",
            "needs per-example gradients",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_the_rehearsal(settings: Settings, speed: Speed, precision: str, message: Any):
    with pytest.raises(UserError, match=message):
        rehearsed(settings, speed, precision)


def test_a_rehearsal_compiles_nothing_and_accepts_what_can_be_run():
    rehearsed(SMALL, Speed(compile=True, activation_checkpointing=True, channels_last=True, fused=True))
    rehearsed(SMALL, Speed(compile=True, cuda_graph=True))
    rehearsed(SMALL, Speed(gradient_compression=True), precision="bf16")
