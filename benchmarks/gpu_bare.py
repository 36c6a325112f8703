"""Loops written by hand, against which gpu_check.py measures: the plain one, and ones tuned for a GPU.

They have ordinary batch norm, no average, no schedule and no bookkeeping; the same model, batch, data and precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.plan.instantiate import instantiate
from harness.plan.settings import Settings

Update = Callable[[], None]
WARM_UP = 3  # updates before a graph is captured


@dataclass(frozen=True)
class Bare:
    """How a loop by hand is tuned."""

    tuned: bool = True  # fused optimizer, cuDNN's fastest convolutions
    channels_last: bool = False
    graph: bool = False  # the whole update as one CUDA graph
    compile_mode: str | None = None

    @property
    def label(self) -> str:
        named = {"graph": self.graph, "channels_last": self.channels_last}
        words = [*(name for name, is_on in named.items() if is_on), *filter(None, [self.compile_mode])]
        return ("tuned" if self.tuned else "plain") + "".join(f" {word}" for word in words)


class BareLoop:
    """The model of a trial's settings, trained by hand."""

    def __init__(self, made: Settings, data: tuple[Tensor, Tensor], precision: str, how: Bare) -> None:
        model, optimizer, tbs = made.model, made.optimizer, made.total_batch_size
        self.inputs, self.targets = data
        self.device = self.inputs.device
        self.tbs, self.half, self.how = tbs, precision == "bf16", how
        torch.manual_seed(0)
        net: nn.Module = instantiate(dict(model)).to(self.device)
        self.net = net.to(memory_format=torch.channels_last) if how.channels_last else net  # pyright: ignore[reportCallIssue]
        on_gpu = self.device.type == "cuda"
        fused = {"fused": True} if how.tuned and on_gpu else {}
        capturable = {"capturable": True} if how.graph and "Adam" in optimizer["_target_"] else {}
        spec = {**optimizer, **fused, **capturable}
        self.optimizer: torch.optim.Optimizer = instantiate(spec, list(self.net.parameters()))
        mode = how.compile_mode
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.net, mode=mode) if mode else self.net
        self.order = torch.randperm(len(self.targets), device=self.device)
        self.place = 0
        self.index = self.order[:tbs].clone()  # where a graph reads which examples to take

    def update(self) -> None:
        self._draw()
        self._train()
        self.optimizer.zero_grad(set_to_none=True)

    def recorded(self) -> Update:
        """The update as one graph, captured as torch's documentation shows for a whole network."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.update()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._train()

        def replay() -> None:
            self._draw()
            graph.replay()

        return replay

    def _draw(self) -> None:
        self.index.copy_(self.order[self.place : self.place + self.tbs])
        self.place = (self.place + self.tbs) % (len(self.order) - self.tbs + 1)

    def _train(self) -> None:
        inputs = self.inputs[self.index]
        if self.how.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = self.forward(inputs)
        functional.cross_entropy(logits.float().flatten(0, -2), self.targets[self.index].flatten()).backward()
        self.optimizer.step()
