"""What a checkpoint holds of a learner, and how the learner continues from it (P9)."""

from typing import Any

import torch
from torch import Tensor

from harness.train.buffers import Buffers, rank_values, set_rank_values
from harness.train.learner import Learner


def state_of(learner: Learner) -> dict[str, Any]:
    """What all ranks share: tensors and plain numbers only, so that `torch.load(weights_only=True)` reads it.

    All ranks must call it together; only rank 0 is sure to get whole tensors.
    """
    parallel = learner.parallel
    state: dict[str, Any] = {"model": parallel.model_state(), "optimizer": learner.optimizer_state()}
    state["schedule"] = learner.schedule.state()
    if learner.noise is not None:
        state["noise"] = learner.noise.state()
    if learner.gain is not None:
        state["gain"] = learner.gain.rule.state()
    state["diagnostics"], state["skipped"] = learner.diagnostics.state(), learner.skipped
    if learner.scaler is not None:
        state["scaler"] = learner.scaler.state()
    if learner.average is not None:
        state["average"] = {"model": parallel.model_state(learner.average), "steps": learner.average.steps}
    if learner.buffers.moving:
        state["moving"] = learner.buffers.moving
        state["transient"] = {kind: buffers.transient() for kind, buffers in _buffers(learner).items()}
    return state


def restore(learner: Learner, state: dict[str, Any]) -> None:
    """Continue from what `state_of` returned."""
    learner.parallel.load_model(state["model"])
    learner.load_optimizer(state["optimizer"])
    learner.schedule.restore(state["schedule"])
    learner.diagnostics.restore(state["diagnostics"])
    if learner.noise is not None and "noise" in state:
        learner.noise.restore(state["noise"])
    if learner.gain is not None:
        learner.gain.rule.restore(state["gain"])
    learner.skipped = state["skipped"]
    if learner.scaler is not None:
        learner.scaler.restore(state["scaler"])
    if learner.average is not None:
        learner.parallel.load_model(state["average"]["model"], learner.average)
        learner.average.steps = state["average"]["steps"]
    _restore_buffers(learner, state)


def continue_from(learner: Learner, state: dict[str, Any], total_batch_size: int) -> None:
    """Load weights, optimizer state and average from the `state` of a trial at `total_batch_size`, nothing else."""
    learner.parallel.load_model(state["model"])
    learner.load_optimizer({**learner.optimizer_state(), "state": state["optimizer"]["state"]})
    if learner.average is not None:
        learner.parallel.load_model(state["average"]["model"], learner.average)
        # It has seen the same examples, in a different number of updates.
        learner.average.steps = max(1, state["average"]["steps"] * total_batch_size // learner.batch.total_batch_size)
    _restore_buffers(learner, state)


def _buffers(learner: Learner) -> dict[str, Buffers]:
    """By whose they are, with what is known to move."""
    if learner.average is None:
        return {"model": learner.buffers}
    learner.average.buffers.moving = learner.buffers.moving
    return {"model": learner.buffers, "average": learner.average.buffers}


def _restore_buffers(learner: Learner, state: dict[str, Any]) -> None:
    """What `state_dict` leaves out; an earlier version stored neither key."""
    learner.buffers.moving = list(state.get("moving", ()))
    for kind, buffers in _buffers(learner).items():
        buffers.load(state.get("transient", {}).get(kind, {}))


def rank_state(learner: Learner) -> Tensor:
    """What differs between ranks until an evaluation reduces it, float64 [k]: running batch-norm averages, sums of
    squared gradients, buffers. All ranks must call it together."""
    learner.buffers.note_moving(learner.world)
    none = torch.zeros(0, dtype=torch.float64, device=learner.world.device)
    return torch.cat([none, *_own(learner), *rank_values(_moved(learner))])


def restore_rank_state(learner: Learner, state: Tensor) -> None:
    """Continue from what `rank_state` returned on this rank."""
    own, moved = _own(learner), _moved(learner)
    values = state.split([value.numel() for value in (*own, *rank_values(moved))])
    for tensor, value in zip(own, values[: len(own)], strict=True):
        tensor.copy_(value)
    set_rank_values(moved, values[len(own) :])


def _moved(learner: Learner) -> list[Tensor]:
    return [value for buffers in _buffers(learner).values() for value in buffers.moved()]


def _own(learner: Learner) -> list[Tensor]:
    """Flat views of the state that only this rank has."""
    values = [value for layer in learner.running for value in (layer.mean, layer.var)]
    return values if learner.noise is None else [*values, learner.noise.sums.view(-1)]
