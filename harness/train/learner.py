"""Model, DDP wrapper, optimizer and average of one trial on one rank, and the updates they make."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harness.datasets.examples import Batch, Splits
from harness.datasets.tree import Tree, call, map_tree
from harness.objectives.objective import Measured, objective_named
from harness.optimizers.groups import parameter_groups
from harness.plan.batch import BatchPlan
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.instantiate import instantiate, instantiate_as
from harness.plan.parameter_groups import ParameterGroups
from harness.plan.schedules import Schedule
from harness.plan.settings import Settings, fingerprint
from harness.plan.trial import Topology
from harness.train.adascale import GainController, check_gain
from harness.train.averaging import decay_per_step
from harness.train.batch_norm import advance_running, batch_norms, convert_batch_norm
from harness.train.buffers import Buffers
from harness.train.counts import as_float64, every_target_counts
from harness.train.diagnostics import Diagnostics
from harness.train.loader import Loader
from harness.train.meta_build import can_build_on_meta
from harness.train.noise_meter import NoiseMeter, check_noise
from harness.train.parallel import Parallel, Replicated, Sharded, check_model
from harness.train.precision import Precision, choose_kernels
from harness.train.seeds import derive_seed
from harness.train.sharding_checks import check_parallel
from harness.train.speed import check_speed, compiled, recompute_activations
from harness.train.stream import ExampleStream, cut
from harness.train.world import World

WARM_UP_UPDATES = 2  # DDP rebuilds its buckets after the first (P8)
PROBES = 4  # micro-batches that look for parameters without a gradient
CHUNK_EXAMPLES = 1 << 20  # example indices cut into micro-batches at a time


class Learner:
    """The parts of a trial that are on the device. All ranks build the same and must call it together."""

    def __init__(
        self,
        settings: Settings,
        seed: int,
        topology: Topology,
        world: World,
        splits: Splits,
        speed: Speed | None = None,
    ) -> None:
        self.settings = settings
        self.topology = topology
        self.batch: BatchPlan = topology.batch
        self.seed = seed
        self.world = world
        self.splits = splits
        self.speed = speed or Speed()
        self.precision = Precision(topology.precision, world.device)
        choose_kernels(self.speed, world.device)
        self.loss = objective_named(settings.loss).to(world.device, self.precision.dtype, self.precision.compute)
        counts_are_known = every_target_counts(splits.train, splits.augment)
        self.train_loss = self.loss.where_all_count() if counts_are_known else self.loss
        # Whether micro-batches of one size may count differently, so that counts must be summed over ranks.
        self._counts_vary = not (counts_are_known or self.loss.counts_examples)
        self.vmaps = True  # whether torch.func can follow the model (see frozen_noise)
        self.schedule: Schedule = instantiate(settings.schedule)
        self.group = settings.batch_norm.span_examples if settings.batch_norm.span == "ghost" else 1
        self.loader = Loader(splits.train, world.device, derive_seed(seed, "draw"))
        self.stream = ExampleStream(seed, settings.train_examples, splits.endless)
        self.stream_start = 0 if settings.start is None else settings.start.examples  # where a branch continues
        check_noise(settings, topology.precision)
        check_gain(settings, topology)
        check_speed(settings, topology, self.speed)
        check_parallel(settings, topology, self.speed)
        self._build()

    def _build(self) -> None:
        if self.topology.sharding == "full" and self.world.size > 1:
            on_meta = can_build_on_meta(self.settings.model)
            self.parallel: Parallel = Sharded(self._construct, self._ready, on_meta, self.precision, self.world)
            self.model, self.buffers = self.parallel.model, Buffers(self.parallel.model)
            self.check_gradients(self.batch.per_device_batch_size)
        else:
            self.model = self._ready(self._construct(), self.world.device)
            self.buffers = Buffers(self.model)
            self.parallel = Replicated(self.model)
            if self.world.size > 1:
                # DDP waits for every gradient unless it is told to look for those that do not come, which takes time.
                unused = self._unused_parameters(self.world.rank, self.batch.per_device_batch_size)
                finds_unused = bool(self.world.maximum(torch.tensor(len(unused), device=self.world.device)))
                is_static = self.batch.gradient_accumulation_steps == 1 and not finds_unused
                self.parallel.wrap(finds_unused, is_static, self.speed.gradient_compression)
        self.wrapped: nn.Module = self.parallel.wrapped
        self.noise = None
        if self.settings.noise_scale.in_training:
            self.noise = NoiseMeter(self.model, self.settings, self.batch, self.world, self.splits.endless)
        self.gain = None
        if self.settings.adascale_ratio:
            self.gain = GainController(self.model, self.settings, self.batch, self.world)
        self.running = [] if self.settings.batch_norm.statistics == "reestimated" else batch_norms(self.model)
        for layer in self.running:
            layer.collecting = True
        # The weight of a rank's sum of losses in the gradient: DDP averages the ranks' gradients, so the factor W makes
        # the result the mean over the global batch. A tensor given to backward, because scaling the loss costs more.
        share = self.world.size / self.batch.total_batch_size
        self._loss_share = torch.tensor(share, dtype=self.precision.dtype, device=self.world.device)
        self.train_model: Callable[..., Any] = self.wrapped
        if self.speed.compile:
            self.train_model = compiled(self.wrapped, self.topology, fingerprint(self._graph()))
        self._fresh_state()

    def _construct(self) -> nn.Module:
        """The model at its initial weights, drawn on the CPU so that they are the same on every device and rank
        (P10)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "init"))
            with torch.device("meta") if self.world.device.type == "meta" else nullcontext():
                return instantiate_as(nn.Module, "model", self.settings.model)

    def _ready(self, model: nn.Module, device: torch.device | None = None) -> nn.Module:
        """The model on `device` (None: the CPU), ready to be wrapped."""
        device = device or torch.device("cpu")
        model = convert_batch_norm(model, self.settings.batch_norm)
        if self.topology.sharding == "full":
            check_model(model)
        model = self.precision.place(model, device)
        if self.speed.channels_last:
            model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._groups_of(model)  # freezes parameters, which must happen before DDP collects those that need gradients
        if self.speed.activation_checkpointing:
            recompute_activations(model)
        return model

    def check_gradients(self, size: int) -> None:
        """Raises UserError for a model that cannot be split because some of a few micro-batches of `size` examples,
        the same on every rank, gives some parameter no gradient: ranks reduce gradients together."""
        if unused := self._unused_parameters(0, size):
            raise UserError(
                f"cluster.sharding=full needs a gradient of every parameter in every micro-batch, but {unused[0]} "
                "gets none: freeze it with parameter_groups.frozen, or use cluster.sharding=none"
            )

    def _unused_parameters(self, rank: int, size: int) -> list[str]:
        """Parameters that get no gradient in some micro-batch of `rank`, as far as a few of them show."""
        buffers, unused = self.buffers.copy(), dict[str, None]()
        for number in range(PROBES):
            examples = torch.arange(number * size, (number + 1) * size, device=self.world.device)
            examples %= self.settings.train_examples
            self.seed_random(derive_seed(self.seed, "probe", rank, number))
            epochs = torch.zeros_like(examples)
            batch = self.augmented(self.loader.batch(examples, epochs), examples, epochs)
            self.measure(self.model, batch)[0].backward()
            unused |= {name: None for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None}
            self.model.zero_grad(set_to_none=True)
        self.buffers.load(buffers)
        return list(unused)

    def _graph(self) -> dict[str, Any]:
        """What a compiled graph depends on in addition to the shapes of a micro-batch."""
        values = self.settings.to_json()
        return {key: values[key] for key in ("dataset", "model", "batch_norm", "parameter_groups")}

    def _fresh_state(self) -> None:
        """A new optimizer, a new average that starts at the current weights, and all counts at zero."""
        averaging = self.settings.averaging
        self.optimizer = instantiate_as(torch.optim.Optimizer, "optimizer", self.settings.optimizer, self._groups())
        self.scaler = self.precision.new_scaler()
        self.diagnostics = Diagnostics(self.parallel.parameters, self.settings.clip_norm, self.parallel.whole_norms)
        if self.noise is not None:
            self.noise.reset()
        if self.gain is not None:
            self.gain.reset()
        self.skipped = 0  # updates that were not made because their gradients overflowed in fp16
        self._weight_decays = [group.get("weight_decay") for group in self.optimizer.param_groups]
        decay = (
            decay_per_step(averaging.half_life_examples, self.batch.total_batch_size)
            if averaging.half_life_examples
            else 0.0
        )
        self.average = self.parallel.new_average(decay, self.buffers) if averaging.half_life_examples else None

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups of what this rank updates."""
        own = self.parallel.parameters
        return [{**g, "params": [own[name] for name in g["param_names"]]} for g in self._groups_of(self.model)]

    def _groups_of(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups; an optimizer whose conf does not set weight decay keeps its own default."""
        weight_decay = self.settings.optimizer.get("weight_decay")
        options = ParameterGroups(**self.settings.parameter_groups)
        groups = parameter_groups(model, weight_decay=weight_decay or 0.0, options=options)
        if weight_decay is None:
            for group in groups:
                del group["weight_decay"]
        return groups

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
            with self.loader.ahead(mine[:, 0].flatten(0, 1), mine[:, 1].flatten(0, 1)):
                for step in range(first, last):
                    yield step, on_device[step - first]

    def lr(self, step: int) -> float:
        """LR of update `step`; under AdaScale always that of the last update made."""
        if self.gain is not None:
            return self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0].get("lr_factor", 1.0)
        return self.settings.peak_lr * self.schedule.lr_factor(self._position(step))

    def _position(self, step: int) -> int:
        """Position of update `step` in the schedule; skipped updates do not advance it (P11)."""
        return step - self.skipped if self.gain is None else self.gain.rule.step

    def update(self, step: int, examples: Tensor, last: bool = False) -> Tensor:
        """One optimizer update on this rank's examples (see `micro_batches`); returns its share of the batch's loss.
        Of the `last` update before an evaluation more is measured (see diagnostics).

        The gradient is that of the mean over the global batch: losses are summed and divided once by the global count
        (P1). The returned scalar stays on the device; summed over ranks it is the batch's mean loss.
        """
        indices, epochs = examples
        micros = len(indices)
        if self.gain is None:
            self._set_hyperparameters(step)
        else:
            self.gain.begin()
        if self.noise is not None:
            self.noise.begin(self.stream_start + step * self.batch.total_batch_size, self.optimizer)
        loss_share = self._loss_share if self.scaler is None else self.scaler.scale(self._loss_share)
        total: Tensor | None = None
        counted: int | Tensor = 0
        for number in range(micros):
            # Dropout and the like: a function of (seed, update, rank, micro-batch), so no random state needs saving.
            self.seed_random(derive_seed(self.seed, "update", step, self.world.rank, number))
            drawn = indices[number], epochs[number]
            batch = self.augmented(self.loader.batch(*drawn), *drawn)
            with self.parallel.accumulate(number == micros - 1):
                loss, count = self.measure(self.train_model, batch)
                loss.backward(loss_share)
            share = loss.detach() / self.batch.total_batch_size
            total = share if total is None else total + share
            counted = counted + count
        assert total is not None
        self.parallel.take_gradients()
        factor = self._recount(counted)
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

    def measure(self, model: Callable[..., Any], batch: Batch) -> Measured:
        """Sum, in the dtype of the weights, and count of the loss of training examples."""
        total, count = self.train_loss.measure(self.outputs(model, batch), batch.targets)
        return total if total.dtype == self.precision.dtype else total.to(self.precision.dtype), count

    def augmented(self, batch: Batch, indices: Tensor, epochs: Tensor) -> Batch:
        """Training examples as the model receives them: augmented where the data set defines an augmentation."""
        if self.splits.augment is None:
            return batch
        return self.splits.augment(batch, derive_seed(self.seed, "augment"), epochs, indices, self.group)

    def _step(self, last: bool) -> bool:
        """Clip the gradients and make the update; False where fp16 overflowed and it was skipped."""
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

    def forward(self, model: Callable[..., Any], batch: Batch) -> Any:
        """What `model` returns for a batch; to be called under this trial's autocast."""
        seen = {} if self.loss.targets_as is None else {self.loss.targets_as: batch.targets}
        return call(model, batch.inputs, **seen)

    def outputs(self, model: Callable[..., Any], batch: Batch) -> Any:
        """What the loss takes of the outputs of `model`, in this trial's precision and memory format."""
        if self.speed.channels_last:
            batch = Batch(self.laid_out(batch.inputs), batch.targets)
        return self.outputs_of(model, batch)

    def outputs_of(self, model: Callable[..., Any], batch: Batch) -> Any:
        """The same for a batch that is laid out already, or whose layout does not matter."""
        with self.precision.autocast():
            outputs = self.forward(model, batch)
        return self.precision.raised(self.loss.read(outputs))

    def laid_out(self, inputs: Tree) -> Tree:
        """Images in the memory format of the model; anything else as it is."""
        return map_tree(_channels_last, inputs) if self.speed.channels_last else inputs

    def _set_hyperparameters(self, step: int) -> None:
        """Set LR, and momentum and weight decay where the schedule has them, of update `step` in every group (P4)."""
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
        values = {"momentum": momentum, "weight_decay": max(decays, default=None)}
        return {name: float(value) for name, value in values.items() if value is not None}

    def seed_random(self, seed: int) -> None:
        """Seed the random numbers of dropout and the like."""
        # Not torch.manual_seed: without a CUDA context that one records a stack trace at every call.
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _recount(self, counted: int | Tensor) -> Tensor | None:
        """Where not examples are counted (but tokens, or weights): turn 1/examples into 1/count in the gradients, and
        return the factor; None where examples are. `counted`: what this rank has counted of the batch."""
        varies = self._counts_vary or isinstance(counted, Tensor)
        if not varies and counted * self.world.size == self.batch.total_batch_size:
            return None
        # A number that depends on shapes alone is the same on every rank.
        count = as_float64(counted, self.world.device)
        count = self.world.sum(count) if varies else count * self.world.size
        factor = self.batch.total_batch_size / count.where(count > 0, 1.0)
        for parameter in self.parallel.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        return factor

    @contextmanager
    def weights(self, averaged: bool) -> Iterator[nn.Module]:
        """The model, or its average where one is kept, for forward passes without gradients."""
        average = self.average if averaged else None
        with nullcontext(self.model) if average is None else average.evaluated() as model:
            yield model
        self.parallel.leave()

    def agree_on_buffers(self) -> None:
        """Give every rank the same buffers outside batch norm, raw and averaged; all ranks must call it together."""
        self.buffers.note_moving(self.world)
        self.buffers.agree(self.world)
        if self.average is not None:
            self.average.copy_rest()
            self.average.buffers.agree(self.world)

    def warm_up(self) -> None:
        """Untimed updates on throw-away examples through the trial's own wrapper; the state is then restored (P8)."""
        weights, buffers = self.parallel.copy(), self.buffers.copy()
        micro, accumulated = self.batch.per_device_batch_size, min(2, self.batch.gradient_accumulation_steps)
        examples = torch.arange(micro, device=self.world.device).expand(2, accumulated, micro)
        for step in range(WARM_UP_UPDATES):
            self.update(step, examples)
        self.buffers.note_moving(self.world)
        self.parallel.put_back(weights)
        self.buffers.load(buffers)
        self._fresh_state()
        self.loader.read_waited_s()  # so that the warm-up's wait is not counted in the first interval


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
