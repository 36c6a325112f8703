"""Model, DDP wrapper, optimizer and average of one trial on one rank, and the updates they make."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.datasets.examples import Batch, Splits
from harness.datasets.tree import Tree, call, map_tree
from harness.objectives.objective import Measured, objective_named
from harness.optimizers.device_step import DeviceNumbers, DeviceStep
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
from harness.train.graphs import Graphs, Repeated, recorder, recording, side_stream
from harness.train.meta_build import can_build_on_meta
from harness.train.noise_meter import NoiseMeter, check_noise
from harness.train.parallel import Parallel, Replicated, Sharded, check_model
from harness.train.precision import Precision, choose_kernels
from harness.train.seeds import derive_seed
from harness.train.sharding_checks import check_parallel
from harness.train.speed import check_speed, compiled, optimizer_spec, recompute_activations
from harness.train.supply import Supply
from harness.train.world import World

WARM_UP_UPDATES = 2  # DDP rebuilds its buckets after the first (P8)
PROBES = 4  # micro-batches that look for parameters without a gradient


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
        self.supply = Supply(settings, seed, self.batch, world, splits)
        self.group, self.loader, self.stream = self.supply.group, self.supply.loader, self.supply.stream
        check_noise(settings, topology.precision)
        check_gain(settings, topology)
        check_speed(settings, topology, self.speed)
        check_parallel(settings, topology, self.speed)
        if self.speed.cuda_graph and self.loss.waits:
            raise UserError(f"cluster.cuda_graph=true does not work with loss {settings.loss}, which reads the device")
        self.graphs: Graphs | None = None  # from the warm-up on, if updates are recorded
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
            self.supply.compile()
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
            for layer in batch_norms(model):
                layer.in_place = device.type != "cpu"  # there, folding is faster in spite of its copies
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
            batch = self.supply.micro_batch(torch.stack([examples, epochs])[:, None], 0)
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
        spec = optimizer_spec(self.settings.optimizer, self.speed)
        self.optimizer = instantiate_as(torch.optim.Optimizer, "optimizer", spec, self._groups())
        dtype, device = self.precision.dtype, self.world.device
        self.device_step = None
        if self.speed.cuda_graph:
            self.device_step = DeviceStep(self.optimizer, self.schedule.momentum(0) is not None, dtype, device)
        self._average_weight = DeviceNumbers(1, dtype, device)
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
        return self.supply.updates(start, stop)

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
        micros = examples.shape[1]
        self._begin(step)
        part = self._part if self.graphs is None else self.graphs.run
        made: Made | None = None
        for number in range(micros):
            # Dropout and the like: a function of (seed, update, rank, micro-batch), so no random state needs saving.
            self.seed_random(derive_seed(self.seed, "update", step, self.world.rank, number))
            made = part(number, micros, last, self.supply.micro_batch(examples, number))
        assert made is not None
        if made.was_made:
            self.diagnostics.count(made.norms)
        self.optimizer.zero_grad(set_to_none=True)
        return made.loss if self.graphs is None else made.loss.clone()  # a replay writes to the same place

    def _begin(self, step: int) -> None:
        """What an update needs of the host, before anything that may be recorded."""
        self._now = step
        if self.gain is None:
            self._set_hyperparameters(step)
        else:
            self.gain.begin()
        if self.noise is not None:
            self.noise.begin(self.supply.start + step * self.batch.total_batch_size, self.optimizer)
        if self.device_step is not None:
            self.device_step.set()
            if self.average is not None:
                self._average_weight.write([self.average.next_weight()])

    def _part(self, number: int, micros: int, last: bool, batch: Batch) -> "Made | None":
        """Micro-batch `number` of an update's `micros` on the device; after the last one also the step, whose results
        are returned. Graphs record it: under `cuda_graph` nothing in it may depend on anything else of the host.
        """
        loss_share = self._loss_share if self.scaler is None else self.scaler.scale(self._loss_share)
        is_final = number == micros - 1
        with self.parallel.accumulate(is_final):
            loss, count = self.measure(self.train_model, batch)
            loss.backward(loss_share)
        share = loss.detach() / self.batch.total_batch_size
        if number == 0:
            self._total, self._counted = share, count.detach().clone() if isinstance(count, Tensor) else count
        else:
            self._total += share  # in place, as a recording needs it
            self._counted += count
        if self.graphs is not None and isinstance(count, int):
            self._counted = count * micros  # a replay adds nothing, but all micro-batches have the same shape
        return self._finish(last) if is_final else None

    def _finish(self, last: bool) -> "Made":
        """The step, once the gradients of all micro-batches are there."""
        total = self._total
        self.parallel.take_gradients()
        factor = self._recount(self._counted)
        if factor is not None:
            total = total * factor
        if self.noise is not None:
            self.noise.end(factor)
        if self.gain is not None:
            self.gain.observe(factor)
            self._set_hyperparameters(self._now)
            self.gain.rule.advance()
        made, norms = self._step(last)
        if self.running:
            half_life = self.settings.batch_norm.half_life_examples
            advance_running(self.running, decay_per_step(half_life, self.batch.total_batch_size))
        if self.average is not None and made:
            self.average.update(None if self.device_step is None else self._average_weight.tensors[0])
        return Made(total, made, norms)

    def measure(self, model: Callable[..., Any], batch: Batch) -> Measured:
        """Sum, in the dtype of the weights, and count of the loss of training examples."""
        total, count = self.train_loss.measure(self.outputs(model, batch), batch.targets)
        return total if total.dtype == self.precision.dtype else total.to(self.precision.dtype), count

    def augmented(self, batch: Batch, indices: Tensor, epochs: Tensor) -> Batch:
        """Training examples as the model receives them."""
        return self.supply.augmented(batch, indices, epochs)

    def _step(self, last: bool) -> tuple[bool, Tensor | None]:
        """Clip the gradients and make the update; returns whether it was made, which it is not where fp16 overflowed,
        and what the diagnostics measured."""
        if self.scaler is not None:
            self.scaler.unscale(self.optimizer)
        self.diagnostics.before_step(last)
        if self.device_step is not None:
            self.device_step.step()
        elif self.scaler is None:
            self.optimizer.step()
        elif not self.scaler.step(self.optimizer):
            self.skipped += 1
            self.diagnostics.skip_step()
            return False, None
        return True, self.diagnostics.norms()

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

    def optimizer_state(self) -> dict[str, Any]:
        """What a checkpoint holds of the optimizer."""
        if self.device_step is not None:
            return self.device_step.state_dict()
        return self.parallel.optimizer_state(self.optimizer)

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Continue from an optimizer's state, saved with or without `cuda_graph` and `fused`."""
        if self.device_step is None:
            self.parallel.load_optimizer(self.optimizer, state)
        else:
            self.device_step.load_state_dict(state)

    def warm_up(self) -> None:
        """Untimed updates on throw-away examples through the trial's own wrapper; the state is then restored (P8).

        Under `cuda_graph` the updates are then recorded. From then on, state is restored in the places that it has.
        """
        weights, buffers = self.parallel.copy(), self.buffers.copy()
        micro, accumulated = self.batch.per_device_batch_size, min(2, self.batch.gradient_accumulation_steps)
        examples = torch.arange(micro, device=self.world.device).expand(2, accumulated, micro)
        self.supply.prepare()
        with side_stream(self.world.device) if self.speed.cuda_graph else nullcontext():
            for step in range(WARM_UP_UPDATES):
                self.update(step, examples, last=self.speed.cuda_graph and step + 1 == WARM_UP_UPDATES)
        self.buffers.note_moving(self.world)
        self.parallel.put_back(weights)
        self.buffers.load(buffers)
        trained = list(self.optimizer.state)
        self._fresh_state()
        if self.device_step is not None:
            self.device_step.prepare(trained)
            self._record(examples)
        self.loader.read_waited_s()  # so that the warm-up's wait is not counted in the first interval

    def _record(self, drawn: Tensor) -> None:
        """Have updates recorded, which computes nothing."""
        batch = self.supply.micro_batch(drawn, 0)
        batch = Batch(self.laid_out(batch.inputs), batch.targets)
        record = recorder(self.world.device)
        self.graphs = Graphs(self._part, batch, record, self.world.device)
        if record is not Repeated:
            with recording(self.model, self.world.device):
                forget = partial(self.optimizer.zero_grad, set_to_none=True)
                self.graphs.record_all(self.batch.gradient_accumulation_steps, forget)


class Made(NamedTuple):
    """What an update gave."""

    loss: Tensor  # this rank's share of the batch's loss
    was_made: bool  # False where fp16 overflowed
    norms: Tensor | None  # see Diagnostics.count


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
