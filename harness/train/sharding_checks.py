"""What cluster.sharding=full does not work with, refused by name before anything starts (P19)."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.instantiate import instantiate
from harness.plan.settings import Settings, Spec
from harness.plan.trial import Topology

UPDATES = 3
TOLERANCE = 1e-9  # relative, in float64, of parameters updated whole and in halves
SCALES = 1.0, 100.0  # of the gradients of the two halves, so that a norm over both differs from that of either
WITHOUT_CPU = ("fused", "capturable")  # arguments of torch's optimizers that do not change what is computed


def check_parallel(settings: Settings, topology: Topology, speed: Speed) -> None:
    """Raises UserError for a trial that cannot be split over its workers."""
    if topology.sharding != "full":
        return
    optimizer = settings.optimizer["_target_"]
    refused = {
        f"optimizer {optimizer}, which uses norms or matrices of whole layers, of which a worker has a part": (
            not _is_elementwise(settings.optimizer),
            "choose one that treats every number by itself, such as optimizer=adamw or sgd",
        ),
        "AdaScale": (settings.adascale_ratio > 0, "choose another LR rule"),
        "noise_scale": (settings.noise_scale.is_on, "leave noise_scale off"),
        "cluster.gradient_compression=true": (speed.gradient_compression, "use false"),
        "cluster.channels_last=true": (speed.channels_last, "use false"),
        "cluster.precision=fp16, whose overflows workers would see separately": (
            topology.precision == "fp16",
            "use bf16",
        ),
        "batch_norm.statistics=running": (
            settings.batch_norm.span != "none" and settings.batch_norm.statistics == "running",
            "use reestimated",
        ),
    }
    for what, (is_refused, remedy) in refused.items():
        if is_refused:
            raise UserError(f"cluster.sharding=full does not work with {what}: {remedy}")


def _is_elementwise(optimizer: Spec) -> bool:
    """Whether it moves the halves of a matrix and of a vector, each with its own gradient, as it moves the whole."""
    try:
        whole, halves = _updated(optimizer, 1), _updated(optimizer, 2)
    except Exception:
        return False  # not to be tried without its model
    return all(torch.allclose(a, b, rtol=TOLERANCE, atol=0) for a, b in zip(whole, halves, strict=True))


def _updated(optimizer: Spec, pieces: int) -> list[Tensor]:
    """A matrix and a vector after UPDATES updates in `pieces` pieces of their rows."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor(SCALES, dtype=torch.float64).repeat_interleave(4)
    names = ("layers.0.weight", "layers.0.bias")
    drawn = [torch.randn(8, *rest, dtype=torch.float64, generator=generator) for rest in ((3,), ())]
    parts = [[nn.Parameter(part.clone()) for part in value.chunk(pieces)] for value in drawn]
    group: dict[str, Any] = {"lr_factor": 1.0, "norms_and_biases": False}
    for kind in zip(names, parts, strict=True):
        group.setdefault("params", []).extend(kind[1])
        group.setdefault("param_names", []).extend(f"{kind[0]}.{number}" for number in range(pieces))
    spec = {key: value for key, value in optimizer.items() if key not in WITHOUT_CPU}
    made = instantiate(spec, [group])
    for _ in range(UPDATES):
        for value, of_value in zip(drawn, parts, strict=True):
            gradient = torch.randn(value.shape, dtype=torch.float64, generator=generator)
            gradient *= rows.view(-1, *[1] * (value.dim() - 1))
            for part, its in zip(of_value, gradient.chunk(pieces), strict=True):
                part.grad = its.clone()
        made.step()
    return [torch.cat([part.detach() for part in of_value]) for of_value in parts]
