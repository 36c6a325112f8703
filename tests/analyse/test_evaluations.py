"""Journal rows kept by columns are the same rows."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analyse.crossing import locate
from harness.analyse.evaluations import Evaluations, column
from harness.plan.target import Target

leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3))
names = st.sampled_from(["step", "loss", "raw", "clock"])
value = st.recursive(
    leaf, lambda inner: st.one_of(st.dictionaries(names, inner, max_size=3), st.lists(inner, max_size=2)), max_leaves=6
)
rows = st.lists(st.dictionaries(names, value, max_size=4), max_size=6)


@given(rows)
def test_rows_come_back_as_they_were_written(given_rows):
    kept = Evaluations(given_rows)
    assert list(kept) == given_rows
    assert json.dumps(list(kept), sort_keys=True) == json.dumps(given_rows, sort_keys=True)  # 1 is not 1.0 or True
    assert len(kept) == len(given_rows)
    assert kept[1:] == given_rows[1:]


@given(rows)
def test_a_column_is_what_the_rows_hold_there(given_rows):
    for path in (("step",), ("raw", "loss"), ("raw", "loss", "step"), ("nothing",)):
        expected = [None if isinstance(part, dict) and part else part for part in column(given_rows, *path)]
        found = [None if isinstance(part, dict) and part else part for part in column(Evaluations(given_rows), *path)]
        assert found == expected  # a dictionary is not a leaf


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=8), st.sampled_from(["max", "min"]), st.integers(1, 3))
def test_a_crossing_read_from_a_journal_is_the_one_the_trainer_stops_by(metrics, mode, confirm):
    target = Target("score", 0.5, mode, confirm)
    journal = [{"examples": 10 * i, "validation": {"raw": {"score": m}}} for i, m in enumerate(metrics, 1)]
    place = target.crossing(metrics)
    for evaluations in (journal, Evaluations(journal)):
        found = locate(evaluations, target, "raw")
        assert (found.row, found.first_touch) == (
            place.crossed,
            None if place.first_touch is None else 10 * (place.first_touch + 1),
        )


def test_rows_are_found_from_either_end():
    kept = Evaluations([{"step": 1}, {"step": 2, "raw": {"loss": 0.5}}])
    assert kept[-1] == {"step": 2, "raw": {"loss": 0.5}}
    assert kept[0] == {"step": 1}
    assert kept.column("raw", "loss") == [None, 0.5]
    with pytest.raises(IndexError):
        kept[2]


def test_numbers_take_eight_bytes_each():
    kept = Evaluations([{"validation": {"raw": {"loss": float(i)}}, "step": i} for i in range(1000)])
    assert sum(sys.getsizeof(values) for values in kept._columns.values()) < 1000 * 2 * 9
