"""Batch norm over a chosen span of examples, and its evaluation statistics for the weights being evaluated (P3).

Running statistics have a memory in steps: at a large TBS they lag behind the weights and make convergence look slow.
Here evaluation statistics are re-estimated on a fixed set of training examples, or averaged with a half-life in
examples.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from harness.datasets.examples import Batch
from harness.datasets.tree import call, count_examples
from harness.plan.errors import UserError
from harness.plan.settings import BatchNorm
from harness.train.world import World

OVER = (0, 3, 4)  # members of a group, height and width


class SpanBatchNorm(nn.Module):
    """Batch norm whose training statistics come from groups of `span_examples`, laid out strided in the micro-batch.

    Input [m, C, ...] or [m, C]; in training m must be a multiple of the group (see stream.group_layout). In evaluation
    it normalises with the buffers `mean` and `var` [C].
    """

    mean: Tensor
    var: Tensor

    def __init__(self, source: _BatchNorm, span: str, span_examples: int) -> None:
        super().__init__()
        self.span = span
        self.span_examples = span_examples
        self.eps = source.eps
        self.weight = source.weight
        self.bias = source.bias
        self.register_buffer("mean", torch.zeros(source.num_features))
        self.register_buffer("var", torch.ones(source.num_features))
        self.in_place = False  # whether activations in channels last are normalised where they are
        self.collecting = False  # whether statistics of the groups are summed up
        self.estimating = False  # re-estimation: groups are within one rank, whatever the span in training
        self._sums: tuple[Tensor, Tensor, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.batch_norm(x, self.mean, self.var, self.weight, self.bias, False, 0.0, self.eps)
        if self.span == "sync" and not self.estimating and dist.is_initialized() and dist.get_world_size() > 1:
            return self._over_all_ranks(x)
        return self._in_groups(x)

    def _in_groups(self, x: Tensor) -> Tensor:
        groups, channels = len(x) // self.span_examples, x.shape[1]
        if self.in_place and groups > 1 and x.dim() == 4 and not x.is_contiguous():
            return self._where_they_are(x, groups)
        folded = x.reshape(self.span_examples, groups * channels, *x.shape[2:])
        weight, bias = self.weight, self.bias
        if groups > 1 and weight is not None:
            weight, bias = weight.repeat(groups), bias.repeat(groups)
        if not self.collecting:
            return _unfolded(functional.batch_norm(folded, None, None, weight, bias, True, 0.0, self.eps), x)
        # With momentum 1 torch writes the groups' own mean and unbiased variance into these. Zeros, not empty: it
        # computes 0 x old + 1 x new, and uninitialised memory may hold an infinity.
        mean = torch.zeros(groups * channels, device=x.device, dtype=self.mean.dtype)
        var = torch.zeros_like(mean)
        out = _unfolded(functional.batch_norm(folded, mean, var, weight, bias, True, 1.0, self.eps), x)
        self._collect(mean.view(groups, channels), var.view(groups, channels))
        return out

    def _where_they_are(self, x: Tensor, groups: int) -> Tensor:
        """The same without folding groups into channels, which in channels last copies the activations there and back:
        19 times in each forward pass of a ResNet-20. Without compile it takes more, but smaller, operations."""
        grouped = x.unflatten(0, (self.span_examples, groups))
        out, mean, var = NormalisedGroups.apply(grouped, self.weight, self.bias, self.eps)
        if self.collecting:
            count = x.numel() // (groups * x.shape[1])
            self._collect(mean.view(groups, -1).detach(), var.view(groups, -1).detach() * (count / (count - 1)))
        return _unfolded(out, x)

    def _over_all_ranks(self, inputs: Tensor) -> Tensor:
        x = inputs.to(self.mean.dtype)  # never sum in half precision
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        var = all_reduce(centred.square().sum(axes)) / count
        out = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.collecting:
            self._collect(mean.detach()[None], var.detach()[None] * (count / (count - 1)))
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(inputs.dtype)

    def _collect(self, means: Tensor, variances: Tensor) -> None:
        """Add the statistics of some groups, [groups, C] each."""
        mean, var, groups = self._sums or (torch.zeros_like(self.mean), torch.zeros_like(self.var), 0)
        self._sums = (mean + means.sum(0), var + variances.sum(0), groups + len(means))

    def collected(self) -> tuple[Tensor, Tensor, int]:
        """Sums of group means and variances [C] and their number since the last call."""
        sums = self._sums or (torch.zeros_like(self.mean), torch.zeros_like(self.var), 0)
        self._sums = None
        return sums


def _unfolded(out: Tensor, x: Tensor) -> Tensor:
    """`out`, which nothing else refers to, in the shape of `x`; for autograd no view: an in-place activation on a view
    copies the gradient four times in the backward pass."""
    return out if out.shape == x.shape else torch.ops.aten._unsafe_view.default(out, x.shape)


class NormalisedGroups(torch.autograd.Function):
    """x [span, groups, C, H, W] normalised over span, H and W, in whatever layout it is; also means and variances,
    [1, groups, C, 1, 1], which are not differentiated. Only x is kept for the backward pass, as torch's own does.

    Sums are in float32 at least. Differences of sums lose what rounding of the inputs has lost already.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        if x.dtype in (torch.bfloat16, torch.float16):
            mean = x.mean(OVER, True, dtype=torch.float32)
            size = torch.linalg.vector_norm(x, 2, OVER, True, dtype=torch.float32)
            var = (size.square() / (x.numel() // mean.numel()) - mean.square()).clamp_min(0)
        else:
            var, mean = torch.var_mean(x, OVER, correction=0, keepdim=True)
        inverse = torch.rsqrt(var + eps)
        scale = inverse if weight is None else inverse * weight[:, None, None]
        shift = -mean * scale if bias is None else bias[:, None, None] - mean * scale
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, var)
        return _scaled(shift, x, scale), mean, var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight, mean, inverse = ctx.saved_tensors
        count = x.numel() // mean.numel()
        total = gradient.sum(OVER, True, dtype=mean.dtype)
        product = ((gradient * x).sum(OVER, True, dtype=mean.dtype) - mean * total) * inverse  # with normalised x
        scale = inverse if weight is None else inverse * weight[:, None, None]
        slope = -scale * inverse * product / count
        of_x = _scaled(torch.addcmul(-scale * total / count - slope * mean, x, slope), gradient, scale)
        if weight is None:
            return of_x, None, None, None
        return of_x, product.sum(1).flatten(), total.sum(1).flatten(), None


def _scaled(shift: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """shift + x * scale in the dtype of x, rounded once."""
    if torch.compiler.is_compiling() or x.dtype == shift.dtype:
        return torch.addcmul(shift, x, scale).to(x.dtype)
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x))


def convert_batch_norm(model: nn.Module, plan: BatchNorm) -> nn.Module:
    """Replace every batch norm of `model` by one with the workload's span; returns the model.

    Raises UserError for a model with batch norm whose workload declares none.
    """
    if isinstance(model, _BatchNorm):
        if type(model) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
            # A subclass may do more than normalise (e.g. apply an activation), which replacing it would lose.
            raise UserError(f"the model's {type(model).__name__} is not torch's own batch norm and cannot be converted")
        if plan.span == "none":
            raise UserError(
                "the model has batch norm but workload.batch_norm.span is none: choose one of ghost "
                "(with span_examples), sync, per_device"
            )
        return SpanBatchNorm(model, plan.span, plan.span_examples)
    for name, child in model.named_children():
        converted = convert_batch_norm(child, plan)
        if converted is not child:
            setattr(model, name, converted)
    return model


def batch_norms(model: nn.Module) -> list[SpanBatchNorm]:
    return [module for module in model.modules() if isinstance(module, SpanBatchNorm)]


@torch.no_grad()
def reestimate(
    model: nn.Module,
    batch: Batch,
    plan: BatchNorm,
    world: World,
    forward: Callable[[nn.Module, Batch], Any] = lambda model, batch: call(model, batch.inputs),
) -> None:
    """Set every layer's evaluation statistics to the mean over ghost groups of `batch` at the current weights.

    `batch` holds this rank's groups in group layout; the groups are divided among the ranks, and one reduction makes
    the statistics the same on every rank, whatever their number. `forward` calls the model with a batch.
    """
    layers = batch_norms(model)
    if not layers:
        return
    was_training = model.training
    if was_training:
        model.eval()  # dropout off; only the batch norms below see groups
    for layer in layers:
        layer.training = layer.collecting = layer.estimating = True
    if count_examples(batch.targets):
        forward(model, batch)
    for layer in layers:
        layer.training = layer.collecting = layer.estimating = False
    sums = [layer.collected() for layer in layers]
    flat = torch.cat([torch.cat([mean.double(), var.double()]) for mean, var, _ in sums])
    world.sum(flat)
    groups = plan.statistics_examples // plan.span_examples
    for layer, piece in zip(layers, flat.div_(groups).split([2 * len(layer.mean) for layer in layers]), strict=True):
        mean, var = piece.chunk(2)
        layer.mean.copy_(mean)
        layer.var.copy_(var)
    if was_training:
        model.train()


@torch.no_grad()
def advance_running(layers: list[SpanBatchNorm], decay: float) -> None:
    """One update of the running average per optimizer step, from all groups of this rank since the previous one.

    The recursion is linear in the group statistics, so the mean of the ranks' averages is the average over all groups.
    """
    for layer in layers:
        mean, var, groups = layer.collected()
        if groups:
            layer.mean.lerp_(mean / groups, 1 - decay)
            layer.var.lerp_(var / groups, 1 - decay)
