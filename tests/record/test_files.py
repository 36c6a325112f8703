"""P23: files that are whole or absent, and appended lines that tolerate a torn end."""

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.record.files import (
    append_checked,
    append_lines,
    json_line,
    plain,
    read_json,
    read_lines,
    read_rows,
    write_json,
    write_whole,
)

TEXTS = st.text(max_size=8)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=10,
)
KEYS = TEXTS.filter(lambda key: key != "crc32")  # a checksum: hypothesis tries strings that it finds in the code
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=6)


@given(VALUES)
def test_a_value_survives_json_with_null_for_what_is_no_number(value):
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == json.loads(
        json.dumps(value), parse_constant=lambda name: None
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null_wherever_it_is(value, tmp_path):
    write_json(tmp_path / "a.json", {"a": [value, (1.0, value)], "b": {"c": value}})
    assert read_json(tmp_path / "a.json") == {"a": [None, [1.0, None]], "b": {"c": None}}


@settings(max_examples=30)
@given(rows=ROWS)
def test_lines_are_read_back_as_they_were_appended(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    half = len(rows) // 2
    append_lines(path, rows[:half])
    append_lines(path, rows[half:])
    assert list(read_lines(path)) == [plain(row) for row in rows]


@settings(max_examples=30)
@given(rows=ROWS, cut=st.integers(1, 60))
def test_a_torn_end_costs_the_last_lines_it_tore_and_no_other(tmp_path_factory, rows, cut):
    path = tmp_path_factory.mktemp("torn") / "a.jsonl"
    append_lines(path, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    left = path.read_bytes().count(b"\n")
    assert list(read_lines(path)) == [plain(row) for row in rows[:left]]


@settings(max_examples=30)
@given(rows=ROWS.filter(bool), cut=st.integers(1, 60))
def test_what_is_appended_behind_a_torn_end_is_read(tmp_path_factory, rows, cut):
    path = tmp_path_factory.mktemp("behind") / "a.jsonl"
    append_lines(path, rows)
    path.write_bytes(path.read_bytes()[:-cut])
    left = path.read_bytes().count(b"\n")
    append_lines(path, [{"after": 1}])
    found = list(read_lines(path))
    assert found[:left] == [plain(row) for row in rows[:left]]
    assert found[-1] == {"after": 1}


def test_lines_that_do_not_parse_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"b":\n\xff\xfe\n[3]\n{"c":3}\n{"d":4}')
    assert list(read_lines(path)) == [{"a": 1}, {"c": 3}]


def test_absent_files_hold_nothing(tmp_path):
    assert read_json(tmp_path / "none.json") is None
    assert list(read_lines(tmp_path / "none.jsonl")) == []


def test_a_line_holds_no_line_break():
    assert json_line({"text": "a\nb"}).count("\n") == 1


def test_a_file_is_replaced_whole_and_leaves_no_litter(tmp_path):
    write_whole(tmp_path / "a.txt", "old")
    write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_json_that_is_not_whole_counts_as_absent(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1')
    assert read_json(tmp_path / "a.json") is None


def test_lines_of_an_older_version_keep_counting_where_checked_ones_follow(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"a": 1}])
    append_checked(path, {"a": 2})
    append_lines(path, [{"a": 3}])  # nobody writes one without a checksum any more
    assert read_rows(path) == [{"a": 1}, {"a": 2}, None]
