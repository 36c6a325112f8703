"""One file of tokens: which of the formats in use it is, by its first bytes, and its uint16 tokens, mapped."""

from pathlib import Path

import numpy as np

from harness.plan.errors import UserError

# Header in llm.c's dev/data/data_common.py: 256 int32, of which magic number, version and token count are used.
HEADER_BYTES, MAGIC, VERSION = 1024, 20240520, 1
MAGIC_UINT32 = 20240801  # the same header, for uint32 tokens
NUMPY = b"\x93NUMPY"
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive (.npz, .pt)",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"MMIDIDX": "an index of Megatron's, not its .bin",
}
SAMPLED = 1 << 16  # tokens of a file without a header that are looked at
LEAST = 64  # tokens, below which nothing is said about their width
MOST_HIGH_HALVES = 31  # of 32-bit tokens: a vocabulary below 2 million


def map_tokens(path: Path) -> np.ndarray:
    """The file's tokens, uint16 [tokens], mapped. UserError if it is damaged, or holds anything but uint16 tokens."""
    held = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(NUMPY):
        return _numpy_array(path, held)
    magic, version, promised = (int(value) for value in np.frombuffer(start[:12].ljust(12, b"\0"), dtype="<i4"))
    if magic == MAGIC_UINT32:
        raise UserError(f"{path} has uint32 tokens: only uint16 shards can be read")
    if magic != MAGIC:
        return _without_header(path, held, start)
    if held != HEADER_BYTES + 2 * promised:
        raise UserError(
            f"{path} is damaged: its header gives {promised:,} tokens, hence {HEADER_BYTES + 2 * promised:,} bytes, "
            f"but it has {held:,} bytes"
        )
    if version != VERSION:
        raise UserError(f"{path} has format version {version}: only version {VERSION} can be read")
    return _mapped(path, held, HEADER_BYTES)


def _mapped(path: Path, held: int, offset: int) -> np.ndarray:
    if held <= offset:
        return np.empty(0, dtype="<u2")
    return np.memmap(path, dtype="<u2", mode="r", offset=offset)


def _numpy_array(path: Path, held: int) -> np.ndarray:
    """A .npy file: numpy reads its header, and no pickle."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable .npy file of numbers: {error}") from error
    if array.dtype.kind != "u" or array.dtype.itemsize != 2:
        raise UserError(f"{path} has {array.dtype} tokens: only uint16 shards can be read, save it as np.uint16")
    if array.ndim != 1:
        raise UserError(f"{path} has the shape {array.shape}: tokens must be one line, save it after .ravel()")
    if held != array.offset + array.nbytes:
        raise UserError(
            f"{path} is damaged: its header gives {array.size:,} tokens, hence {array.offset + array.nbytes:,} bytes, "
            f"but it has {held:,} bytes"
        )
    return array


def _without_header(path: Path, held: int, start: bytes) -> np.ndarray:
    """nanoGPT's train.bin. Truncation can be noticed only from an odd number of bytes."""
    for first, what in OTHER_FORMATS.items():
        if start.startswith(first):
            raise UserError(f"{path} is {what}: only uint16 tokens in .npy, llm.c or headerless files can be read")
    if held % 2:
        raise UserError(f"{path} is truncated: {held:,} bytes are not a whole number of uint16 tokens")
    tokens = _mapped(path, held, 0)
    if what := _other_width(np.asarray(tokens[:SAMPLED])):
        raise UserError(f"{path} seems to have {what}: only uint16 tokens can be read, save it as np.uint16")
    return tokens


def _other_width(tokens: np.ndarray) -> str | None:
    """What a file without a header holds instead of uint16 tokens, by what reading it as uint16 gives."""
    if len(tokens) < LEAST:
        return None
    even, odd = tokens[0::2], tokens[1::2]
    if odd.max() <= MOST_HIGH_HALVES < even.max() or (odd.max() == 0 < even.max()):
        return "32-bit or 64-bit tokens"
    halves = tokens.view(np.uint8)
    if _is_text(halves.tobytes()):
        return "text"
    if halves.max() < 128 and len(tokens) >= 1024:
        low, high = (np.bincount(half, minlength=128) / len(tokens) for half in (halves[0::2], halves[1::2]))
        if high[0] < 0.5 and np.abs(low - high).sum() / 2 < 0.1:
            return "8-bit tokens"
    return None


def _is_text(content: bytes) -> bool:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if error.start < len(content) - 4:  # not a character that is cut
            return False
        text = content[: error.start].decode()
    return "".join(text.split()).isprintable()
