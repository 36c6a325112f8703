"""The one loop: train to the next evaluation, evaluate, agree on what to do; until the target or the end of the budget.

It reads top to bottom like the protocol. Every rank runs it; rank 0 writes the journal and decides, the others follow.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.datasets.examples import Splits
from harness.plan.execution import ExecutionOptions
from harness.plan.outcome import Outcome
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.record.drain_flag import is_draining
from harness.record.journal import Attempt
from harness.record.limit import read_limit
from harness.train.branch import begin_branch, keep_state
from harness.train.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from harness.train.clock import Clock, device_wait
from harness.train.counts import exploded
from harness.train.diagnostics import memory_peak_bytes
from harness.train.evaluation import Evaluator
from harness.train.frozen_noise import measure_noise
from harness.train.learner import Learner
from harness.train.learner_state import rank_state, restore, restore_rank_state, state_of
from harness.train.machine import gang_hardware
from harness.train.world import World

# What rank 0 decides, as bits of one broadcast integer; the higher bits hold the updates until the next decision.
STOP, CHECKPOINT, PAUSE, DRAIN = 1, 2, 4, 8
BITS = 4
POLL_S = 1.0  # seconds of updates between two checks of the drain flag and of the time since the last checkpoint


@dataclass(frozen=True)
class Execution(ExecutionOptions):
    """How a trial is executed and which files of the study it watches."""

    drain_file: str | None = None  # see record.drain_flag; None: nobody drains this trial
    study_attempt: int = 0
    limit_file: str | None = None  # see record.limit; None: this trial does not race

    def is_draining(self) -> bool:
        """Whether the study's driver has asked its trials to stop."""
        return self.drain_file is not None and is_draining(Path(self.drain_file), self.study_attempt)

    def limit_examples(self) -> float:
        """Examples from which on the trial can no longer win its race; infinity where it does not race."""
        return math.inf if self.limit_file is None else read_limit(Path(self.limit_file))


@dataclass
class Progress:
    """How far a trial has come: the part of a checkpoint that is plain numbers."""

    step: int = 0
    evaluations: int = 0
    metrics: list[float | None] = field(default_factory=list)  # the target's metric on the deciding weights
    first_loss: float | None = None  # of the first update: the reference for an exploding loss
    interval_start: int = 0  # step of the last evaluation
    interval_train_s: float = 0.0  # the train clock there

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
    wants_drain: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] = lambda: None,
    resource_use: Callable[[], dict[str, float]] = dict,
) -> Iterator[list[dict[str, Any]]]:
    """Run one trial in `folder`; yields the rows written since the last yield, whenever rank 0 wants a pause.

    The last row of the last yield is `end`, or `drain` where rank 0 wanted one: the trial is then in a checkpoint.
    Every rank calls `beat` about every POLL_S to show that it is alive, and rank 0 journals `resource_use`.
    `attempt` is rank 0's right to write (None on other ranks). Continues from the newest checkpoint in `folder`.
    Raises LostTrialError on rank 0 once another attempt has taken over.
    """
    began = time.perf_counter()
    learner = Learner(settings, seed, topology, world, splits, execution)
    evaluator = Evaluator(learner, execution.evaluation_batch_size)
    learner.warm_up()
    clock = Clock(wait=device_wait(world.device))
    progress, interval_losses = _resume(learner, clock, folder / "checkpoint", world)
    if progress.step == 0:
        begin_branch(learner, folder)
    rows: list[dict[str, Any]] = []

    def write(row: dict[str, Any], durable: bool = False) -> None:
        rows.append(row)
        if attempt is not None:
            attempt.write(row, durable)

    hardware = gang_hardware(world)
    if attempt is not None:
        attempt.start(progress.step, hardware)
    number = attempt.number if attempt is not None else 0
    write({"kind": "ready", "step": progress.step, "attempt": number, "startup_s": time.perf_counter() - began})
    last_checkpoint = time.monotonic()
    updates = 1  # until the next decision; the same number on every rank

    def decide(wanted: int) -> int:
        """Rank 0's decision on every rank (P7). Costs a host sync on a GPU, hence only about every POLL_S."""
        nonlocal updates
        beat()
        if world.is_main:
            wanted |= CHECKPOINT if time.monotonic() - last_checkpoint >= execution.checkpoint_every_s else 0
            wanted |= DRAIN | CHECKPOINT if wants_drain() else 0
        updates, decision = divmod(world.decide(updates << BITS | wanted), 1 << BITS)
        return decision

    def checkpoint(losses: Tensor) -> None:
        """Save; `losses` are this rank's since the last evaluation. Rows up to here are already on disk."""
        nonlocal last_checkpoint
        own = world.gather(torch.cat([losses, rank_state(learner)]))
        state = {"progress": progress.state(), "clock": clock.state(), "own": own, **state_of(learner)}
        if world.is_main:
            save_checkpoint(folder / "checkpoint", progress.step, state)
        last_checkpoint = time.monotonic()

    while True:
        start, target_step = progress.interval_start, _next_evaluation(settings, progress.interval_start)
        shares = torch.zeros(target_step - start, device=world.device, dtype=torch.float64)
        shares[: len(interval_losses)] = interval_losses
        interval_losses = shares[:0]
        world.meet()  # so that waiting for a rank that writes a checkpoint does not count as training
        clock.enter("train")
        while True:
            began_updates, stop = time.perf_counter(), min(progress.step + updates, target_step)
            for step, drawn in learner.micro_batches(progress.step, stop):
                shares[step - start] = learner.update(step, drawn, last=step + 1 == target_step)
            updates = _updates_to_poll(updates, stop - progress.step, time.perf_counter() - began_updates)
            progress.step = stop
            if stop == target_step:
                break
            decision = decide(0)  # between evaluations the only decisions are to checkpoint and to drain
            if decision & CHECKPOINT:
                clock.enter(None)
                _slowest(clock, world)
                write({"kind": "checkpoint", "step": progress.step}, durable=True)
                checkpoint(shares[: stop - start])
                world.meet()
                clock.enter("train")
            if decision & DRAIN:
                write({"kind": "drain", "step": progress.step})
                yield rows
                return
        losses = world.sum(shares).tolist()
        clock.enter("evaluate")
        progress.evaluations += 1
        progress.first_loss = losses[0] if progress.first_loss is None else progress.first_loss

        burst = exploded(losses, progress.first_loss, learner.loss.diverges_at)
        diverged_step = None if burst is None else start + burst + 1
        scores = {} if diverged_step is not None else evaluator.validation_scores()
        noise = {} if diverged_step is not None else measure_noise(learner, start, target_step)
        clock.enter(None)
        _slowest(clock, world)
        examples = target_step * settings.total_batch_size
        metric = scores.get(settings.averaging.decide_on, {}).get(settings.target.metric)
        progress.metrics.append(metric)
        interval_s = clock.train_s - progress.interval_train_s
        progress.interval_start, progress.interval_train_s = target_step, clock.train_s
        row = {
            "kind": "evaluation",
            "step": target_step,
            "examples": examples,
            "epochs": examples / settings.train_examples,
            "lr": learner.lr(target_step - 1),
            **learner.momentum_and_decay(),
            **({} if learner.gain is None else learner.gain.row()),
            "train_loss": sum(losses) / len(losses),
            "validation": scores,
            "examples_per_s": len(losses) * settings.total_batch_size / max(interval_s, 1e-9),
            **_loader_fraction(learner, interval_s),
            "diagnostics": learner.diagnostics.read(),
            **noise,
            "skipped_updates": learner.skipped,
            "memory_peak_bytes": memory_peak_bytes(world.device),
            "machine": resource_use(),
            "clock": clock.state(),
        }
        keep_state(learner, folder, examples)
        if metric is not None:
            learner.schedule.observe(metric)  # after the row: it may change the LR of the next update
        outcome = _outcome(settings, progress, diverged_step)
        # Only rank 0 checks whether the race is lost. While the target is met, confirmation comes first.
        lost = world.is_main and not settings.target.reached(metric) and examples >= execution.limit_examples()
        decision = decide((STOP if outcome or lost else 0) | (PAUSE if wants_pause() else 0))
        if decision & STOP:
            outcome = outcome or Outcome.DOMINATED
            write(row, durable=outcome is Outcome.DOMINATED)
            if outcome is Outcome.DOMINATED:
                checkpoint(shares[:0])  # it resumes from here if its arm wins after all or is next to the winner
            break
        # The row must be on disk before the checkpoint: a trial that resumes there continues after it.
        write(row, durable=bool(decision & CHECKPOINT))
        if decision & CHECKPOINT:
            checkpoint(shares[:0])
        if decision & DRAIN:
            write({"kind": "drain", "step": progress.step})
        if decision & (PAUSE | DRAIN):
            yield rows
            rows = []
        if decision & DRAIN:
            return

    assert outcome is not None
    clock.enter("evaluate")
    decides_on_average = settings.averaging.decide_on == "averaged"
    has_test = outcome not in (Outcome.DIVERGED, Outcome.DOMINATED)
    test = evaluator.evaluate(splits.test, decides_on_average) if has_test else {}
    clock.enter(None)
    _slowest(clock, world)
    end = {"kind": "end", "outcome": outcome, "step": progress.step, "diverged_at_step": diverged_step, "test": test}
    write({**end, "clock": clock.state()}, durable=True)
    if attempt is not None:
        attempt.finish(_record(settings, seed, topology, progress, {**end, "clock": clock.state()}))
        if outcome is not Outcome.DOMINATED:
            remove_checkpoints(folder / "checkpoint")
    yield rows


def _next_evaluation(settings: Settings, step: int) -> int:
    """The update after which the next evaluation after `step` happens."""
    passed = step * settings.total_batch_size // settings.evaluate_every_examples  # grid points
    return min(settings.evaluation_step(passed), settings.budget_steps)


def _updates_to_poll(updates: int, done: int, seconds: float) -> int:
    """How many updates make about POLL_S, given that `done` took `seconds`; at most twice as many as before."""
    return max(1, min(int(POLL_S * done / max(seconds, 1e-9)), 2 * updates))


def _outcome(settings: Settings, progress: Progress, diverged_step: int | None) -> Outcome | None:
    """The outcome if the trial ends now; None if it continues."""
    if diverged_step is not None:
        return Outcome.DIVERGED
    is_over = progress.step >= settings.budget_steps
    if (is_over or settings.stop_at_target) and settings.target.crossing(progress.metrics).confirmed is not None:
        return Outcome.REACHED
    return Outcome.CENSORED if is_over else None


def _slowest(clock: Clock, world: World) -> None:
    """Set every rank's clocks to those of the slowest rank (P8)."""
    if world.size > 1:
        values = torch.tensor(list(clock.state().values()), dtype=torch.float64, device=world.device)
        clock.restore(dict(zip(clock.state(), world.maximum(values).tolist(), strict=True)))


def _loader_fraction(learner: Learner, interval_s: float) -> dict[str, float]:
    """The share of the interval's training for which the slowest rank waited for data; empty if data are resident."""
    if not learner.loader.streams:
        return {}
    waited = torch.tensor(learner.loader.read_waited_s(), dtype=torch.float64, device=learner.world.device)
    return {"loader_fraction": min(1.0, learner.world.maximum(waited).item() / max(interval_s, 1e-9))}


def _resume(learner: Learner, clock: Clock, folder: Path, world: World) -> tuple[Progress, Tensor]:
    """Continue from the newest checkpoint, the same one on every rank, or from the start.

    The tensor holds this rank's losses since the last evaluation, as given to `checkpoint`.
    """
    loaded = load_checkpoint(folder, maps=learner.parallel.is_sharded)
    step = world.decide(loaded[0] if loaded else 0)
    if step == 0:
        return Progress(), torch.zeros(0, dtype=torch.float64)
    if loaded is None or loaded[0] != step:
        raise RuntimeError(f"rank {world.rank} does not see the checkpoint of step {step} from which rank 0 resumes")
    state = loaded[1]
    restore(learner, state)
    clock.restore(state["clock"])
    progress = Progress(**state["progress"])
    losses, own = state["own"][world.rank].tensor_split([step - progress.interval_start])
    restore_rank_state(learner, own)
    return progress, losses


def _record(
    settings: Settings, seed: int, topology: Topology, progress: Progress, end: dict[str, Any]
) -> dict[str, Any]:
    """The content of record.json of a finished trial."""
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
