"""Branches: a trial that starts from another trial's state in the same study, at another batch size and LR."""

from pathlib import Path
from typing import Any

import torch

from harness.plan.settings import Settings
from harness.plan.trial import Arm, Trial
from harness.train.checkpoint import save_checkpoint
from harness.train.learner import Learner
from harness.train.learner_state import continue_from, state_of

KEPT = "kept"  # folder of the states that branches start from, next to the trial's checkpoints


def keep_state(learner: Learner, folder: Path, examples: int) -> None:
    """Save what a branch needs at `examples` of the trial in `folder`; rank 0 writes, all ranks must call it."""
    if examples not in learner.settings.keep_at_examples:
        return
    state = state_of(learner)
    if learner.world.is_main:
        save_checkpoint(folder / KEPT, examples, state, keep=None)


def begin_branch(learner: Learner, folder: Path) -> None:
    """Load weights, optimizer state and average of the trial that the settings start from, if they name one.

    `folder` is the branch's own, in the same study. Momentum, betas and weight decay are the branch's, and its schedule
    starts from the beginning. Raises RuntimeError where the state is missing.
    """
    start = learner.settings.start
    if start is None:
        return
    state = _load(folder, start.settings, learner.seed, start.examples, learner.parallel.is_sharded)
    continue_from(learner, state, start.settings.total_batch_size)


def _load(folder: Path, settings: Settings, seed: int, examples: int, maps: bool) -> dict[str, Any]:
    """`maps`: as for `load_checkpoint`."""
    trial_id = Trial(Arm("", "", "", 1, 1.0, settings), seed).trial_id
    kept = sorted((folder.parent.parent / trial_id).glob(f"*/{KEPT}/{examples}.pt"))
    if not kept:
        raise RuntimeError(
            f"trial {trial_id}, which this trial branches from, has no saved state at {examples} examples"
        )
    return torch.load(kept[0], map_location="cpu", weights_only=True, mmap=maps)
