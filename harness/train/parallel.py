"""How a model is spread over the ranks of a trial: a replica on each (DDP), or split over them (FSDP2's fully_shard).

What a rank updates is a dict of plain parameters: the model's own, or its rows of each of them. An optimizer that
treats every number by itself, the average and the diagnostics work on either. A checkpoint always holds whole tensors
under the same names, so that its model and optimizer load on any number of ranks, split or not.
"""

import socket
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from harness.plan.errors import UserError
from harness.train.averaging import Average, AveragedModel, AveragedShards
from harness.train.batch_norm import batch_norms
from harness.train.buffers import Buffers
from harness.train.meta_build import MetaBuildError, MetaModel
from harness.train.precision import HALF, Precision
from harness.train.speed import blocks_of, compress_gradients, load_optimizer
from harness.train.world import World

State = dict[str, Any]


class Replicated:
    """The whole model on every rank."""

    is_sharded = False

    def __init__(self, model: nn.Module) -> None:
        self.model = self.wrapped = model
        self.parameters = dict(model.named_parameters())
        self._ddp: DistributedDataParallel | None = None

    def wrap(self, finds_unused: bool, is_static: bool, compresses: bool) -> None:
        """Let DDP average the gradients of all ranks."""
        # Buffers are statistics that the evaluation recomputes: broadcasting them every step would be wasted.
        if finds_unused:  # DDP would take a weight that the model returns, for a fused head, for an unused one
            self.model.register_forward_hook(lambda module, inputs, outputs: _as_results(outputs))
        self.wrapped = self._ddp = DistributedDataParallel(
            self.model, gradient_as_bucket_view=True, find_unused_parameters=finds_unused, static_graph=is_static
        )
        self._ddp.broadcast_buffers = False  # the argument of this name gives a warning from torch 2.13 on
        if compresses:
            compress_gradients(self._ddp)

    def accumulate(self, is_last: bool) -> AbstractContextManager[None]:
        """Context of the forward and backward pass of a micro-batch; ranks exchange gradients in the last one only."""
        return nullcontext() if self._ddp is None or is_last else self._ddp.no_sync()

    def take_gradients(self) -> None:
        """Call after an update's last backward pass: `parameters` then have its gradients."""

    def whole_norms(self, norms: Tensor) -> Tensor:
        """Norms over whole tensors from those over what this rank holds; all ranks must call it together."""
        return norms

    def leave(self) -> None:
        """Call after forward passes that no backward pass follows."""

    def new_average(self, decay: float, buffers: Buffers) -> AveragedModel:
        return AveragedModel(self.model, decay, buffers)

    def copy(self) -> Any:
        """Weights and persistent buffers as they are now, for `put_back`."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def put_back(self, copy: Any) -> None:
        self.model.load_state_dict(copy)

    def model_state(self, average: Average | None = None) -> State:
        """The state_dict of the model, or of its average, in whole tensors."""
        return self._of(average).state_dict()

    def load_model(self, state: State, average: Average | None = None) -> None:
        self._of(average).load_state_dict(state)

    def _of(self, average: Average | None) -> nn.Module:
        return average.module if isinstance(average, AveragedModel) else self.model

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> State:
        """Its state_dict, in whole tensors."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        load_optimizer(optimizer, state)


class Sharded:
    """On every rank about 1 / W of the rows of every parameter; a block is gathered while it computes.

    Gradients are reduced to the rank's rows after every micro-batch, since whole ones may not fit. `parameters` share
    their memory with the model's DTensors. All ranks must call every method together.
    """

    is_sharded = True

    def __init__(
        self,
        construct: Callable[[], nn.Module],
        ready: Callable[[nn.Module], nn.Module],
        tries_meta: bool,
        precision: Precision,
        world: World,
    ) -> None:
        """`ready` makes what `construct` gives ready to be split. With `tries_meta` the model is built on meta where
        that is possible; else on the CPU, by one rank of a node at a time."""
        self.world = world
        turn, turns = _turns(world)
        mesh = init_device_mesh(world.device.type, (world.size,))
        built = _on_meta(construct, world) if tries_meta else None
        if built is not None:
            self.model = self.wrapped = _split(ready(built.model), built.fill, precision, mesh)
        for number in range(turns if built is None else 0):
            if number == turn:
                self.model = self.wrapped = _split(ready(construct()), lambda part: None, precision, mesh)
            world.meet()
        self._split = dict(self.model.named_parameters())
        with torch.no_grad():
            self.parameters = {
                name: nn.Parameter(_local(p), requires_grad=p.requires_grad) for name, p in self._split.items()
            }
        first = {id(p): name for name, p in self._split.items()}
        every = self.model.named_parameters(remove_duplicate=False)
        self._name = {name: first[id(p)] for name, p in every}  # of a parameter under each of its names

    def accumulate(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    @torch.no_grad()
    def take_gradients(self) -> None:
        for split, own in zip(self._split.values(), self.parameters.values(), strict=True):
            own.grad = None if split.grad is None else _local(split.grad)
            split.grad = None

    def whole_norms(self, norms: Tensor) -> Tensor:
        return self.world.sum(norms.double().square()).sqrt().to(norms.dtype)

    def leave(self) -> None:
        self.model.reshard()  # pyright: ignore[reportCallIssue]

    def new_average(self, decay: float, buffers: Buffers) -> AveragedShards:
        return AveragedShards(self.model, self.parameters, decay, buffers, self.leave)

    def copy(self) -> Any:
        return [value.detach().clone() for value in (*self.parameters.values(), *self.model.buffers())]

    @torch.no_grad()
    def put_back(self, copy: Any) -> None:
        for value, kept in zip((*self.parameters.values(), *self.model.buffers()), copy, strict=True):
            value.copy_(kept)

    def model_state(self, average: Average | None = None) -> State:
        """Parameters are on the CPU of rank 0 and empty on the others."""
        whole = {name: self._gathered(value, self._split[name]) for name, value in self._of(average).items()}
        state = self.model.state_dict()
        for name in state:
            if name in self._name:
                state[name] = whole[self._name[name]]
            elif average is not None and name in average.buffers:
                state[name] = average.buffers[name]
        return state

    @torch.no_grad()
    def load_model(self, state: State, average: Average | None = None) -> None:
        missing = self._name.keys() - state.keys()
        if missing or any(state[name].shape != self._split[first].shape for name, first in self._name.items()):
            lacks = ", ".join(sorted(missing)) or "parameters of these sizes"
            raise RuntimeError(f"the checkpoint is of another model: it lacks {lacks}")
        for name, own in self._of(average).items():
            own.copy_(self._rows(state[name]))
        for name in state.keys() - self._name.keys():
            if average is None:
                self.model.get_buffer(name).copy_(state[name])
            elif name in average.buffers:
                average.buffers[name].copy_(state[name])

    def _of(self, average: Average | None) -> Mapping[str, Tensor]:
        return average.parameters if isinstance(average, AveragedShards) else self.parameters

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> State:
        """On rank 0 on the CPU; whole tensors are empty on the others."""
        state = optimizer.state_dict()
        for index, whole in enumerate(self._order(optimizer)):
            own = _local(whole)
            values = state["state"].get(index, {})
            state["state"][index] = {
                key: self._gathered(value, whole) if _is_like(value, own) else value for key, value in values.items()
            }
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        order = self._order(optimizer)
        own = {
            index: {key: self._rows(value) if _is_like(value, order[index]) else value for key, value in values.items()}
            for index, values in state["state"].items()
        }
        load_optimizer(optimizer, {**state, "state": own})

    def _order(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """The split parameters in the order in which the optimizer's state counts them."""
        names = {id(own): name for name, own in self.parameters.items()}
        return [self._split[names[id(own)]] for group in optimizer.param_groups for own in group["params"]]

    def _gathered(self, own: Tensor, like: Tensor) -> Tensor:
        """The whole tensor whose rows `own` are, on the CPU of rank 0; empty on the others."""
        rows = -(-len(like) // self.world.size)
        padded = own.new_zeros(rows, *like.shape[1:])
        padded[: len(own)] = own.detach()
        whole = self.world.gather(padded).flatten(0, 1)[: len(like)]
        return whole.cpu() if self.world.is_main else whole[:0]

    def _rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of a whole tensor, as their own memory."""
        return own_rows(whole, self.world).clone()


Parallel = Replicated | Sharded


def own_rows(whole: Tensor, world: World) -> Tensor:
    """The part of a tensor that `fully_shard` leaves on this rank; empty where there are fewer rows than ranks."""
    rows = -(-len(whole) // world.size)
    return whole[world.rank * rows : (world.rank + 1) * rows]


def check_model(model: nn.Module) -> None:
    """Raises UserError for a model that cannot be split."""
    scalars = [name for name, p in model.named_parameters() if p.dim() == 0]
    if scalars:
        raise UserError(
            f"cluster.sharding=full splits the rows of parameters, and {scalars[0]} is a single number without rows: "
            "give it the shape [1]"
        )


def _on_meta(construct: Callable[[], nn.Module], world: World) -> MetaModel | None:
    try:
        return MetaModel(construct, world)
    except MetaBuildError:
        return None


def _split(model: nn.Module, fill: Callable[[nn.Module], None], precision: Precision, mesh: Any) -> nn.Module:
    """The model as `fully_shard` splits it: block by block, so that a GPU holds one whole block at a time. `fill` gives
    a block its values."""
    # FSDP puts a hook on whatever the model returns: on a weight (for a fused head), one more at every forward pass.
    model.register_forward_hook(lambda module, inputs, outputs: _as_results(outputs))
    warnings.filterwarnings("ignore", ".*returned a view tensor")  # no loss changes outputs in place
    half = HALF.get(precision.name)
    # Whole weights in half precision, as autograd keeps those that autocast makes of them until the backward pass.
    # torch's batch norm does not mix half-precision weights with statistics in float32.
    gathers_half = half is not None and not batch_norms(model)
    policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False) if gathers_half else None
    options = {"mesh": mesh} if policy is None else {"mesh": mesh, "mp_policy": policy}
    for part in (*separable_blocks(model), model):
        fill(part)
        fully_shard(part, **options)
    return model


def separable_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one at a time; what shares a parameter with another part stays with the rest."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found = []
    for block in dict.fromkeys(blocks_of(model)):
        own = Counter(id(p) for _, p in block.named_parameters(remove_duplicate=False))
        is_called = not isinstance(block, nn.ModuleList | nn.ModuleDict)
        if own and is_called and all(uses[key] == count for key, count in own.items()):
            found.append(block)
    return found


def _turns(world: World) -> tuple[int, int]:
    """(which this rank is of those on its node, the most ranks that a node has)."""
    node = torch.tensor(zlib.crc32(socket.gethostname().encode()), device=world.device)
    nodes = world.gather(node).tolist()
    return nodes[: world.rank].count(nodes[world.rank]), max(Counter(nodes).values())


def _local(split: Any) -> Tensor:
    """This rank's rows of a DTensor."""
    with torch.no_grad():  # with gradients `to_local` gives a view that autograd knows
        return split.to_local()


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape


def _as_results(outputs: Any) -> Any:
    """Outputs in which a parameter is a result of the forward pass."""
    if isinstance(outputs, tuple):
        return tuple(o.view_as(o) if isinstance(o, nn.Parameter) else o for o in outputs)
    return outputs
