"""The GPUs of this machine as NVIDIA's own tool lists them, without torch and without a CUDA context.

They are there whether or not this process may use them: torch tells what it can use, this module what that is.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"  # begins the UUID of a MIG slice, of which a process sees one at most (NVIDIA's MIG guide, "CUDA Device
# Enumeration")
LIST_S = 20.0  # nvidia-smi takes a second on an idle machine whose driver has to start

# "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-...)", and below it, indented, a line for each of its slices:
# "  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-...)".
GPU_LINE = re.compile(r"GPU (\d+): (.+) \(UUID: (\S+)\)\s*$")
SLICE_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)\s*$")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one, whose name is that of the GPU with `MIG` and the slice's profile."""

    index: int  # of the GPU
    name: str
    uuid: str
    is_slice: bool = False


def parse_gpus(text: str) -> list[Gpu]:
    """The output of `nvidia-smi -L`; a GPU that is divided into slices is replaced by them."""
    gpus: list[Gpu] = []
    whole: Gpu | None = None
    for line in text.splitlines():
        if found := GPU_LINE.match(line):
            whole = Gpu(int(found[1]), found[2], found[3])
            gpus.append(whole)
        elif whole is not None and (found := SLICE_LINE.match(line)):
            if gpus[-1] is whole:
                gpus.pop()
            gpus.append(Gpu(whole.index, f"{whole.name} MIG {found[1]}", found[2], is_slice=True))
    return gpus


def listed_gpus() -> list[Gpu]:
    """The GPUs of this machine; none where it has no NVIDIA driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=LIST_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(done.stdout) if done.returncode == 0 else []


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Those of a machine's GPUs and slices that CUDA_VISIBLE_DEVICES names, in its order (None: not set, so all).

    Numbers are those of nvidia-smi. CUDA counts alike where all GPUs are of one model or CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if visible is None:
        return [*gpus]
    chosen: list[Gpu] = []
    for name in map(str.strip, visible.split(",")):
        named = [gpu for gpu in gpus if _is_named(gpu, name)]
        if not named:
            break  # CUDA ignores what follows an invalid name
        chosen.append(named[0])
    return chosen


def _is_named(gpu: Gpu, name: str) -> bool:
    return gpu.index == int(name) if name.isdigit() else bool(name) and gpu.uuid.startswith(name)


def visible_slices() -> int:
    """How many MIG slices CUDA_VISIBLE_DEVICES names: so many workers can each have one."""
    return sum(name.strip().startswith(MIG) for name in os.environ.get(VISIBLE, "").split(","))


def counted_names(names: Sequence[str]) -> str:
    """`8 x NVIDIA H100 80GB HBM3`, of several kinds joined by a comma."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
