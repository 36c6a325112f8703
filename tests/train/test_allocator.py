"""What a worker does to the memory it trains in."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from harness.train.worker import Worker
if sys.argv[1] == "worker":
    Worker(0, 1, "cpu", 1)
torch.set_num_threads(1)
def update():  # 24 MiB, block by block, as activations come and go
    blocks = [torch.zeros(2**20) for _ in range(6)]
for _ in range(3):  # the allocator settles in the first updates
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# Left to itself, glibc raises its threshold to the blocks it has seen, and whether the heap's end is then returned to
# the kernel depends on where blocks happen to be: with the default threshold fixed, the bare process always faults.
DEFAULTS = {"MALLOC_MMAP_THRESHOLD_": str(128 * 2**10)}


def faults(kind: str) -> int:
    command = [sys.executable, "-c", FAULTS, kind]
    done = subprocess.run(command, env={**os.environ, **DEFAULTS}, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_worker_gets_the_memory_of_one_update_back_for_the_next_without_page_faults():
    assert faults("worker") < faults("bare") / 20
