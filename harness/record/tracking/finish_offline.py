"""Completes a study's offline runs from its journals when its tracking process could not: it runs at normal priority.

Started by the sink after the last trial. The tracking process computes only when no trial wants the processor, which on
a machine that others use may be never. Input and answers are those of the tracking process (process.py).
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.plan.errors import one_line
from harness.record.study import StudyFolder
from harness.record.tracking.process import answer, exit_at_once
from harness.record.tracking.runs import study_label
from harness.record.tracking.settings import environment, import_wandb


def finish(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write the runs that are missing or torn; returns the tracking process's last answer."""
    variables = environment("offline", Path(order["scratch"]), os.environ)
    os.environ.clear()
    os.environ.update(variables)
    import_wandb(Path(order["scratch"]))
    from harness.record.tracking.project import RunDestination, WandbProject
    from harness.record.tracking.upload import rebuild_offline

    folder = StudyFolder(Path(order["study"]))
    destination = RunDestination("offline", order["project"], order["entity"], folder.path)
    project = WandbProject(folder.path, study_label(folder), destination)
    written = rebuild_offline(folder, project)
    return {"mode": "offline", "runs": written.sent + written.there}


if __name__ == "__main__":
    # The driver decides when to give up, so signals to the whole process group are ignored.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    given = json.loads(sys.stdin.readline())
    try:
        answer({"done": finish(given)})
    except Exception as error:
        answer({"lost": one_line(error)})
    exit_at_once(0, Path(given["scratch"]))
