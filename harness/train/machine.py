"""What a rank computes on, and how busy other processes keep its processors."""

import os
import re
import socket
import time
import zlib
from pathlib import Path

import torch

from harness.plan.timing import Machine, hardware
from harness.record.provenance import cpu_model
from harness.train.world import World

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # stolen: by another virtual machine on the same processor
LABEL_BYTES = 256
DRIVER = Path("/proc/driver/nvidia/version")


def machine(device: torch.device) -> Machine:
    """The device's model (of a MIG slice: with its profile), driver and libraries, and this node."""
    node = torch.__version__, len(usable_cpus()), socket.gethostname()
    if device.type != "cuda":
        return Machine(cpu_model(), "", *node)
    return Machine(torch.cuda.get_device_name(device), gpu_driver(), *node, **gpu_libraries())


def gpu_libraries() -> dict[str, str]:
    """Versions of CUDA (or ROCm), cuDNN and NCCL that this torch computes with, by the fields of a Machine; empty where
    it was built without. Needs no GPU."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    cuda = torch.version.cuda or torch.version.hip
    found = {"cuda": cuda, "cudnn": cudnn and cudnn_version(cudnn), "nccl": nccl_version()}
    return {name: version for name, version in found.items() if version}


def cudnn_version(number: int) -> str:
    """`9.10.2` from cuDNN's own 91002; before version 9 it counted in thousands: `8.9.7` from 8907."""
    major = 10_000 if number >= 90_000 else 1_000
    return f"{number // major}.{number % major // 100}.{number % 100}"


def nccl_version() -> str:
    """`2.27.3`; empty where torch was built without NCCL."""
    try:
        return ".".join(str(part) for part in torch.cuda.nccl.version() if str(part))  # pyright: ignore[reportAttributeAccessIssue]
    except (AttributeError, ImportError, RuntimeError):
        return ""


def gang_hardware(world: World) -> str:
    """Model and driver of every rank's device, each once; all ranks must call it together."""
    own = machine(world.device)
    text = hardware(own.device, own.driver).encode()[:LABEL_BYTES]
    padded = torch.tensor([*text, *[0] * (LABEL_BYTES - len(text))], dtype=torch.uint8, device=world.device)
    labels = [bytes(label).rstrip(b"\0").decode(errors="ignore") for label in world.gather(padded).tolist()]
    return " + ".join(sorted(set(labels)))


def gpu_driver(file: Path = DRIVER) -> str:
    """The version of the NVIDIA driver, as its kernel module states it; `unknown driver` where it does not."""
    try:
        version = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)*)\s", file.read_text())
    except OSError:
        version = None
    return version.group(1) if version else "unknown driver"


class MachineLoad:
    """CPU time that processes other than this gang's take, from now on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._began, self._busy, self._own = time.perf_counter(), busy_s(), time.process_time()

    def other_cpus(self) -> float:
        """CPUs that they kept busy on average on the node where they were most; all ranks must call it together.

        Processor time is counted in hundredths of a second, so that a short block says little.
        """
        spent = max(time.perf_counter() - self._began, 1e-9)
        node = zlib.crc32(socket.gethostname().encode())
        mine = [node, (busy_s() - self._busy) / spent, (time.process_time() - self._own) / spent]
        by_rank = self.world.gather(torch.tensor(mine, device=self.world.device, dtype=torch.float64)).tolist()
        others = [busy - sum(own for other, _, own in by_rank if other == node) for node, busy, _ in by_rank]
        return max(0.0, *others)


def busy_s() -> float:
    """Seconds of work so far, by anybody, of the CPUs that this process may use."""
    import psutil  # here, because a trial outside of a sweep runs without it

    usable = usable_cpus()
    per_cpu = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if number in usable]
    return sum(getattr(times, name, 0.0) for times in per_cpu for name in BUSY)


def resident_bytes() -> int:
    """Resident memory of this process; OSError where there is no /proc."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def usable_cpus() -> set[int]:
    """Numbers of the CPUs that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
