"""Scores of a learner's weights, raw or averaged, on a set of examples (P3 and P6)."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from harness.datasets.examples import Batch, Examples, HostExamples
from harness.datasets.tree import count_examples
from harness.objectives.metrics.listed import metrics_of
from harness.objectives.metrics.scores import Scores
from harness.train.batch_norm import batch_norms, reestimate
from harness.train.learner import Learner
from harness.train.seeds import derive_seed
from harness.train.stream import group_layout

OUTPUT_BYTES = 1 << 30  # of one forward pass of an evaluation; logits of a large vocabulary are most of its memory


class Evaluator:
    """Evaluates one learner, at most `batch_examples` at a time on each rank. All ranks must call it together."""

    def __init__(self, learner: Learner, batch_examples: int) -> None:
        self.learner = learner
        self.batch_examples = batch_examples
        self.metrics = metrics_of(learner.loss, learner.settings.loss, learner.settings.metrics)
        self._together: int | None = None  # examples of a forward pass, once the size of the outputs is known
        self._statistics: Batch | None = None

    def validation_scores(self) -> dict[str, dict[str, float]]:
        """Validation metrics of the raw weights and, where an average is kept, of the averaged ones."""
        self.learner.agree_on_buffers()
        validation = self.learner.splits.validation
        scores = {"raw": self.evaluate(validation, averaged=False)}
        if self.learner.average is not None:
            scores["averaged"] = self.evaluate(validation, averaged=True)
        return scores

    @torch.no_grad()
    def evaluate(self, examples: Examples, averaged: bool) -> dict[str, float]:
        """Mean of every metric over all `examples`, unpadded and exact over ranks (P6), with batch-norm statistics for
        exactly the weights being evaluated (P3)."""
        learner, world = self.learner, self.learner.world
        scores = Scores(learner.loss, self.metrics, world)
        with learner.weights(averaged) as model:
            was_training = model.training  # never for a copy; switching modes walks all modules, which takes time
            if was_training:
                model.eval()
            self._prepare_statistics(model)
            for batch, counts in self._batches(model, examples):
                outputs = learner.outputs(model, batch)
                if counts:
                    scores.add(outputs, batch.targets)
            if was_training:
                model.train()
        return scores.values(len(examples))

    def _batches(self, model: nn.Module, examples: Examples) -> Iterator[tuple[Batch, bool]]:
        """This rank's examples, and whether they count. Every rank of a split model makes as many forward passes,
        because all ranks gather its blocks together: the last ones of some are of an example that does not count."""
        learner, world = self.learner, self.learner.world
        group = learner.settings.coupled_examples or 1  # whole groups, where an example's loss depends on its group
        groups = -(-len(examples) // group)
        start, stop = (group * i for i in world.share(groups))
        stop, most = min(stop, len(examples)), -(-groups // world.size) * group
        is_split = learner.parallel.is_sharded
        together = self._examples_together(model, examples) if start < stop or is_split else 1
        own = [range(first, min(first + together, stop)) for first in range(start, stop, together)]
        surplus = -(-most // together) - len(own) if is_split else 0
        for number, batch in enumerate(ahead(examples, own + [range(1)] * surplus, world.device)):
            yield batch, number < len(own)

    def _examples_together(self, model: nn.Module, examples: Examples) -> int:
        """As many as `batch_examples` and OUTPUT_BYTES allow; the same on every machine, since it rounds sums."""
        if coupled := self.learner.settings.coupled_examples:
            return coupled
        if self._together is None:
            batch = examples.batch(torch.zeros(1, dtype=torch.int64, device=self.learner.world.device))
            size = _bytes_of(self.learner.outputs(model, batch))
            self._together = max(1, min(self.batch_examples, OUTPUT_BYTES // max(size, 1)))
        return self._together

    def _prepare_statistics(self, model: nn.Module) -> None:
        plan = self.learner.settings.batch_norm
        if plan.span == "none":
            return
        if plan.statistics == "running":
            self._share_running(model)
            return
        learner, batch = self.learner, self.statistics_batch()
        with learner.precision.autocast():
            if learner.parallel.is_sharded and batch_norms(model) and not count_examples(batch.targets):
                few = learner.splits.train.batch(torch.zeros(1, dtype=torch.int64, device=learner.world.device))
                learner.forward(model, few)  # the forward pass that the ranks with groups make
            reestimate(model, batch, plan, learner.world, learner.forward)

    def _share_running(self, model: nn.Module) -> None:
        """Evaluate with the mean over ranks of the running averages (each rank saw its own groups)."""
        world = self.learner.world
        for own, layer in zip(self.learner.running, batch_norms(model), strict=True):
            for source, shared in ((own.mean, layer.mean), (own.var, layer.var)):
                shared.copy_(world.sum(source.clone()) / world.size)

    def statistics_batch(self) -> Batch:
        """This rank's groups of the fixed training examples on which evaluation statistics are re-estimated (P3).

        The set is a function of the training-set size alone: the first `statistics_examples` of permutation
        ("statistics", 0), the same for every trial, TBS and seed.
        """
        learner, plan = self.learner, self.learner.settings.batch_norm
        if self._statistics is None:
            generator = torch.Generator().manual_seed(derive_seed(0, "statistics"))
            chosen = torch.randperm(learner.settings.train_examples, generator=generator)[: plan.statistics_examples]
            start, stop = learner.world.share(plan.statistics_examples // plan.span_examples)
            mine = chosen[start * plan.span_examples : stop * plan.span_examples]
            index = group_layout(mine, plan.span_examples) if len(mine) else mine
            batch = learner.splits.train.batch(index.to(learner.world.device))
            self._statistics = Batch(learner.laid_out(batch.inputs), batch.targets)
        return self._statistics


def ahead(examples: Examples, spans: Sequence[range], device: torch.device) -> Iterator[Batch]:
    """The batch of each of `spans`; of examples on the host the next one is gathered while the device computes."""
    if not isinstance(examples, HostExamples):
        yield from (examples.batch(_indices(span, device)) for span in spans)
        return
    host, is_pinned = torch.device("cpu"), device.type == "cuda"
    with ThreadPoolExecutor(1, "evaluation") as thread:
        upcoming = [thread.submit(examples.gather, _indices(span, host), is_pinned) for span in spans[:1]]
        for span, later in zip_longest(spans, spans[1:]):
            gathered = upcoming.pop().result()
            if later is not None:
                upcoming.append(thread.submit(examples.gather, _indices(later, host), is_pinned))
            yield examples.deliver(gathered, _indices(span, device))


def _indices(span: range, device: torch.device) -> Tensor:
    return torch.arange(span.start, span.stop, device=device)


def _bytes_of(outputs: Any) -> int:
    """Bytes of the outputs of one example; a weight that is returned with them is not one."""
    if isinstance(outputs, Tensor):
        return outputs.nbytes if outputs.dim() and len(outputs) == 1 else 0
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return sum(map(_bytes_of, values)) if isinstance(outputs, Mapping | tuple | list) else 0
