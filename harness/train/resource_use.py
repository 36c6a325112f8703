"""What rank 0 uses of its machine while a trial trains: its processors, its memory and its GPU.

Read once per evaluation, outside the timed updates. What a GPU does is sampled by a thread, as the driver of a GPU
reports a moment only; a number that a machine does not give is left out.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch

from harness.train.machine import resident_bytes

SAMPLE_S = 1.0  # at least the period over which an NVIDIA driver averages (1/6 to 1 s)

Readings = Mapping[str, Callable[[], float]]


class ResourceUse:
    """Of this process and its device, from now until `close`."""

    def __init__(self, device: torch.device) -> None:
        self._began, self._cpu_s = time.perf_counter(), time.process_time()
        self._sampler = Sampler(gpu_readings(device)) if device.type == "cuda" else None

    def read(self) -> dict[str, float]:
        """Means since the last call: CPUs that this process kept busy, and the GPU's use; and memory now."""
        began, cpu_s = self._began, self._cpu_s
        self._began, self._cpu_s = time.perf_counter(), time.process_time()
        use = {"process_cpus": (self._cpu_s - cpu_s) / max(self._began - began, 1e-9)}
        with suppress(OSError):  # only Linux has /proc
            use["process_rss_bytes"] = resident_bytes()
        return use | (self._sampler.means() if self._sampler is not None else {})

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()


def gpu_readings(device: torch.device) -> Readings:
    """From NVIDIA's management library, which needs the package nvidia-ml-py; none of it touches the CUDA context.

    Of a MIG slice its memory alone: the library gives utilization and power of the whole GPU, which is others' too.
    """
    uuid = slice_uuid(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if uuid is not None:
        return {"gpu_memory_used_bytes": lambda: _slice_memory_used(uuid)}
    if torch.cuda.is_available() and " MIG " in torch.cuda.get_device_name(device):
        return {}  # a slice that CUDA chose itself
    index = torch.cuda.current_device() if device.index is None else device.index  # another thread has its own current
    return {
        "gpu_utilization_percent": lambda: torch.cuda.utilization(index),
        "gpu_power_w": lambda: torch.cuda.power_draw(index) / 1e3,
        "gpu_memory_used_bytes": lambda: torch.cuda.device_memory_used(index),  # by every process
    }


def slice_uuid(visible: str | None) -> str | None:
    """The MIG slice that a process with this CUDA_VISIBLE_DEVICES computes on, which is the first; None without one."""
    first = (visible or "").split(",")[0].strip()
    return first if first.startswith("MIG-") else None


def _slice_memory_used(uuid: str) -> float:
    import pynvml  # of nvidia-ml-py

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid)).used)


class Sampler:
    """Takes readings every `every_s` seconds in a thread; one that fails is not taken again."""

    def __init__(self, readings: Readings, every_s: float = SAMPLE_S) -> None:
        self._readings = dict(readings)
        self._every_s = every_s
        self._lock = threading.Lock()
        self._samples: list[dict[str, float]] = []
        self._read = 0  # how many of the samples `means` has returned
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="resource-use", daemon=True)
        self._thread.start()

    def means(self) -> dict[str, float]:
        """Of the samples since the last call, or the newest one if there is none since."""
        with self._lock:
            new = self._samples[self._read :] or self._samples[-1:]
            self._samples = self._samples[-1:]
            self._read = len(self._samples)
        names = new[-1] if new else ()
        return {name: sum(sample[name] for sample in new) / len(new) for name in names}

    def close(self) -> None:
        """End the thread; waits for a reading that is being taken, but not for a driver that hangs."""
        self._closed.set()
        self._thread.join(self._every_s)

    def _sample(self) -> None:
        while True:
            sample = {}
            for name, reading in list(self._readings.items()):
                try:
                    sample[name] = float(reading())
                except Exception:  # from a driver's library: not installed, not supported by this GPU, not permitted
                    del self._readings[name]
            with self._lock:
                self._samples.append(sample)
            if not self._readings or self._closed.wait(self._every_s):
                return
