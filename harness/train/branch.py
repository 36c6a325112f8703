"""Branches: a trial that begins where another one of its study stood, at another batch size and LR."""

from pathlib import Path
from typing import Any

import torch

from harness.plan.settings import Settings
from harness.plan.trial import Arm, Trial
from harness.train.checkpoint import save_checkpoint
from harness.train.learner import Learner
from harness.train.learner_state import continue_from, state_of

KEPT = "kept"  # folder of the states that branches begin at, beside the trial's checkpoints


def keep_state(learner: Learner, folder: Path, examples: int) -> None:
    """Keep what a branch needs at `examples` of the trial in `folder`; rank 0 writes, all ranks hold the same."""
    if learner.world.is_main and examples in learner.settings.keep_at_examples:
        save_checkpoint(folder / KEPT, examples, state_of(learner), keep=None)


def begin_branch(learner: Learner, folder: Path) -> None:
    """Take over weights, optimizer state and average of the trial that the settings start from, where they do.

    `folder` is the branch's own, in the same study. Momentum, betas and weight decay are the branch's, its schedule
    starts anew. Raises RuntimeError where the state is not there.
    """
    start = learner.settings.start
    if start is None:
        return
    state = _load(folder, start.settings, learner.seed, start.examples)
    continue_from(learner, state, start.settings.total_batch_size)


def _load(folder: Path, settings: Settings, seed: int, examples: int) -> dict[str, Any]:
    trial_id = Trial(Arm("", "", "", 1, 1.0, settings), seed).trial_id
    found = sorted((folder.parent.parent / trial_id).glob(f"*/{KEPT}/{examples}.pt"))
    if not found:
        raise RuntimeError(f"trial {trial_id}, which this one branches from, has kept no state at {examples} examples")
    return torch.load(found[0], map_location="cpu", weights_only=True)
