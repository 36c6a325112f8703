"""The embedded default data: scikit-learn's digits, 1,797 real 8x8 images shipped with scikit-learn."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from harness.datasets.examples import Splits, TensorExamples, stratified_split, tensor_fingerprint


class Digits:
    """Images [n, 1, 8, 8] scaled to mean 0 and standard deviation 1 over the training split, labels 0-9.

    Stratified splits of the given sizes; `split_seed` is the same for every trial seed (P10).
    Source: UCI optical recognition of handwritten digits, test part (Alpaydin & Kaynak 1998).
    """

    def __init__(self, train: int = 1024, validation: int = 386, test: int = 387, split_seed: int = 0) -> None:
        self.sizes = (train, validation, test)
        self.split_seed = split_seed

    def declared_sizes(self) -> tuple[int, int, int]:
        return self.sizes

    def is_prepared(self) -> bool:
        return True  # it comes with scikit-learn

    def load(self) -> Splits:
        pixels, labels = _read()
        parts = stratified_split(labels, self.sizes, self.split_seed)
        images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)
        mean, std = images[parts[0]].mean(), images[parts[0]].std()
        images = (images - mean) / std
        targets = torch.from_numpy(labels).long()
        train, validation, test = (TensorExamples(images[part], targets[part]) for part in map(torch.from_numpy, parts))
        fingerprint = tensor_fingerprint(
            *(t for split in (train, validation, test) for t in (split.inputs, split.targets))
        )
        return Splits(train, validation, test, fingerprint)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 64] and labels [n], from scikit-learn's file: importing scikit-learn takes every worker a second."""
    package = find_spec("sklearn")
    assert package is not None, "a dependency of the harness"
    assert package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)
