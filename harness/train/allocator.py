"""Memory of a worker on the CPU: what an update frees, the next one gets back without asking the kernel."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # names and numbers of mallopt(3)
LARGEST_KEPT_BYTES = 32 * 2**20  # glibc takes no more as its M_MMAP_THRESHOLD
KEPT_BYTES = 2**31 - 1  # an int
GROW_BYTES = 16 * 2**20


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed blocks; elsewhere nothing happens.

    By default it returns large blocks to the kernel, so that every update faults the pages of its activations in
    again. The process then stays as large as its largest update, which is what it needs anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_TOP_PAD, GROW_BYTES)
