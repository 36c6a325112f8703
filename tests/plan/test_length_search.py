"""The search for the shortest sufficient schedule brackets it, looks inside, and replays."""

from hypothesis import given
from hypothesis import strategies as st

from harness.plan.length_search import search_length


def search(needed: int, start: int = 16, points: int = 3):
    return search_length(lambda n: n >= needed, start=start, shortest=2, longest=80, points=points)


@given(st.integers(3, 80), st.integers(1, 100), st.integers(0, 4))
def test_the_bracket_holds_the_length_that_is_needed(needed, start, points):
    found = search(needed, start, points)
    assert found.is_over
    assert found.bracket is not None
    low, high = found.bracket
    assert low < needed <= high <= 2 * max(low, 2)
    assert all(2 <= n <= 80 for n in found.lengths)
    assert len(set(found.lengths)) == len(found.lengths)
    inside = [n for n in found.lengths if low < n < high]
    assert len(inside) <= points
    assert inside or not points or high - low < 3


def test_a_target_out_of_reach_ends_the_search_at_the_longest():
    found = search(1000)
    assert found.bracket is None
    assert found.is_over
    assert max(found.lengths) == 80


def test_a_target_met_by_the_shortest_ends_the_search_there():
    found = search(1)
    assert found.bracket == (0, 2)
    assert found.lengths[-1] == 2


def test_nothing_is_asked_for_before_what_was_asked_is_known():
    known = {16: True}
    first = search_length(lambda n: None, start=16, shortest=2, longest=80, points=3)
    second = search_length(known.get, start=16, shortest=2, longest=80, points=3)
    assert (first.lengths, first.is_over) == ((16,), False)
    assert (second.lengths, second.is_over) == ((16, 8), False)
