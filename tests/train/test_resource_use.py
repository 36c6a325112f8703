"""What a trial used of its machine is journalled, and nothing about it can stop a trial."""

import threading
import time
from itertools import count

import psutil
import pytest
import torch
from small_trials import run, task

from harness.train.machine import cudnn_version
from harness.train.resource_use import ResourceUse, Sampler, gpu_readings, slice_uuid
from harness.train.worker import Worker

CPU = torch.device("cpu")


def test_every_evaluation_says_what_the_process_used_and_no_thread_is_left(tmp_path):
    before = threading.active_count()
    rows = [row for row in run(Worker(0, 1, "cpu", 1), task(tmp_path)) if row["kind"] == "evaluation"]
    for row in rows:
        assert row["machine"].keys() == {"process_cpus", "process_rss_bytes"}
        assert row["machine"]["process_rss_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)
    assert threading.active_count() == before


def test_processor_time_is_that_since_the_last_reading():
    use = ResourceUse(CPU)
    time.sleep(0.2)
    idle = use.read()["process_cpus"]
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    busy = use.read()["process_cpus"]
    assert 0 <= idle < 0.5 * busy


def test_samples_are_averaged_between_readings_and_a_reading_that_fails_is_left_out():
    numbers = count(1)

    def unsupported() -> float:
        raise RuntimeError("Not Supported")

    sampler = Sampler({"power": lambda: float(next(numbers)), "use": unsupported}, every_s=0.01)
    while (taken := next(numbers)) < 10:  # takes numbers as well
        time.sleep(0.01)
    mean = sampler.means()
    assert mean.keys() == {"power"}
    assert 1 < mean["power"] < taken + 1
    sampler.close()
    newest = sampler.means()
    assert newest == sampler.means()
    assert newest["power"] > mean["power"]


def test_a_machine_without_a_gpu_or_its_library_gives_no_number_and_no_error():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    sampler = Sampler(gpu_readings(torch.device("cuda", 0)), every_s=0.01)
    sampler._thread.join(10.0)  # nothing is left to read
    assert not sampler._thread.is_alive()
    assert sampler.means() == {}


def test_a_mig_slice_is_known_by_its_uuid():
    assert slice_uuid("MIG-aa,MIG-bb") == "MIG-aa"
    assert [slice_uuid(visible) for visible in (None, "", "0,1", "GPU-aa")] == [None] * 4


def test_versions_of_libraries_are_spelled_as_their_makers_do():
    assert [cudnn_version(number) for number in (8907, 90100, 91002)] == ["8.9.7", "9.1.0", "9.10.2"]
