"""Parts of data sets, for checks before a trial."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.datasets.examples import Batch, Dataset, Examples, Splits


@dataclass(frozen=True)
class Excerpt:
    """A data set with few validation and test examples, an odd number; the training split is complete."""

    dataset: Dataset
    examples: int

    def load(self) -> Splits:
        splits = self.dataset.load()
        few = {"validation": _odd(splits.validation, self.examples), "test": _odd(splits.test, self.examples)}
        return replace(splits, **few)


def _odd(examples: Examples, count: int) -> Examples:
    least = min(count, len(examples))
    return First(examples, least - (least % 2 == 0))


@dataclass(frozen=True)
class First:
    """The first `count` of some examples."""

    examples: Examples
    count: int

    def __len__(self) -> int:
        return self.count

    def to(self, device: torch.device, dtype: torch.dtype) -> "First":
        return First(self.examples.to(device, dtype), self.count)

    def batch(self, index: Tensor) -> Batch:
        return self.examples.batch(index)
