"""Text classification from the user's own file: CSV, TSV or JSON lines with one text and one label a row."""

import math
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.datasets.examples import Splits, stratified_split, tensor_fingerprint
from harness.datasets.progress import announce
from harness.datasets.ragged import Ragged, RaggedExamples
from harness.datasets.text_rows import text_rows
from harness.plan.errors import UserError

WORD = re.compile(r"\w+|[^\w\s]")


class TextFile:
    """Tokens [n, t] with their mask, padded in each micro-batch to its longest text, and class indices [n].

    `train` is a file in `folder` with the columns `text` and `label`; classes are its labels, sorted. `validation` and
    `test` are other such files, numbers of examples, or shares of `train`, carved stratified by `split_seed`. Rows
    without a text or a label are excluded and counted. A text is cut after `longest` tokens: `tokens` "words" are words
    in lower case and punctuation marks, each a hash from 1 to `vocabulary` - 1; "bytes" are those of UTF-8 plus 1.
    `sizes` are assumed by a dry run as long as there is no file.
    """

    def __init__(
        self,
        folder: str = ".",
        train: str = "texts.csv",
        validation: str | float = 0.1,
        test: str | float = 0.1,
        text: str = "text",
        label: str = "label",
        classes: int = 2,
        tokens: str = "words",
        vocabulary: int = 16384,
        longest: int = 128,
        split_seed: int = 0,
        sizes: Sequence[int] | None = None,
    ) -> None:
        if tokens not in TOKENS:
            raise UserError(f"unknown dataset.tokens {tokens!r}: choose one of {', '.join(TOKENS)}")
        if vocabulary < (least := 257 if tokens == "bytes" else 2):
            raise UserError(f"dataset.vocabulary must be >= {least} for {tokens}, not {vocabulary}")
        if classes < 2 or longest < 1:
            raise UserError(f"dataset.classes must be >= 2 and dataset.longest >= 1, not {classes} and {longest}")
        self.folder = Path(folder).expanduser()
        self.train = self.folder / train
        self.held_out: dict[str, str | float] = {"validation": validation, "test": test}
        for name, part in self.held_out.items():
            if not (isinstance(part, str) or part > 0):
                raise UserError(f"dataset.{name} must be a share below 1, a number of examples or a file, not {part}")
        self.columns = (text, label)
        self.classes = classes
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.longest = longest
        self.split_seed = split_seed
        self.sizes = sizes

    def declared_sizes(self) -> Sequence[int] | None:
        return None if self.train.exists() else self.sizes

    def missing(self) -> str | None:
        """What to do so that there is a file; None if there is one."""
        if self.train.exists():
            return None
        return (
            f"save texts as {self.train} (.csv, .tsv or .jsonl) with the columns {' and '.join(self.columns)}, or give "
            "dataset.folder=FOLDER dataset.train=FILE"
        )

    def load(self) -> Splits:
        if missing := self.missing():
            raise UserError(f"{self.train} does not exist: {missing}")
        texts, labels = self._read(self.train)
        names = self._names(labels)
        targets = _numbered(labels, names, self.train)
        files = {name: part for name, part in self.held_out.items() if isinstance(part, str)}
        rows = self._rows(targets)
        splits = {name: _examples([texts[i] for i in row], targets[row]) for name, row in rows.items()}
        for name, file in files.items():
            others, their_labels = self._read(self.folder / file)
            splits[name] = _examples(others, _numbered(their_labels, names, self.folder / file))
        ordered = [splits[name] for name in ("train", *self.held_out)]
        content = (t for s in ordered for t in (s.inputs["tokens"].values, s.inputs["tokens"].offsets, s.targets))
        return Splits(*ordered, fingerprint=tensor_fingerprint(*content))

    def _read(self, path: Path) -> tuple[list[Tensor], list[str]]:
        """Tokens and labels of all rows that have both."""
        texts, labels, without = [], [], 0
        for text, label in text_rows(path, *self.columns):
            tokens = TOKENS[self.tokens](text, self.vocabulary)[: self.longest]
            if tokens and label:
                texts.append(torch.tensor(tokens))
                labels.append(label)
            else:
                without += 1
        if without:
            announce(f"{path}: {without:,} rows without a text or a label excluded")
        if not texts:
            raise UserError(f"{path} has no row with a text and a label")
        return texts, labels

    def _names(self, labels: Sequence[str]) -> list[str]:
        """The classes in order; UserError unless there are as many as the model was told."""
        names = sorted(set(labels), key=_by_number)
        if len(names) != self.classes:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(
                f"{self.train} has {len(names)} label{'s' * (len(names) > 1)} ({shown}), but dataset.classes is "
                f"{self.classes}: "
                + (f"set dataset.classes={len(names)}" if len(names) > 1 else "a classifier needs two or more")
            )
        return names

    def _rows(self, targets: Tensor) -> dict[str, Tensor]:
        """Which examples of the training file are in which split, int64 each."""
        counts = {name: part for name, part in self.held_out.items() if not isinstance(part, str)}
        for name, part in counts.items():
            counts[name] = count = round(part * len(targets)) if part < 1 else part
            if count < 1 or count != int(count):
                raise UserError(
                    f"dataset.{name}={part} of the {len(targets)} examples of {self.train} is no whole number of "
                    "examples >= 1"
                )
        sizes = [int(count) for count in counts.values()]
        if sum(sizes) >= len(targets):
            taken = " and ".join(f"dataset.{name} takes {size}" for name, size in zip(counts, sizes, strict=True))
            raise UserError(f"{self.train} has {len(targets)} examples, of which {taken}: none is left to train on")
        parts = stratified_split(targets.numpy(), [len(targets) - sum(sizes), *sizes], self.split_seed)
        return dict(zip(("train", *counts), map(torch.from_numpy, parts), strict=True))


def _examples(texts: Sequence[Tensor], targets: Tensor) -> RaggedExamples:
    return RaggedExamples({"tokens": Ragged.of(texts)}, targets, mask="attention_mask")


def _numbered(labels: Sequence[str], names: Sequence[str], path: Path) -> Tensor:
    """Class indices, int64 [n]."""
    number = {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(labels) - set(names)):
        raise UserError(f"{path} has the label {unknown[0]!r}, which the training file does not have")
    return torch.tensor([number[label] for label in labels])


def _by_number(label: str) -> tuple[float, str]:
    """Sorts labels that are numbers by their value, before all others."""
    try:
        value = float(label)
    except ValueError:
        return math.inf, label
    return (value if math.isfinite(value) else math.inf), label


def _words(text: str, vocabulary: int) -> list[int]:
    return [1 + zlib.crc32(word.encode(errors="replace")) % (vocabulary - 1) for word in WORD.findall(text.lower())]


def _bytes(text: str, vocabulary: int) -> list[int]:
    return [1 + byte for byte in text.encode(errors="replace")]


TOKENS: dict[str, Callable[[str, int], list[int]]] = {"words": _words, "bytes": _bytes}
