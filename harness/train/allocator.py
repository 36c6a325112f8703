"""Memory of a worker on the CPU: the next update reuses what one freed without asking the kernel."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # names and numbers of mallopt(3)
LARGEST_KEPT_BYTES = 32 * 2**20  # glibc's upper limit for M_MMAP_THRESHOLD
KEPT_BYTES = 2**31 - 1  # the largest int
GROW_BYTES = 16 * 2**20


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed blocks; does nothing with another libc.

    By default glibc returns large blocks to the kernel, so that every update faults in the pages of its activations
    again. With this the process stays as large as its largest update, which it needs anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_TOP_PAD, GROW_BYTES)
