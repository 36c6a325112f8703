"""Text that every machine has: the bytes of Python's own standard library, for a byte-level language model."""

import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch

from harness.datasets.examples import Splits, TensorExamples, tensor_fingerprint
from harness.plan.errors import UserError


class StdlibText:
    """Blocks of `context` bytes, inputs and next bytes int64 [n, context]; the vocabulary is 256.

    The text is the top-level modules of the running interpreter's standard library (about 4.7 MB, without packages,
    hence without the test suite and installed packages), so it differs between versions of Python, as the fingerprint
    shows. `train`, `validation` and `test` count blocks. Each module goes to one split, drawn by `split_seed`, so that
    validation text is never trained on; there are no classes to stratify by. Modules that no split needs are left out.
    """

    def __init__(
        self, context: int = 128, train: int = 16384, validation: int = 2048, test: int = 2048, split_seed: int = 0
    ) -> None:
        if min(context, train, validation, test) < 1:
            raise UserError(
                f"dataset.context and split sizes must be >= 1, not {context} and {train}, {validation}, {test} blocks"
            )
        self.context = context
        self.sizes = {"validation": validation, "test": test, "train": train}
        self.split_seed = split_seed

    def declared_sizes(self) -> tuple[int, int, int]:
        return self.sizes["train"], self.sizes["validation"], self.sizes["test"]

    def is_prepared(self) -> bool:
        return True  # it comes with Python

    def load(self) -> Splits:
        modules = stdlib_modules()
        order = np.random.Generator(np.random.PCG64(self.split_seed)).permutation(len(modules))
        texts = iter([modules[i].read_bytes() for i in order])
        blocks = {}
        for split, size in self.sizes.items():
            text = b""
            while len(text) <= size * self.context:
                more = next(texts, None)
                if more is None:
                    held = sum(path.stat().st_size for path in modules)
                    raise UserError(
                        f"the standard library's {held:,} bytes are too few for {sum(self.sizes.values()):,} blocks of "
                        f"{self.context} bytes in whole modules: reduce dataset.train"
                    )
                text += more
            blocks[split] = _blocks(text[: size * self.context + 1], self.context)
        train, validation, test = blocks["train"], blocks["validation"], blocks["test"]
        tensors = (t for split in (train, validation, test) for t in (split.inputs, split.targets))
        return Splits(train, validation, test, tensor_fingerprint(*tensors))


def stdlib_modules() -> list[Path]:
    """The source files of the standard library's top-level modules, by name.

    Only names that Python lists as its own, because files added by a distributor or a build differ between machines.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names)


def _blocks(text: bytes, context: int) -> TensorExamples:
    """Each byte except the first is a target once: neighbouring blocks share the byte at their boundary."""
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return TensorExamples(tokens[:-1].view(-1, context), tokens[1:].view(-1, context))
