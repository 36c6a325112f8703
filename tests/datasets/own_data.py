"""Data sets as users write them, for tests of the adapter."""

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset


class Points(Dataset):
    """Example i is near (i, i, i), class i mod 2; `noisy`: by all three global generators."""

    def __init__(self, size: int = 120, noisy: bool = True, labelled: bool = True) -> None:
        self.size = size
        self.noisy = noisy
        if labelled:
            self.targets = [i % 2 for i in range(size)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        point = np.full(3, index, dtype=np.float64)
        if self.noisy:
            point += torch.rand(3).numpy() + np.random.rand() + random.random()
        return point, index % 2


class Columns(Points):
    """The same as a dict, with a sequence as long as the class says and a column of text."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        point, label = super().__getitem__(index)
        tokens = [1] * (2 + 3 * label)
        return {"point": point, "tokens": tokens, "label": label, "text": f"number {index}"}


class OwnGenerator(Points):
    """Its noise follows no seed of ours."""

    generator = np.random.default_rng(0)

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0] + self.generator.random(), index % 2


class Broken(Points):
    """Example 7 cannot be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 7:
            raise KeyError("no such file")
        return super().__getitem__(index)


class Stream(IterableDataset):
    """No random access."""

    def __iter__(self) -> Any:
        return iter(Points(10))


class HandleOfOneProcess(Points):
    """Opens its file at the first read, as users of HDF5 are told to."""

    opened_by: int | None = None

    def __getitem__(self, index: int) -> Any:
        import os

        if self.opened_by is None:
            self.opened_by = os.getpid()
        assert self.opened_by == os.getpid(), "a file opened in one process is read in another"
        return super().__getitem__(index)


def build_only_once(record: str, size: int = 60) -> Points:
    """Writes down that it was called, as a download would."""
    with open(record, "a") as file:
        file.write("built\n")
    return Points(size)


def doubled(inputs: torch.Tensor) -> torch.Tensor:
    return 2 * inputs
