"""Where a target is touched, crossed and confirmed: one definition for the trainer and the analysis (P14)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.errors import UserError
from harness.plan.target import Target

metrics = st.lists(st.one_of(st.none(), st.floats(0, 1), st.just(math.nan)), max_size=40)


@given(values=metrics, goal=st.floats(0, 1), confirm=st.integers(1, 4))
def test_the_crossing_is_the_first_of_the_confirming_run(values, goal, confirm):
    target = Target("accuracy", goal, "max", confirm)
    found = target.crossing(values)
    runs = [i for i in range(len(values)) if all(target.reached(v) for v in values[i : i + confirm])]
    first = next((i for i in runs if i + confirm <= len(values)), None)
    assert found.crossed == first
    assert found.confirmed == (None if first is None else first + confirm - 1)
    assert found.first_touch == next((i for i, v in enumerate(values) if target.reached(v)), None)


@given(values=metrics, goal=st.floats(0, 1), easier=st.floats(0, 1))
def test_an_easier_target_is_never_crossed_later(values, goal, easier):
    easy, hard = sorted((goal, easier))
    places = [Target("accuracy", value, "max").crossing(values).crossed for value in (easy, hard)]
    assert places[1] is None or (places[0] is not None and places[0] <= places[1])


@given(values=metrics, extra=metrics, goal=st.floats(0, 1))
def test_what_comes_after_the_confirmation_does_not_move_the_crossing(values, extra, goal):
    target = Target("accuracy", goal, "max")
    place = target.crossing(values)
    if place.confirmed is not None:
        assert target.crossing([*values[: place.confirmed + 1], *extra]) == place


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_missing_metric_meets_no_target(value, mode):
    assert not Target("thing", 0.5, mode).reached(value)


def test_the_goal_itself_counts():
    assert Target("accuracy", 0.97, "max").reached(0.97)
    assert Target("loss", 0.12, "min").reached(0.12)


def test_the_wrong_direction_for_a_known_metric_is_refused():
    with pytest.raises(UserError, match="target metric loss needs mode=min, not mode=max"):
        Target("loss", 0.1, "max")


@pytest.mark.parametrize(("value", "mode", "confirm"), [(math.nan, "max", 2), (0.9, "up", 2), (0.9, "max", 0)])
def test_nonsense_targets_are_refused(value, mode, confirm):
    with pytest.raises(UserError):
        Target("accuracy", value, mode, confirm)


def test_a_target_is_read_from_words():
    assert Target.parse("accuracy>=0.97") == Target("accuracy", 0.97, "max")
    assert Target.parse(" val/loss <= 1e-1") == Target("val/loss", 0.1, "min")
    with pytest.raises(UserError, match=r"a target must be METRIC>=VALUE or METRIC<=VALUE, .*, not 'accuracy'"):
        Target.parse("accuracy")
    with pytest.raises(UserError, match="needs mode=max"):
        Target.parse("accuracy<=0.97")
