"""Drivers that share a study never run one trial twice at a time, and take over what a dead one has left."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.record.claims import Claims
from harness.record.lease import Lease

TAKE = """
import sys
from pathlib import Path
from harness.record.claims import Claims
from harness.record.lease import Lease
study, helper = Path(sys.argv[1]), Path(sys.argv[2])
print(Claims(study, Lease.take(helper)).take("t/w1"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "helpers" / "h").mkdir(parents=True)
    return tmp_path


def test_a_trial_goes_to_one_driver_and_stays_its_own(study):
    leader, helper = Lease.take(study), Lease.take(study / "helpers" / "h")
    try:
        assert Claims(study, leader).take("t/w1")
        assert not Claims(study, helper).take("t/w1")
        assert Claims(study, helper).take("u/w1")
        assert not Claims(study, leader).take("u/w1")
        assert Claims(study, leader).take("t/w1")
    finally:
        leader.release()
        helper.release()


def test_what_a_driver_gave_up_or_died_with_is_free(study):
    with subprocess.Popen(
        [sys.executable, "-c", TAKE, str(study), str(study / "helpers" / "h")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        leader = Lease.take(study)
        try:
            claims = Claims(study, leader)
            assert not claims.take("t/w1")
            other.kill()
            other.wait()
            assert claims.take("t/w1")
        finally:
            leader.release()
    next_one = Lease.take(study)
    try:
        assert Claims(study, next_one).take("t/w1")  # of another attempt: the one before has been released
    finally:
        next_one.release()


def test_a_claim_that_its_taker_has_not_finished_writing_counts(study):
    leader = Lease.take(study)
    try:
        (study / "trials" / "t" / "w1").mkdir(parents=True)
        (study / "trials" / "t" / "w1" / "claim.1.json").touch()
        assert not Claims(study, leader).take("t/w1")
    finally:
        leader.release()
