"""Model, DDP wrapper, optimizer and average of one trial on one rank: what makes an update and an evaluation."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.datasets.examples import Batch, Examples, Splits
from harness.optimizers.groups import parameter_groups
from harness.plan.schedules import Schedule
from harness.plan.settings import Settings, fingerprint
from harness.plan.trial import Topology
from harness.train.adascale import GainController, check_gain
from harness.train.averaging import AveragedModel, decay_per_step
from harness.train.batch_norm import advance_running, batch_norms, convert_batch_norm, reestimate
from harness.train.diagnostics import Diagnostics
from harness.train.frozen_noise import measure_frozen
from harness.train.instantiate import instantiate
from harness.train.loader import Loader
from harness.train.losses import as_float64, loss_named
from harness.train.noise_scale import NoiseMeter, check_noise
from harness.train.precision import DTYPES as DTYPES
from harness.train.precision import Precision
from harness.train.seeds import derive_seed
from harness.train.speed import Speed, check_speed, compiled, compress_gradients, recompute_activations
from harness.train.stream import ExampleStream, cut, group_layout
from harness.train.world import World

WARM_UP_UPDATES = 2  # DDP rebuilds its buckets after the first (rule 8)
CHUNK_EXAMPLES = 1 << 20  # indices cut at a time


class Learner:
    """Everything of a trial that lives on the device. All ranks build it alike and call it in step."""

    def __init__(
        self,
        settings: Settings,
        seed: int,
        topology: Topology,
        world: World,
        splits: Splits,
        evaluation_batch: int,
        speed: Speed | None = None,
    ) -> None:
        self.settings = settings
        self.topology = topology
        self.seed = seed
        self.world = world
        self.splits = splits
        self.evaluation_batch = evaluation_batch
        self.speed = speed or Speed()
        self.precision = Precision(topology.precision, world.device)
        self.loss = loss_named(settings.loss)
        self.schedule: Schedule = instantiate(settings.schedule)
        self.group = settings.batch_norm.span_examples if settings.batch_norm.span == "ghost" else 1
        self.loader = Loader(splits.train, world.device)
        self.stream = ExampleStream(seed, settings.train_examples, splits.endless)
        self.stream_start = 0 if settings.start is None else settings.start.examples  # where a branch goes on
        check_noise(settings, topology.precision)
        check_gain(settings, topology)
        check_speed(settings, topology, self.speed)
        self._build()

    def _build(self) -> None:
        # Drawn on the CPU, so that the initial weights are the same on every device and rank (rule 10).
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "init"))
            model: nn.Module = instantiate(self.settings.model)
        model = convert_batch_norm(model, self.settings.batch_norm)
        self.model = model.to(self.world.device, self.precision.dtype)
        if self.speed.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._groups()  # frozen parameters must not ask for gradients when DDP looks
        if self.speed.activation_checkpointing:
            recompute_activations(self.model)
        self.wrapped: nn.Module = self.model
        self._ddp: DistributedDataParallel | None = None
        if self.world.size > 1:
            # Buffers are statistics the evaluation recomputes: broadcasting them each step would cost and say nothing.
            self.wrapped = self._ddp = DistributedDataParallel(
                self.model,
                gradient_as_bucket_view=True,
                static_graph=self.batch.gradient_accumulation_steps == 1,
            )
            self._ddp.broadcast_buffers = False  # the argument of this name warns from torch 2.13 on
            if self.speed.gradient_compression:
                compress_gradients(self._ddp)
        self.noise = None
        if self.settings.noise_scale.in_training:
            self.noise = NoiseMeter(self.model, self.settings, self.batch, self.world, self.splits.endless)
        self.gain = None
        if self.settings.adascale_ratio:
            self.gain = GainController(self.model, self.settings, self.batch, self.world)
        self.running = [] if self.settings.batch_norm.statistics == "reestimated" else batch_norms(self.model)
        for layer in self.running:
            layer.collecting = True
        self.train_model: Callable[..., Any] = self.wrapped
        if self.speed.compile:
            self.train_model = compiled(self.wrapped, self.topology, fingerprint(self._graph()))
        self._fresh_state()

    def _graph(self) -> dict[str, Any]:
        """What a compiled graph depends on besides the shapes of a micro-batch."""
        values = self.settings.to_json()
        return {key: values[key] for key in ("dataset", "model", "batch_norm", "parameter_groups")}

    def _fresh_state(self) -> None:
        """A new optimizer, a new average over the weights as they are, nothing counted."""
        model, averaging = self.model, self.settings.averaging
        self.optimizer: torch.optim.Optimizer = instantiate(self.settings.optimizer, self._groups())
        self.scaler = self.precision.new_scaler()
        self.diagnostics = Diagnostics(model, self.settings.clip_norm)
        if self.noise is not None:
            self.noise.reset()
        if self.gain is not None:
            self.gain.reset()
        self.skipped = 0  # updates that were not made, because their gradients overflowed in fp16
        self._weight_decays = [group.get("weight_decay") for group in self.optimizer.param_groups]
        decay = (
            decay_per_step(averaging.half_life_examples, self.batch.total_batch_size)
            if averaging.half_life_examples
            else 0.0
        )
        self.average = AveragedModel(model, decay) if averaging.half_life_examples else None

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups; an optimizer whose conf says nothing of weight decay keeps its own default."""
        weight_decay = self.settings.optimizer.get("weight_decay")
        groups = parameter_groups(self.model, weight_decay=weight_decay or 0.0, **self.settings.parameter_groups)
        if weight_decay is None:
            for group in groups:
                del group["weight_decay"]
        return groups

    @property
    def batch(self) -> Any:
        return self.topology.batch

    # -- updates -------------------------------------------------------------------------------------------------

    def micro_batches(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """(step, [2, accumulation, micro] example indices and their epochs) on the device, for start <= step < stop."""
        size = self.batch.total_batch_size
        chunk = max(1, CHUNK_EXAMPLES // size)
        for first in range(start, stop, chunk):
            last = min(first + chunk, stop)
            span = self.stream_start + first * size, self.stream_start + last * size
            drawn = [of(*span) for of in (self.stream.positions, self.stream.epochs)]
            mine = torch.stack([cut(values, self.batch, self.world.rank, self.group) for values in drawn], dim=1)
            on_device = mine.to(self.world.device)
            with self.loader.ahead(mine[:, 0].flatten(0, 1)):
                for step in range(first, last):
                    yield step, on_device[step - first]

    def lr(self, step: int) -> float:
        """LR of update `step`; under AdaScale of the last one made, whatever `step`."""
        if self.gain is not None:
            return self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0].get("lr_factor", 1.0)
        return self.settings.peak_lr * self.schedule.lr_factor(self._position(step))

    def _position(self, step: int) -> int:
        """Place of update `step` in the schedule; updates that were skipped have not moved it (rule 11)."""
        return step - self.skipped if self.gain is None else self.gain.rule.step

    def update(self, step: int, examples: Tensor, last: bool = False) -> Tensor:
        """One optimizer update on this rank's examples (see `micro_batches`); returns its share of the batch's loss.
        The `last` one before an evaluation is looked at more closely (see diagnostics).

        The gradient is that of the mean over the global batch: losses are summed, divided by the global count once
        (rule 1). The returned scalar stays on the device; summed over ranks it is the batch's mean loss.
        """
        indices, epochs = examples
        micros = len(indices)
        if self.gain is None:
            self._set_hyperparameters(step)
        else:
            self.gain.begin()
        if self.noise is not None:
            self.noise.begin(self.stream_start + step * self.batch.total_batch_size, self.optimizer)
        share = 1.0 / self.batch.total_batch_size
        total: Tensor | None = None
        counted: Tensor | None = None
        for number in range(micros):
            # Dropout and the like: a function of (seed, update, rank, micro-batch), so nothing needs saving.
            self.seed_random(derive_seed(self.seed, "update", step, self.world.rank, number))
            batch = self.augmented(self.loader.batch(indices[number]), indices[number], epochs[number])
            count = self.loss.count(batch.targets)
            with nullcontext() if self._ddp is None or number == micros - 1 else self._ddp.no_sync():
                outputs = self.outputs(self.train_model, batch.inputs)
                loss = self.loss.total(outputs, batch.targets) * share
                # DDP takes the mean over ranks of what each hands in: times W makes it the sum.
                handed_in = loss * self.world.size if self.world.size > 1 else loss
                (handed_in if self.scaler is None else self.scaler.scale(handed_in)).backward()
            total = loss.detach() if total is None else total + loss.detach()
            if isinstance(count, Tensor):
                counted = count if counted is None else counted + count
        assert total is not None
        factor = None if counted is None else self._recount(counted)
        if factor is not None:
            total = total * factor
        if self.noise is not None:
            self.noise.end(factor)
        if self.gain is not None:
            self.gain.observe(factor)
            self._set_hyperparameters(step)
            self.gain.rule.advance()
        made = self._step(last)
        self.optimizer.zero_grad(set_to_none=True)
        if self.running:
            half_life = self.settings.batch_norm.half_life_examples
            advance_running(self.running, decay_per_step(half_life, self.batch.total_batch_size))
        if self.average is not None and made:
            self.average.update()
        return total

    def augmented(self, batch: Batch, indices: Tensor, epochs: Tensor) -> Batch:
        """Training examples as the model gets them: changed at random where the data set does so."""
        if self.splits.augment is None:
            return batch
        return self.splits.augment(batch, derive_seed(self.seed, "augment"), epochs, indices, self.group)

    def _step(self, last: bool) -> bool:
        """Clip and make the update from the gradients as they are; False where fp16 overflowed and it was skipped."""
        if self.scaler is not None:
            self.scaler.unscale(self.optimizer)
        self.diagnostics.before_step(last)
        if self.scaler is None:
            self.optimizer.step()
        elif not self.scaler.step(self.optimizer):
            self.skipped += 1
            self.diagnostics.skip_step()
            return False
        self.diagnostics.after_step()
        return True

    def outputs(self, model: Callable[..., Any], inputs: Tensor) -> Tensor:
        """What `model`, of this trial's kind, answers in the trial's arithmetic."""
        return self.precision.forward(model, self._laid_out(inputs))

    def _laid_out(self, inputs: Tensor) -> Tensor:
        """Images in the memory format of the model; anything else as it is."""
        images = self.speed.channels_last and inputs.dim() == 4
        return inputs.contiguous(memory_format=torch.channels_last) if images else inputs

    def _set_hyperparameters(self, step: int) -> None:
        """LR, and where the schedule says so momentum and weight decay, of update `step` in every group (rule 4)."""
        position = self._position(step)
        lr, momentum = self.settings.peak_lr * self.schedule.lr_factor(position), self.schedule.momentum(position)
        lr = lr if self.gain is None else lr * self.gain.rule.gain
        decay_factor = self.schedule.weight_decay_factor(position)
        for group, weight_decay in zip(self.optimizer.param_groups, self._weight_decays, strict=True):
            group["lr"] = lr * group.get("lr_factor", 1.0)
            if momentum is not None and "momentum" in group:
                group["momentum"] = momentum
            elif momentum is not None:
                group["betas"] = (momentum, group["betas"][1])
            if weight_decay is not None:
                group["weight_decay"] = weight_decay * decay_factor

    def momentum_and_decay(self) -> dict[str, float]:
        """Momentum (Adam: beta1) and the largest weight decay of the last update, as far as the optimizer has them."""
        first = self.optimizer.param_groups[0]
        momentum = first["betas"][0] if "betas" in first else first.get("momentum")
        decays = [group["weight_decay"] for group in self.optimizer.param_groups if "weight_decay" in group]
        found = {"momentum": momentum, "weight_decay": max(decays, default=None)}
        return {name: float(value) for name, value in found.items() if value is not None}

    def seed_random(self, seed: int) -> None:
        """Of dropout and the like."""
        # Not torch.manual_seed: without a CUDA context that one records a stack trace at every call.
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _recount(self, counted: Tensor) -> Tensor:
        """Where the count depends on the data (tokens): turn 1/examples into 1/count in the gradients."""
        count = self.world.sum(as_float64(counted, self.world.device))
        factor = self.batch.total_batch_size / count.clamp(min=1)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        return factor

    def warm_up(self) -> None:
        """Untimed updates on throw-away examples through the trial's own wrapper, then the state as before (rule 8)."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        micro = self.batch.per_device_batch_size
        examples = torch.arange(micro, device=self.world.device).expand(
            2, self.batch.gradient_accumulation_steps, micro
        )
        for step in range(WARM_UP_UPDATES):
            self.update(step, examples)
        self.model.load_state_dict(weights)
        self._fresh_state()

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self, examples: Examples, averaged: bool) -> dict[str, float]:
        """Mean of every metric over all `examples`, unpadded and exact over ranks (rule 6)."""
        model = self.average.module if averaged and self.average is not None else self.model
        self._prepare_statistics(model)
        start, stop = self.world.share(len(examples))
        zero = torch.zeros((), dtype=torch.float64, device=self.world.device)
        sums = [zero] * (1 + len(self.loss.metrics))  # the count, then each metric
        model.eval()
        with torch.no_grad():
            for first in range(start, stop, self.evaluation_batch):
                index = torch.arange(first, min(first + self.evaluation_batch, stop), device=self.world.device)
                batch = examples.batch(index)
                outputs = self.outputs(model, batch.inputs)
                scores = self.loss.scores(outputs, batch.targets)
                parts = [self.loss.count(batch.targets), *(scores[name] for name in self.loss.metrics)]
                sums = [total + as_float64(part, self.world.device) for total, part in zip(sums, parts, strict=True)]
        model.train()
        count, *totals = self.world.sum(torch.stack(sums)).tolist()
        return {name: total / count for name, total in zip(self.loss.metrics, totals, strict=True)}

    def measure_noise(self, start: int, step: int) -> dict[str, Any]:
        """What the row of the evaluation at `step` says of the gradient's noise since the one at `start`; empty where
        nothing is measured (see plan.noise_scale)."""
        every, size = self.settings.noise_scale.frozen_every_examples, self.batch.total_batch_size
        parts = [] if self.noise is None else [self.noise.read()]
        if every and step * size // every > start * size // every:
            parts.append(measure_frozen(self, step))
        row: dict[str, Any] = {}
        for part in parts:
            row = {key: row.get(key, {}) | values for key, values in part.items()}
        return row

    def _prepare_statistics(self, model: nn.Module) -> None:
        plan = self.settings.batch_norm
        if plan.span == "none":
            return
        if plan.statistics == "running":
            self._share_running(model)
            return
        with self.precision.autocast():
            reestimate(model, self.statistics_batch(), plan, self.world)

    def _share_running(self, model: nn.Module) -> None:
        """Evaluate with the mean over ranks of the running averages (each rank saw its own groups)."""
        for own, layer in zip(self.running, batch_norms(model), strict=True):
            for source, place in ((own.mean, layer.mean), (own.var, layer.var)):
                place.copy_(self.world.sum(source.clone()) / self.world.size)

    def statistics_batch(self) -> Batch:
        """This rank's groups of the fixed training examples that evaluation statistics are re-estimated on (rule 3).

        The set is a function of the training-set size alone: the first `statistics_examples` of permutation
        ("statistics", 0), the same for every trial, TBS and seed.
        """
        plan = self.settings.batch_norm
        if self._statistics is None:
            generator = torch.Generator().manual_seed(derive_seed(0, "statistics"))
            chosen = torch.randperm(self.settings.train_examples, generator=generator)[: plan.statistics_examples]
            start, stop = self.world.share(plan.statistics_examples // plan.span_examples)
            mine = chosen[start * plan.span_examples : stop * plan.span_examples]
            index = group_layout(mine, plan.span_examples) if len(mine) else mine
            batch = self.splits.train.batch(index.to(self.world.device))
            self._statistics = Batch(self._laid_out(batch.inputs), batch.targets)
        return self._statistics

    _statistics: Batch | None = None

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain numbers only, so that `torch.load(weights_only=True)` reads it."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["schedule"] = self.schedule.state()
        if self.noise is not None:
            state["noise"] = self.noise.state()
        if self.gain is not None:
            state["gain"] = self.gain.rule.state()
        state["diagnostics"], state["skipped"] = self.diagnostics.state(), self.skipped
        if self.scaler is not None:
            state["scaler"] = self.scaler.state()
        if self.average is not None:
            state["average"] = {"model": self.average.module.state_dict(), "steps": self.average.steps}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        self.diagnostics.restore(state["diagnostics"])
        if self.noise is not None and "noise" in state:
            self.noise.restore(state["noise"])
        if self.gain is not None:
            self.gain.rule.restore(state["gain"])
        self.skipped = state["skipped"]
        if self.scaler is not None:
            self.scaler.restore(state["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"]["model"])
            self.average.steps = state["average"]["steps"]

    def continue_from(self, state: dict[str, Any], total_batch_size: int) -> None:
        """Weights, optimizer state and average out of `state` of a trial at `total_batch_size`; all else stays new."""
        self.model.load_state_dict(state["model"])
        own = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**own, "state": state["optimizer"]["state"]})
        if self.average is not None:
            self.average.module.load_state_dict(state["average"]["model"])
            # The same examples lie behind it, in other updates.
            self.average.steps = max(1, state["average"]["steps"] * total_batch_size // self.batch.total_batch_size)

    def rank_state(self) -> Tensor:
        """What differs between ranks until an evaluation joins it, float64 [k]: running batch-norm averages, sums of
        squared gradients."""
        return torch.cat([torch.zeros(0, dtype=torch.float64, device=self.world.device), *self._own()])

    def restore_rank_state(self, state: Tensor) -> None:
        places = self._own()
        for place, value in zip(places, state.split([place.numel() for place in places]), strict=True):
            place.copy_(value)

    def _own(self) -> list[Tensor]:
        """Flat views of what is this rank's alone."""
        values = [value for layer in self.running for value in (layer.mean, layer.var)]
        return values if self.noise is None else [*values, self.noise.sums.view(-1)]


def exploded(losses: list[float], first_loss: float, factor: float = 1e3) -> int | None:
    """Index of the first loss that is non-finite or `factor` times the first one of the trial (rule 11), else None."""
    limit = factor * max(abs(first_loss), 1e-8) if math.isfinite(first_loss) else -math.inf
    return next((i for i, loss in enumerate(losses) if not math.isfinite(loss) or loss > limit), None)


Wait = Callable[[], None]


def device_wait(device: torch.device) -> Wait:
    """Blocks until the device has done what was asked of it; nothing on the CPU."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
