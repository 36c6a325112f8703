"""The limit that the harness is measured against: a hand-written PyTorch loop that does the same work and nothing else.

Same model, data, updates, average and evaluations with re-estimated batch-norm statistics; no journal, no checkpoint,
no distribution, no protocol. `plain=True` also drops the average and uses ordinary batch norm with running statistics.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.datasets.digits import Digits
from harness.models.bn_cnn import BnCnn
from harness.plan.settings import BatchNorm
from harness.train.averaging import AveragedModel, decay_per_step
from harness.train.batch_norm import batch_norms, convert_batch_norm
from harness.train.stream import group_layout

GROUP, STATISTICS, HALF_LIFE, WARMUP, EVERY = 16, 256, 256.0, 1024, 512


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, validation images and labels."""
    splits = Digits().load()
    train, validation = splits.train.batch(torch.arange(1024)), splits.validation.batch(torch.arange(386))
    return train.inputs, train.targets, validation.inputs, validation.targets


class BareTrial:
    """One hand-written training run."""

    def __init__(self, data: tuple[Tensor, Tensor, Tensor, Tensor], tbs: int, lr: float, plain: bool = False) -> None:
        self.x, self.y, self.vx, self.vy = data
        self.tbs, self.lr, self.plain = tbs, lr, plain
        torch.manual_seed(0)
        self.model: nn.Module = BnCnn()
        if not plain:
            convert_batch_norm(self.model, BatchNorm("ghost", GROUP, statistics_examples=STATISTICS))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.average = None if plain else AveragedModel(self.model, decay_per_step(HALF_LIFE, tbs))
        self.statistics = self.x[group_layout(torch.randperm(1024)[:STATISTICS], GROUP)]
        self.step = 0
        self.order = torch.randperm(1024)

    def update(self) -> None:
        start = self.step * self.tbs % 1024
        if start == 0:
            self.order = torch.randperm(1024)
        index = self.order[start : start + self.tbs]
        if not self.plain:
            index = group_layout(index, GROUP)
        lr = self.lr * min(1.0, (self.step + 1) * self.tbs / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        functional.cross_entropy(self.model(self.x[index]), self.y[index]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self.step += 1

    @torch.no_grad()
    def evaluate(self) -> None:
        models = [self.model] if self.average is None else [self.model, self.average.module]
        for model in models:
            layers = batch_norms(model)
            model.eval()
            for layer in layers:
                layer.training = layer.collecting = True
            if layers:
                model(self.statistics)
            for layer in layers:
                layer.training = layer.collecting = False
                mean, var, groups = layer.collected()
                layer.mean.copy_(mean / groups)
                layer.var.copy_(var / groups)
            logits = model(self.vx)
            functional.cross_entropy(logits, self.vy).item()
            (logits.argmax(1) == self.vy).float().mean().item()
            model.train()

    def run(self, evaluations: int) -> None:
        for _ in range(evaluations):
            for _ in range(EVERY // self.tbs):
                self.update()
            self.evaluate()


def cpu_seconds_per_update(update: Callable[[], object], updates: int) -> float:
    """CPU seconds of this process per update: other load on the machine costs wall time, but hardly any CPU time."""
    began = time.process_time()
    for _ in range(updates):
        update()
    return (time.process_time() - began) / updates
