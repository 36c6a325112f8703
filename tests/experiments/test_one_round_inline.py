"""Experiments of one round, run tiny by the command without Ray: page and tables carry what they conclude."""

import csv
import sys
from pathlib import Path

import pytest

from harness.__main__ import main

TINY = [
    "cluster=inline",
    "tracking=disabled",
    "seeds=[0,1]",
    "workload.budget={epochs: 2}",
    "cluster.timing_min_steps=2",
    "cluster.timing_min_s=0",
]
SIZES = "question.total_batch_sizes=[128,256]"
RUNS = {
    "lr_range_test": ([SIZES, "question.updates=10", "question.evaluations=10"], "lr_range", "stops falling"),
    "fixed_budget": ([SIZES, "question.epochs_at_smallest=1", "lr_scaling=linear"], "equal_seconds", "Equal seconds"),
    "one_cycle": (["question.total_batch_sizes=[128]"], "choices_after_budget", "After the whole budget"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_run_ends_with_its_conclusion_on_the_page_and_in_its_table(name, tmp_path, monkeypatch, capsys):
    overrides, table, words = RUNS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["harness", f"+experiment={name}", *TINY, *overrides])
    assert main() == 0, capsys.readouterr().err
    folder = Path("outputs") / name / "default"
    rows = list(csv.DictReader((folder / "tables" / f"{table}.csv").open()))
    assert {row["total_batch_size"] for row in rows} <= {"128", "256"}
    assert all(int(row["n"]) == 2 for row in rows)
    assert words in (folder / "report.html").read_text()
    assert words in (folder / "report.md").read_text()
    assert (folder / "figures" / f"{table}.svg").is_file()
