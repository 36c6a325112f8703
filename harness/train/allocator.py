"""Memory of a worker: on the CPU updates reuse what is freed; trials that share a GPU keep to their part of it."""

import ctypes

import torch

from harness.plan.errors import UserError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # names and numbers of mallopt(3)
LARGEST_KEPT_BYTES = 32 * 2**20  # glibc's upper limit for M_MMAP_THRESHOLD
KEPT_BYTES = 2**31 - 1  # the largest int
GROW_BYTES = 16 * 2**20

SHARED_PART = 0.9  # of its share of a GPU, for the tensors of a trial that shares it ...
CONTEXT_BYTES = 600 * 2**20  # ... less this where it is more: context and libraries of a process. An assumption


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


def limit_gpu_memory(device: torch.device, share: float) -> None:
    """Let this process allocate no more than its `share` of a GPU, so that one trial does not take the memory of those
    that it shares the GPU with."""
    if device.type == "cuda" and share < 1:
        total = torch.cuda.get_device_properties(device).total_memory  # of a MIG slice: the slice's
        torch.cuda.set_per_process_memory_fraction(allocator_fraction(share, total), device)


def allocator_fraction(share: float, total_bytes: int) -> float:
    """The fraction of a GPU's memory that torch's allocator may use in a process that has a `share` of the GPU.

    UserError where nothing is left of it.
    """
    if share >= 1:
        return 1.0
    fraction = min(share * SHARED_PART, share - CONTEXT_BYTES / total_bytes)
    if fraction <= 0:
        raise UserError(
            f"cluster.gpus_per_worker={share:g} leaves {share * total_bytes / 2**20:.0f} MiB of a GPU of "
            f"{total_bytes / 2**30:.0f} GiB to a trial, of which the CUDA context alone takes about "
            f"{CONTEXT_BYTES / 2**20:.0f}: let fewer trials share a GPU"
        )
    return fraction


def release_cache(device: torch.device) -> None:
    """Return the memory that torch keeps for later to the GPU, for the other trials on it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def begin_peak(device: torch.device) -> None:
    """From now on the peak of a GPU's allocated memory is that of the trial that begins."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
