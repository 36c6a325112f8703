"""Tokens in flat uint16 files, larger than memory: nanoGPT's train.bin, .npy shards, or those of llm.c."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.datasets.examples import Batch, Splits
from harness.datasets.prepare import is_prepared, prepare_once
from harness.datasets.progress import Progress, announce
from harness.datasets.token_file import map_tokens
from harness.plan.errors import UserError

DIGESTED_AT_ONCE = 1 << 24  # bytes


class ShardedTokens:
    """Blocks of `context` tokens and their successors, int64 [n, context], gathered on the host from mapped files.

    `shards`: uint16 [blocks, context + 1] each, on the host.
    """

    every_target_counts = True

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self.shards = shards
        self.ends = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def to(self, device: torch.device, dtype: torch.dtype) -> "ShardedTokens":
        return self

    def batch(self, index: Tensor) -> Batch:
        return self.deliver(self.gather(index.cpu(), index.is_cuda), index)

    def gather(self, index: Tensor, pinned: bool) -> Tensor:
        block = index.numpy()
        shard_of = np.searchsorted(self.ends, block, side="right")
        # int16 holds the bits of uint16, for which torch has few kernels.
        tokens = torch.empty((len(block), self.shards[0].shape[1]), dtype=torch.int16, pin_memory=pinned)
        gathered = tokens.numpy().view(np.uint16)
        for i in np.unique(shard_of):
            here = shard_of == i
            gathered[here] = self.shards[i][block[here] - (self.ends[i] - len(self.shards[i]))]
        return tokens

    def deliver(self, gathered: Tensor, index: Tensor) -> Batch:
        line = gathered.to(index.device, non_blocking=True).long() & 0xFFFF
        return Batch(line[:, :-1].contiguous(), line[:, 1:].contiguous())


class Shard(NamedTuple):
    path: Path
    blocks: np.ndarray  # uint16 [blocks, context + 1], mapped


class TokenShards:
    """The first `train` blocks of the training shards; `validation` and then `test` blocks of the validation shards.

    Shards are the files in `folder` that match `train_files` or `validation_files`, in the order of their names.
    Blocks do not cross shards; every token except a shard's first is a target once, so neighbouring blocks share one.
    Nothing is stratified or moved between splits: the authors of the shards decided what validation text is.
    """

    def __init__(
        self,
        folder: str,
        train: int,
        validation: int,
        test: int,
        context: int = 1024,
        train_files: str = "*train*.bin",
        validation_files: str = "*val*.bin",
        root: str = "~/.cache/harness",
    ) -> None:
        if min(context, train, validation, test) < 1:
            raise UserError(
                f"dataset.context and split sizes must be >= 1, not {context} and {train}, {validation}, {test} blocks"
            )
        self.folder = Path(folder).expanduser()
        self.sizes = (train, validation, test)
        self.context = context
        self.train_files = train_files
        self.validation_files = validation_files
        self.root = Path(root).expanduser()

    def declared_sizes(self) -> tuple[int, int, int]:
        return self.sizes

    def missing(self) -> str | None:
        """Where to put the shards; None if there is a folder."""
        if self.folder.is_dir():
            return None
        return (
            f"put shards that match {self.train_files} and {self.validation_files} into {self.folder}, or give "
            "dataset.folder=FOLDER"
        )

    def is_prepared(self) -> bool:
        """Whether the digests of all shards that are read are known on this node."""
        return not self.missing() and is_prepared(self.root, digests_name(self._paths(self._taken())))

    def load(self) -> Splits:
        """The first load on a node reads the shards to store their digests in `root`; later loads only map them."""
        taken = self._taken()
        digests = digests_once(self._paths(taken), self.root)
        named = json.dumps([digests, self.context, self.sizes])
        splits = (ShardedTokens([shard.blocks for shard in part]) for part in taken)
        return Splits(*splits, fingerprint=hashlib.sha256(named.encode()).hexdigest()[:16])

    def _taken(self) -> list[list[Shard]]:
        """The shards of each split with its blocks of them."""
        train_shards, held_out = self._shards(self.train_files), self._shards(self.validation_files)
        if both := {shard.path.name for shard in train_shards} & {shard.path.name for shard in held_out}:
            raise UserError(f"{self.folder}: {min(both)} matches both {self.train_files} and {self.validation_files}")
        train, validation, test = self.sizes
        return [
            self._take(train_shards, 0, train, self.train_files),
            self._take(held_out, 0, validation, self.validation_files),
            self._take(held_out, validation, test, self.validation_files),
        ]

    @staticmethod
    def _paths(taken: Sequence[Sequence[Shard]]) -> list[Path]:
        return list(dict.fromkeys(shard.path for part in taken for shard in part))

    def _shards(self, pattern: str) -> list[Shard]:
        paths = sorted(self.folder.glob(pattern))
        if not paths:
            raise UserError(
                f"{self.folder} has no file that matches {pattern}{self._others()}: change dataset.folder or the "
                "pattern"
            )
        return [Shard(path, map_blocks(path, self.context)) for path in paths]

    def _others(self) -> str:
        """The files that are there instead, for an error."""
        names = sorted(path.name for path in self.folder.glob("*") if path.is_file())
        return f", but {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else ""

    def _take(self, shards: Sequence[Shard], start: int, count: int, pattern: str) -> list[Shard]:
        """Blocks start <= b < start + count of the shards laid end to end."""
        taken, first = [], 0
        for path, blocks in shards:
            piece = blocks[max(start - first, 0) : max(start + count - first, 0)]
            taken += [Shard(path, piece)] if len(piece) else []
            first += len(blocks)
        if first < start + count:
            raise UserError(
                f"{self.folder}: {pattern} has {first:,} blocks of {self.context} tokens, but {start + count:,} are "
                "needed"
            )
        return taken


def map_blocks(path: Path, context: int) -> np.ndarray:
    """The shard's blocks as a view of the mapped file, uint16 [blocks, context + 1]. UserError if it is damaged."""
    tokens = map_tokens(path)
    if len(tokens) <= context:
        raise UserError(f"{path} has {len(tokens):,} tokens, fewer than one block of {context} and the token after it")
    return np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::context]


def digests_once(paths: Sequence[Path], root: Path) -> list[str]:
    """SHA-256 of each file, computed once per node as long as paths, sizes and modification times stay the same; those
    of an interrupted computation are kept."""

    def build(folder: Path) -> None:
        stored = folder / "digests.jsonl"
        known = dict(json.loads(line) for line in _whole_lines(stored))
        progress = Progress(f"{paths[0].parent}: digests", sum(path.stat().st_size for path in paths), "bytes read")
        with stored.open("a", encoding="utf-8") as file:
            for path in paths:
                if str(path) in known:
                    progress.advance(path.stat().st_size)
                    continue
                known[str(path)] = _digest(path, progress)
                file.write(json.dumps([str(path), known[str(path)]]) + "\n")
                file.flush()
        (folder / "sha256.json").write_text(json.dumps([known[str(path)] for path in paths]))
        announce(f"{paths[0].parent}: digests of {len(paths)} shards computed")

    name = digests_name(paths)
    return json.loads((prepare_once(root, name, build, parts=name) / "sha256.json").read_text())


def digests_name(paths: Sequence[Path]) -> str:
    """Name of the folder with the files' digests; it changes with any of the files."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return f"shards-{hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]}"


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(DIGESTED_AT_ONCE):
            digest.update(piece)
            progress.advance(len(piece))
    return digest.hexdigest()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that a killed process may have left in the middle of one; empty if there is no file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (end := text.rfind("\n") + 1) < len(text):
        path.write_text(text[:end], encoding="utf-8")
    return text[:end].splitlines()
