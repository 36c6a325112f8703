"""P25: tracked offline, a sweep tries no connection at all, whichever of its processes or languages would."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A network namespace of its own has no way out, and the kernel counts there what anybody tried.
ALONE = ["unshare", "--map-root-user", "--net"]
TINY = ["cluster=inline", "question.total_batch_sizes=[512]", "seeds=[0]", "workload.budget={epochs: 2}"]
COUNTERS = {"Ip": "OutNoRoutes", "Tcp": "ActiveOpens", "Udp": "OutDatagrams"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0,
        reason="this machine gives no network namespace",
    ),
]


def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: str) -> int:
    """Connections and datagrams, to this machine or beyond, that one sweep's processes tried."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    sweep = [sys.executable, "-m", "harness", "+experiment=tbs_sweep", *TINY]
    script = '"$@" >&2 && cat /proc/net/snmp && awk \'{ print "Six: " $1; print "Six: " $2 }\' /proc/net/snmp6'
    command = [*ALONE, "sh", "-c", script, "sh", *sweep, f"output_dir={tmp_path}", "study=s", f"tracking={tracking}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    counts = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        counts.update({f"{names[0]}{name}": int(value) for name, value in zip(names[1:], values[1:], strict=True)})
    return sum(counts[f"{protocol}:{name}"] for protocol, name in COUNTERS.items()) + counts["Six:Ip6OutNoRoutes"]


def test_offline_tries_no_connection_and_still_keeps_every_run(tmp_path, monkeypatch):
    assert attempts(tmp_path, monkeypatch, "offline") == 0
    assert list(tmp_path.glob("tbs_sweep/s/wandb/offline-run-*"))


def test_the_counters_see_a_sweep_that_asks_a_server(tmp_path, monkeypatch):
    assert attempts(tmp_path, monkeypatch, "auto") > 0
