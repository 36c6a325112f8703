"""A driver to be killed: runs made-up trials of a study, tracked offline. Arguments: study folder, seconds a trial."""

import sys
import time
from pathlib import Path

from tracked_studies import attempt, open_study

from harness.plan.tracking import Tracking
from harness.record.tracking.sink import WandbSink

if __name__ == "__main__":
    study, planned = open_study(Path(sys.argv[1]))
    sink = WandbSink.prepare(Tracking("offline"), print)
    sink.open(study.path)
    print("tracked", flush=True)
    for trial in planned:
        attempt(study, trial, sink, stop_after=None if trial is not planned[-1] else 3)
    print("open", flush=True)
    time.sleep(float(sys.argv[2]))
