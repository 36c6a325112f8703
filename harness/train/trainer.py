"""The one loop: train to the next evaluation, evaluate, agree on what to do; until the target, the budget or the end.

It reads top to bottom like the protocol. Every rank runs it; rank 0 writes the journal and decides, the others follow.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.datasets.examples import Splits
from harness.plan.outcome import Outcome
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.record.journal import Attempt
from harness.train.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from harness.train.clock import Clock
from harness.train.learner import Learner, device_wait, exploded
from harness.train.world import World

STOP, CHECKPOINT, PAUSE = 1, 2, 4  # what rank 0 decides at an evaluation, as bits of one broadcast integer


@dataclass(frozen=True)
class Execution:
    """How a trial is run, none of which changes its numbers."""

    evaluation_batch_size: int = 1024  # examples per forward pass
    checkpoint_every_s: float = 60.0


@dataclass
class Progress:
    """Where a trial stands; everything but `weights` that a checkpoint holds."""

    step: int = 0
    evaluations: int = 0
    metrics: list[float | None] = field(default_factory=list)  # the target's metric on the deciding weights
    first_loss: float | None = None  # of the first update: what 'exploding' is measured against

    def state(self) -> dict[str, Any]:
        return {**vars(self), "metrics": list(self.metrics)}


def train(
    settings: Settings,
    seed: int,
    topology: Topology,
    world: World,
    splits: Splits,
    folder: Path,
    attempt: Attempt | None,
    execution: Execution,
    wants_pause: Callable[[], bool] = lambda: False,
) -> Iterator[list[dict[str, Any]]]:
    """Run one trial in `folder`; yields the rows written since the last yield, whenever rank 0 wants a pause.

    The last yield holds the `end` row. `attempt` is rank 0's right to write (None on other ranks). Continues from
    the newest checkpoint in `folder`. Raises LostTrialError on rank 0 once another attempt has taken over.
    """
    began = time.perf_counter()
    learner = Learner(settings, seed, topology, world, splits, execution.evaluation_batch_size)
    learner.warm_up()
    clock = Clock(wait=device_wait(world.device))
    progress = _resume(learner, clock, folder / "checkpoint", world)
    rows: list[dict[str, Any]] = []

    def write(row: dict[str, Any], durable: bool = False) -> None:
        rows.append(row)
        if attempt is not None:
            attempt.write(row, durable)

    if attempt is not None:
        attempt.start(progress.step)
    write({"kind": "ready", "step": progress.step, "startup_s": time.perf_counter() - began})
    last_checkpoint = time.monotonic()

    while True:
        behind = progress.step * settings.total_batch_size // settings.evaluate_every_examples  # grid points
        target_step = min(settings.evaluation_step(behind), settings.budget_steps)
        before = clock.train_s
        world.meet()  # waiting for a rank that writes a checkpoint is not training
        clock.enter("train")
        losses = _train_interval(learner, progress.step, target_step)
        clock.enter("evaluate")
        steps, progress.step = target_step - progress.step, target_step
        progress.evaluations += 1
        progress.first_loss = losses[0] if progress.first_loss is None else progress.first_loss

        burst = exploded(losses, progress.first_loss)
        diverged_step = None if burst is None else target_step - steps + burst + 1
        scores = {} if diverged_step is not None else _validation_scores(learner)
        clock.enter(None)
        _slowest(clock, world)
        examples = target_step * settings.total_batch_size
        metric = scores.get(settings.averaging.decide_on, {}).get(settings.target.metric)
        progress.metrics.append(metric)
        row = {
            "kind": "evaluation",
            "step": target_step,
            "examples": examples,
            "epochs": examples / settings.train_examples,
            "lr": learner.lr(target_step - 1),
            "train_loss": sum(losses) / len(losses),
            "validation": scores,
            "examples_per_s": steps * settings.total_batch_size / max(clock.train_s - before, 1e-9),
            "clock": clock.state(),
        }
        if metric is not None:
            learner.schedule.observe(metric)  # after the row: it may change the LR of the next update
        outcome = _outcome(settings, progress, diverged_step)
        decision = 0
        if world.is_main:
            due = time.monotonic() - last_checkpoint >= execution.checkpoint_every_s
            decision = (STOP if outcome else 0) | (CHECKPOINT if due and not outcome else 0)
            decision |= PAUSE if wants_pause() else 0
        decision = world.decide(decision)
        write(row, durable=bool(decision & CHECKPOINT))
        if decision & STOP:
            break
        if decision & CHECKPOINT:
            # The row of this step is on the disk: whoever resumes here continues behind it.
            if world.is_main:
                state = {"progress": progress.state(), "clock": clock.state(), **learner.state()}
                save_checkpoint(folder / "checkpoint", progress.step, state)
            last_checkpoint = time.monotonic()
        if decision & PAUSE:
            yield rows
            rows = []

    assert outcome is not None
    clock.enter("evaluate")
    decides_on_average = settings.averaging.decide_on == "averaged"
    test = {} if outcome is Outcome.DIVERGED else learner.evaluate(splits.test, decides_on_average)
    clock.enter(None)
    _slowest(clock, world)
    end = {"kind": "end", "outcome": outcome, "step": progress.step, "diverged_at_step": diverged_step, "test": test}
    write({**end, "clock": clock.state()}, durable=True)
    if attempt is not None:
        attempt.finish(_record(settings, seed, topology, progress, {**end, "clock": clock.state()}))
        remove_checkpoints(folder / "checkpoint")
    yield rows


def _train_interval(learner: Learner, start: int, stop: int) -> list[float]:
    """Updates start <= step < stop; the batches' mean losses, read from the device once."""
    losses = torch.zeros(stop - start, device=learner.world.device, dtype=torch.float64)
    for step, examples in learner.micro_batches(start, stop):
        losses[step - start] = learner.update(step, examples)
    return learner.world.sum(losses).tolist()


def _validation_scores(learner: Learner) -> dict[str, dict[str, float]]:
    """Validation metrics of the raw and, where an average is kept, of the averaged weights."""
    scores = {"raw": learner.evaluate(learner.splits.validation, averaged=False)}
    if learner.average is not None:
        scores["averaged"] = learner.evaluate(learner.splits.validation, averaged=True)
    return scores


def _outcome(settings: Settings, progress: Progress, diverged_step: int | None) -> Outcome | None:
    """How the trial ends now, or None to go on."""
    if diverged_step is not None:
        return Outcome.DIVERGED
    if settings.target.crossing(progress.metrics).confirmed is not None:
        return Outcome.REACHED
    return Outcome.CENSORED if progress.step >= settings.budget_steps else None


def _slowest(clock: Clock, world: World) -> None:
    """Clocks show the slowest rank (rule 8)."""
    if world.size > 1:
        values = torch.tensor(list(clock.state().values()), dtype=torch.float64, device=world.device)
        clock.restore(dict(zip(clock.state(), world.maximum(values).tolist(), strict=True)))


def _resume(learner: Learner, clock: Clock, folder: Path, world: World) -> Progress:
    """Continue from the newest checkpoint, the same one on every rank, or from the start."""
    loaded = load_checkpoint(folder)
    step = world.decide(loaded[0] if loaded else 0)
    if step == 0:
        return Progress()
    if loaded is None or loaded[0] != step:
        raise RuntimeError(f"rank {world.rank} does not see the checkpoint of step {step} that rank 0 resumes from")
    state = loaded[1]
    learner.restore(state)
    clock.restore(state["clock"])
    return Progress(**state["progress"])


def _record(
    settings: Settings, seed: int, topology: Topology, progress: Progress, end: dict[str, Any]
) -> dict[str, Any]:
    """What record.json says of a finished trial."""
    examples = progress.step * settings.total_batch_size
    return {
        "outcome": end["outcome"],
        "seed": seed,
        "topology": topology.key,
        "steps": progress.step,
        "examples": examples,
        "epochs": examples / settings.train_examples,
        "evaluations": progress.evaluations,
        "diverged_at_step": end["diverged_at_step"],
        "test": end["test"],
        "clock": end["clock"],
    }
