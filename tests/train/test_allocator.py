"""What a worker does to the memory it trains in."""

import os
import subprocess
import sys

import pytest

from harness.plan.errors import UserError
from harness.train.allocator import CONTEXT_BYTES, allocator_fraction

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


@pytest.mark.parametrize(
    ("share", "gib", "fraction"), [(1.0, 80, 1.0), (0.25, 80, 0.225), (0.25, 8, 0.25 - 0.6 / 8.192)]
)
def test_trials_that_share_a_gpu_leave_room_for_each_others_contexts(share, gib, fraction):
    assert allocator_fraction(share, gib * 2**30) == pytest.approx(fraction, abs=1e-3)
    contexts = CONTEXT_BYTES / (gib * 2**30)
    assert share == 1 or round(1 / share) * (allocator_fraction(share, gib * 2**30) + contexts) <= 1 + 1e-9


def test_a_share_that_a_context_fills_is_refused():
    with pytest.raises(UserError, match="leaves 512 MiB of a GPU of 8 GiB"):
        allocator_fraction(1 / 16, 8 * 2**30)
