"""The step-time model predicts what a known law says, knows what it does not know, and never gives a point below half
of the smallest micro-batch (P32)."""

import math

import numpy as np
import pytest

from harness.statistics.links import Hardware, Link
from harness.statistics.run_time import Overheads, goodput, run_seconds
from harness.statistics.scaling_out import frontier, knee, stops_paying
from harness.statistics.step_model import Kind, StepRow, fit_step_model, ring_share

TIMED = [(1, 16, 1), (1, 64, 1), (1, 256, 1), (1, 64, 8), (8, 64, 1), (16, 64, 2), (32, 64, 1), (32, 256, 1)]


def law(n: int, m: float, s: float) -> float:
    """10 ms + 1 ms an example for a micro-step, 5 ms inside a node and 20 ms across."""
    micro = 0.01 + 0.001 * m
    return micro * (s + 0.01 * math.log2(n)) + 0.005 * ring_share(min(n, 8)) + 0.02 * ring_share(math.ceil(n / 8))


def rows(wrong: dict[int, float] | None = None) -> list[StepRow]:
    factors = wrong or {}
    return [StepRow(*key, law(*key) * factors.get(i, 1.0)) for i, key in enumerate(TIMED)]


@pytest.mark.parametrize("wrong", [{}, {6: 1.4}, {1: 0.7}], ids=["exact", "one too slow", "one too fast"])
def test_a_law_is_found_whatever_one_bad_timing_says(wrong: dict[int, float]):
    model = fit_step_model(rows(wrong))
    for key in [(1, 128, 1), (8, 64, 4), (64, 64, 1), (128, 256, 2)]:
        found = model.predict(*key)
        assert found.seconds == pytest.approx(law(*key), rel=0.05), key
        assert found.low < law(*key) < found.high


def test_what_a_number_rests_on_is_said():
    model = fit_step_model(rows())
    kinds = {key: model.predict(*key).kind for key in [(1, 64, 1), (1, 64, 500), (4, 100, 1), (64, 64, 1), (64, 10, 1)]}
    assert kinds == {
        (1, 64, 1): Kind.MEASURED,
        (1, 64, 500): Kind.MEASURED,  # accumulation at a timed micro-batch is no extrapolation
        (4, 100, 1): Kind.INTERPOLATED,
        (64, 64, 1): Kind.EXTRAPOLATED,
        (64, 10, 1): Kind.EXTRAPOLATED,
    }


@pytest.mark.parametrize("devices", [1, 8, 256])
def test_below_half_of_the_smallest_micro_batch_there_is_no_point_only_a_bracket(devices: int):
    model = fit_step_model(rows())
    assert model.predict(devices, 8).seconds is not None
    found, nearest = model.predict(devices, 7.9), model.predict(devices, 16)
    assert found.kind is Kind.BRACKETED
    assert found.seconds is None
    assert found.low <= nearest.low * 7.9 / 16 * 1.001
    assert found.high >= nearest.high * 0.999
    assert found.low < law(devices, 7.9, 1) < found.high


def test_parameters_that_no_timing_determines_are_named_and_widen_the_interval():
    alone = fit_step_model([row for row in rows() if row.devices == 1])
    assert {"communication inside a node", "across nodes", "growth with devices"} <= set(alone.pinned)
    assert "across nodes" not in fit_step_model(rows()).pinned
    assert alone.predict(32, 64).half_width > 3 * fit_step_model(rows()).predict(32, 64).half_width


def test_the_same_timings_give_the_same_draws():
    first, second = (fit_step_model(rows()).predict(64, 64).draws for _ in range(2))
    assert np.array_equal(first, second)


def test_systems_differ_by_a_random_effect():
    ours = [StepRow(n, 64, s, law(n, 64, s), system="a") for n, s in [(8, 1), (8, 4), (16, 2), (32, 1)]]
    theirs = [StepRow(n, 64, s, 1.04 * law(n, 64, s), system="b") for n, s in [(8, 1), (8, 4)]]
    model = fit_step_model([*ours, *theirs])
    known, stranger = model.predict(32, 64, 1, "b"), model.predict(32, 64, 1, "c")
    assert known.seconds == pytest.approx(1.04 * law(32, 64, 1), rel=0.03)
    assert stranger.half_width > known.half_width


def test_a_table_of_links_makes_the_first_step_across_nodes_assumed():
    alone = [row for row in rows() if row.devices <= 8]
    hardware = Hardware("x", "", 8, Link(4e-5, 4e11), Link(4e-4, 5e10))
    found = fit_step_model(alone, 8, lambda n: hardware.all_reduce_s(n, 4e9)).predict(32, 64)
    assert found.kind is Kind.ASSUMED
    assert found.low < law(32, 64, 1) < found.high


def test_an_all_reduce_of_a_table_is_a_ring_in_a_node_and_a_ring_across():
    hardware = Hardware("x", "", 8, Link(1e-5, 1e11), Link(1e-4, 1e10))
    assert hardware.all_reduce_s(1, 8e9) == 0
    assert hardware.all_reduce_s(8, 8e9) == pytest.approx(1e-5 + 1.75 * 0.08)
    assert hardware.all_reduce_s(16, 8e9) == pytest.approx(1e-5 + 1.75 * 0.08 + 1e-4 + 0.1)
    assert Hardware("x", "", 8, Link(1e-5, 1e11)).all_reduce_s(16, 8e9) == math.inf


def test_more_devices_stop_paying_where_a_doubling_saves_less_than_29_percent():
    devices = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    seconds = np.array([[100 / n + 5 for n in devices]])  # the fall of log time per log n is 0.5 at n = 20
    found = stops_paying(devices, seconds)
    assert found.devices == pytest.approx(20, rel=0.05)
    assert found.low == found.high == found.devices
    assert stops_paying(devices, np.array([[100 / n for n in devices]])).devices == math.inf
    assert stops_paying(devices, np.array([[100.0 for _ in devices]])).devices == 1
    assert math.isnan(stops_paying([8], np.array([[1.0]])).devices)


def test_the_front_keeps_what_nothing_beats_in_both_and_the_knee_is_the_least_product():
    hours, costs = [8.0, 5.0, 5.5, 3.0, math.inf], [8.0, 10.0, 12.0, 24.0, 1.0]
    assert frontier(hours, costs) == [3, 1, 0]
    assert knee(hours, costs) == 1


def test_evaluation_checkpoints_and_failures_are_terms_of_a_run():
    one = np.ones(1)
    overheads = Overheads(evaluation_s=10, evaluation_devices=1, start_up_s=60, checkpoint_s=36)
    assert run_seconds(100 * one, 2 * one, 5 * one, 4, overheads, 0.5 * one)[0] == pytest.approx(225 * 1.01 + 60)
    failing = Overheads(failures_per_device_hour=1e-5, restart_s=600)
    assert goodput(16_384, failing) == pytest.approx(1 - 16_384e-5 * 2400 / 3600)
    assert run_seconds(one, one, one, 10**9, failing, one)[0] == math.inf
