"""A worker that makes no progress ends itself and says where it hung, the driver ends one that cannot: both go on."""

import signal
import time

import psutil
import pytest
from sweeps import SMALL, finish, inline, start, worker_pids

pytestmark = pytest.mark.long

ONE_TRIAL = [
    *SMALL,
    "seeds=[0]",
    "question.total_batch_sizes=[128]",
    "lr_scaling=linear",
    # The target cannot be met: the trial runs its whole budget, long enough to be hit.
    "workload.target.value=0.9999",
    "workload.budget={epochs: 10}",
    "cluster.checkpoint_every_s=0",
    "cluster.hang_s=15",  # a loaded machine takes some seconds to warm up
]

HANGS = '''
import time
from pathlib import Path
from harness.models.bn_cnn import BnCnn

class Hangs(BnCnn):
    """Its 20th training pass never returns, the first time."""
    calls = 0
    def forward(self, images):
        Hangs.calls += self.training
        if self.training and Hangs.calls == 20 and not Path("hung").exists():
            Path("hung").touch()
            time.sleep(10_000)
        return super().forward(images)
'''


def test_a_stopped_rank_is_killed_with_its_gang_by_the_ranks_that_wait_for_it(tmp_path):
    arguments = [*ONE_TRIAL, "cluster.workers_per_trial=2"]
    calm = inline(tmp_path, *arguments, study="calm")
    process = start(tmp_path, *arguments, "cluster=inline", study="hit")
    deadline = time.monotonic() + 120
    while not any('"evaluation"' in path.read_text() for path in tmp_path.glob("*/hit/trials/*/*/events.1.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (server,) = [child for child in psutil.Process(process.pid).children() if "forkserver" in " ".join(child.cmdline())]
    ranks = server.children()
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGSTOP)
    hit = finish(process, tmp_path, study="hit")
    assert hit.code == 0, hit.out + hit.err
    assert {record["attempt"] for record in hit.records().values()} == {2}
    assert hit.science() == calm.science()
    assert "Timeout (0:00:15)!" in next(hit.folder.glob("trials/*/*/log.txt")).read_text()
    assert not [rank for rank in ranks if rank.is_running()]


def test_a_trial_alone_in_its_process_is_retried_when_it_hangs_and_when_it_is_stopped(tmp_path):
    (tmp_path / "hanging_model.py").write_text(HANGS)
    process = start(tmp_path, *ONE_TRIAL, "cluster.hang_s=10", "model._target_=hanging_model.Hangs")
    deadline = time.monotonic() + 150
    while not any('"evaluation"' in path.read_text() for path in tmp_path.glob("*/s/trials/*/*/events.2.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (alone,) = (psutil.Process(pid) for pid in worker_pids(process.pid, "TrialTrainable"))
    alone.send_signal(signal.SIGSTOP)
    found = finish(process, tmp_path)
    assert found.code == 0, found.out + found.err
    assert {record["attempt"] for record in found.records().values()} == {3}
    assert found.out.count("retrying") == 2
    assert "no progress for 15 s (cluster.hang_s)" in found.out
    assert not alone.is_running()
    log = next(found.folder.glob("trials/*/*/log.txt")).read_text()
    assert "Timeout (0:00:10)!" in log
    assert "hanging_model.py" in log
