"""No memory, on the GPU or on the host, and a rank that keeps the others waiting: each is retried, then named."""

import os

import pytest
from sweeps import SMALL, finish, start, sweep

pytestmark = pytest.mark.long

HUNGRY = '''
import os, signal
from pathlib import Path
import torch
from harness.models.bn_cnn import BnCnn

class Hungry(BnCnn):
    """By its micro-batch: killed once (64), killed every time (128), or refused by the GPU every time (256)."""
    calls = 0
    def forward(self, images):
        Hungry.calls += self.training
        if self.training and len(images) == 64 and Hungry.calls > 8 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does where memory has run out
        if self.training and len(images) == 128:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.training and len(images) == 256:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)
'''

LATE = '''
import time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout
from harness.models.bn_cnn import BnCnn

class Late(BnCnn):
    """The second rank of a gang comes late to one collective, once; the others wait for seconds, not for minutes."""
    calls = 0
    def forward(self, images):
        if dist.is_initialized():  # not in the rehearsal
            _set_pg_timeout(timedelta(seconds=5))
        Late.calls += self.training
        if self.training and Late.calls == 20 and dist.get_rank() == 1 and not Path("late").exists():
            Path("late").touch()
            time.sleep(10_000)
        return super().forward(images)
'''


def test_a_worker_without_memory_is_retried_and_what_never_fits_fails_with_its_cause_alone(tmp_path):
    (tmp_path / "hungry_model.py").write_text(HUNGRY)
    arguments = [*SMALL, "seeds=[0]", "question.total_batch_sizes=[64,128,256]", "lr_scaling=linear"]
    found = sweep(tmp_path, *arguments, "cluster.max_failures=1", "model._target_=hungry_model.Hungry")
    assert found.code == 1, found.out + found.err
    by_batch = {key.split("-")[-3]: record for key, record in found.records().items()}
    assert {batch: record["outcome"] for batch, record in by_batch.items()} == {
        "b64": "reached",
        "b128": "failed",
        "b256": "failed",
    }
    assert by_batch["b64"]["attempt"] == 2
    assert by_batch["b128"]["error"].startswith("a worker process died: out of memory")
    assert by_batch["b256"]["error"] == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert found.out.count("retrying") == 3
    # One line each, not the screenfuls that Ray has to say.
    assert found.err == ""
    assert "raylet" not in found.out


def test_a_worker_that_ray_ends_for_its_memory_fails_with_that_cause(tmp_path):
    env = {**os.environ, "RAY_memory_usage_threshold": "0.01"}  # any machine uses more than that
    arguments = [*SMALL, "seeds=[0]", "question.total_batch_sizes=[128]", "lr_scaling=linear", "cluster.max_failures=1"]
    found = finish(start(tmp_path, *arguments, env=env), tmp_path)
    assert found.code == 1, found.out + found.err
    (record,) = found.records().values()
    assert record["error"].startswith("out of memory: Ray ended a worker because its node had ")


def test_a_collective_that_times_out_costs_the_gang_a_retry(tmp_path):
    (tmp_path / "late_model.py").write_text(LATE)
    arguments = [*SMALL, "seeds=[0]", "question.total_batch_sizes=[128]", "lr_scaling=linear", "cluster=inline"]
    # The target cannot be met: the trial runs its whole budget, long enough to come late in.
    longer = ["workload.target.value=0.9999", "workload.budget={epochs: 4}", "cluster.checkpoint_every_s=0"]
    ranks = ["cluster.workers_per_trial=2", "model._target_=late_model.Late"]
    found = sweep(tmp_path, *arguments, *longer, *ranks)
    assert found.code == 0, found.out + found.err
    (record,) = found.records().values()
    assert (record["attempt"], record["outcome"]) == (2, "censored")
    (retried,) = [line for line in found.out.splitlines() if "retrying" in line]
    assert "timed out" in retried.lower()
