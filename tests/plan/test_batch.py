"""total = per device x workers x accumulation steps, exactly, or a refusal that names the nearest valid values."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.batch import BatchPlan, Placement, divisors, plan_batch
from harness.plan.errors import UserError

sizes = st.integers(1, 4096)


@given(groups=st.integers(1, 64), span=st.integers(1, 32), workers=st.integers(1, 8), cap=st.integers(1, 2048))
def test_every_plan_satisfies_the_equation_and_keeps_groups_whole(groups, span, workers, cap):
    total = groups * span * workers
    if cap < span:
        with pytest.raises(UserError, match="below the batch-norm span"):
            plan_batch(total, workers, max_per_device=cap, span_examples=span)
        return
    plan = plan_batch(total, workers, max_per_device=cap, span_examples=span)
    assert plan.per_device_batch_size * plan.world_size * plan.gradient_accumulation_steps == total
    assert plan.per_device_batch_size % span == 0
    assert plan.per_device_batch_size <= cap


@given(total=sizes, workers=st.integers(1, 8), span=st.integers(1, 32))
def test_an_unreachable_total_is_refused_and_the_values_it_names_are_valid(total, workers, span):
    if total % (workers * span) == 0:
        assert plan_batch(total, workers, span_examples=span).gradient_accumulation_steps == 1
        return
    with pytest.raises(UserError, match="the nearest valid values are") as refusal:
        plan_batch(total, workers, span_examples=span)
    below, above = map(int, re.findall(r"values are (\d+) and (\d+)", str(refusal.value))[0])
    assert below != above
    for valid in (below, above):
        plan_batch(valid, workers, span_examples=span)


def test_the_largest_micro_batch_under_the_cap_is_taken():
    assert plan_batch(512, 2, max_per_device=100, span_examples=16) == BatchPlan(512, 64, 2, 4)
    assert Placement(2, 100).plan(512, 16) == BatchPlan(512, 64, 2, 4)


def test_a_plan_that_does_not_multiply_out_cannot_be_made():
    with pytest.raises(UserError, match="512 is not 64 per device x 2 workers x 2 accumulation steps = 256"):
        BatchPlan(512, 64, 2, 2)


def test_the_plan_prints_as_an_equation():
    assert str(BatchPlan(512, 64, 2, 4)) == "512 = 64 per device x 2 workers x 4 accumulation steps"


@given(n=sizes)
def test_divisors_are_all_of_them_in_order(n):
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


@given(pieces=st.integers(1, 64), micro=st.integers(1, 64), bound=st.none() | st.integers(1, 64))
def test_workers_by_batch_give_each_a_whole_micro_batch_and_stay_below_their_bound(pieces, micro, bound):
    plan = Placement(None, micro, bound).plan(pieces * micro, 1)
    assert plan.per_device_batch_size == micro
    assert plan.world_size * plan.gradient_accumulation_steps == pieces
    assert plan.world_size == pieces if bound is None else plan.world_size <= bound


def test_a_batch_below_one_micro_batch_has_one_worker_and_a_torn_one_is_refused():
    assert Placement(None, 64).plan(16, 1) == BatchPlan(16, 16, 1, 1)
    with pytest.raises(UserError, match="the nearest valid values are 64 and 128"):
        Placement(None, 64).plan(96, 1)
