"""Experiments of one round, run tiny by the command without Ray: page and tables carry what they conclude."""

import csv
import sys
from pathlib import Path

import pytest

from harness.commands.main import main

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/experiment").glob("*.yaml"))
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


def test_a_nonsense_parameter_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["harness", "+experiment=lr_range_test", *TINY, "question.lr_range=[1.0,0.1]"])
    assert main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: question.lr_range must be [low, high] with 0 < low < high, not [1.0, 0.1]\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bn_span", "bn_statistics"])
def test_a_question_about_batch_norm_is_refused_for_a_model_without(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["harness", f"+experiment={name}", *TINY, "workload=digits_bn_cnn", "model=mlp"])
    assert main() == 2
    said = capsys.readouterr().err
    assert "harness.models.mlp.MLP has no batch norm" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_arms_and_cost_of_what_will_be_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["+experiment=one_cycle", *TINY, "question.total_batch_sizes=[128]", "dry_run=true"]
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    assert main() == 0
    said = capsys.readouterr().out
    for choice in ("fixed", "one_cycle", "constant_momentum"):
        assert f"linear choice={choice}" in said
    assert "none: to the end of 2 epochs" in said
    assert "6 distinct of 6 planned" in said
    assert "cost at most  12,288 training examples (12 epochs)\n" in said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_what_scales_with_the_batch_beside_the_lr(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sizes = "question.total_batch_sizes=[512]"
    monkeypatch.setattr(sys, "argv", ["harness", "+experiment=weight_decay_timescale", sizes, "dry_run=true"])
    assert main() == 0
    said = capsys.readouterr().out
    rows = {line.split("choice=")[1].split()[0]: line.split() for line in said.splitlines() if "choice=" in line}
    place = rows["fixed"].index("0.005")
    assert {name: row[place] for name, row in rows.items()} == {
        "fixed": "0.005", "timescale": "0.02828", "no_decay": "0"
    }  # fmt: skip  # 0.005 x sqrt(32)
    assert "optimizer     SGD, momentum 0.9, nesterov False\n" in said


MEASURED = {"doctor": "10 probes of 4 updates", "step_time": "11 splits of digits_bn_cnn, each timed 1 s"}


@pytest.mark.long
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_names_its_cost_before_it_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["harness", f"+experiment={name}", "cluster=inline", "dry_run=true"])
    assert main() == 0
    said = capsys.readouterr().out
    assert MEASURED.get(name, "cost at most ") in said
    assert "…" not in said  # no name or number is cut
    assert not list(tmp_path.iterdir())
