"""A trial is given up once its journal has stood still for longer than a worker that hangs would live, not before."""

from harness.launch.stall_watch import StallWatch
from harness.record.journal import Attempt
from harness.train.trainer import Execution


def test_a_journal_that_stands_still_gives_its_trial_up_and_one_that_grows_does_not(tmp_path):
    now = [1000.0]
    watch = StallWatch(tmp_path, Execution(hang_s=100.0, checkpoint_every_s=50.0), lambda: now[0])
    assert watch.limit_s == 200.0
    for key in ("silent", "talks", "ended"):
        watch.begin(key)
    watch.end("ended")
    talks = Attempt.claim(tmp_path / "trials" / "talks")
    for second in range(0, 199, 11):
        now[0] = 1000.0 + second
        talks.write({"kind": "checkpoint", "step": second})
        assert watch.stalled() == []
    for now[0] in (1211.0, 1222.0):
        assert watch.stalled() == ["silent"]
    watch.begin("silent")  # it is retried
    now[0] = 1390.0
    assert watch.stalled() == []
    now[0] = 1401.0
    assert watch.stalled() == ["talks"]
    Attempt.claim(tmp_path / "trials" / "talks").close()  # another attempt has begun
    now[0] = 1412.0
    assert watch.stalled() == []
    talks.close()


def test_without_hang_s_nobody_is_given_up(tmp_path):
    now = [0.0]
    watch = StallWatch(tmp_path, Execution(hang_s=0.0), lambda: now[0])
    watch.begin("silent")
    now[0] = 1e9
    assert watch.stalled() == []
