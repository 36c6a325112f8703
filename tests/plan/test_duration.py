"""Durations in any unit become the same updates (P4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.duration import Duration, is_duration, to_steps
from harness.plan.errors import UserError


@given(epochs=st.integers(1, 100), train=st.integers(1, 10_000), tbs=st.integers(1, 1024))
def test_epochs_and_the_examples_they_are_give_the_same_updates(epochs, train, tbs):
    by_epochs = to_steps(Duration(epochs, "epochs"), total_batch_size=tbs, train_examples=train)
    by_examples = to_steps(Duration(epochs * train, "examples"), total_batch_size=tbs, train_examples=train)
    assert by_epochs == by_examples
    assert (by_epochs - 1) * tbs < epochs * train <= by_epochs * tbs


@given(share=st.floats(0, 1), horizon=st.integers(1, 100_000))
def test_a_fraction_refers_to_the_horizon(share, horizon):
    steps = to_steps(Duration(share, "fraction"), total_batch_size=1, train_examples=1, horizon_steps=horizon)
    assert share * horizon <= steps + 1e-6
    assert steps < share * horizon + 1


def test_a_fraction_of_nothing_is_refused():
    with pytest.raises(UserError, match="needs a schedule with a horizon"):
        to_steps(Duration(0.5, "fraction"), total_batch_size=1, train_examples=1)


@pytest.mark.parametrize("value", [{}, {"epochs": 1, "steps": 2}, {"epochs": None}])
def test_exactly_one_unit_must_be_given(value):
    with pytest.raises(UserError, match="exactly one unit"):
        Duration.parse(value)


@pytest.mark.parametrize(("amount", "unit"), [(-1, "epochs"), (float("nan"), "steps"), (2, "fraction"), (1, "hours")])
def test_nonsense_durations_are_refused(amount, unit):
    with pytest.raises(UserError):
        Duration(amount, unit)


def test_units_that_were_replaced_by_null_do_not_count():
    assert Duration.parse({"epochs": None, "examples": 1024}) == Duration(1024, "examples")
    assert is_duration({"epochs": None, "examples": 1024})
    assert not is_duration({"epochs": 1, "gamma": 2})
    assert not is_duration({})
