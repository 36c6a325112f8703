"""Every random stream of a trial is a named function of its seed (P10)."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, e.g. `derive_seed(3, "order", epoch)`."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
