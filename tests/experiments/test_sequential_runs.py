"""Sequential experiments by the command: their plans, tiny runs to the page, racing on digits against the full grid."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands.main import main

TINY = [
    "cluster=inline",
    "tracking=disabled",
    "seeds=[0,1]",
    "question.total_batch_sizes=[256]",
    "question.tuning_seeds=[100,101]",
    "workload.budget={epochs: 4}",
    "workload.target.value=0.6",
    "cluster.timing_min_steps=2",
    "cluster.timing_min_s=0",
]
RUNS = {
    "tuned": (["question.lr_range=[0.16,0.64]", "lr_scaling=sqrt"], "tuned_lr", "Best LR by the median"),
    "weight_decay_search": (["question.rounds=1"], "weight_decay_tbs_256", "ends with the best validation loss"),
    "lr_batch_momentum": (
        ["question.sampler=bayesian", "question.points=3", "question.batch=2"],
        "joint_search",
        "Fewest examples among 3 points",
    ),
    "schedule_length": (
        ["lr_scaling=sqrt", "question.start_epochs=2", "question.points=1"],
        "schedule_length",
        "needs a schedule of",
    ),
}


def run(name: str, *overrides: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["harness", f"+experiment={name}", *overrides])
        patch.setattr(sys, "path", list(sys.path))
        return main()


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{table}.csv").open() as file:
        return list(csv.DictReader(file))


SLOWER = ("weight_decay_search", "lr_batch_momentum", "tuned")  # with the long tests


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in SLOWER else ()) for n in RUNS])
def test_a_tiny_run_ends_with_its_conclusion_on_the_page_and_in_its_table(name, tmp_path, monkeypatch, capsys):
    overrides, table, words = RUNS[name]
    monkeypatch.chdir(tmp_path)
    assert run(name, *TINY, *overrides) == 0, capsys.readouterr().err
    folder = Path("outputs") / name / "default"
    assert rows(folder, table)
    assert words in (folder / "report.html").read_text()
    assert words in (folder / "report.md").read_text()
    assert list((folder / "figures").glob("*.svg"))


@pytest.mark.parametrize("name", RUNS)
def test_a_dry_run_prints_the_first_round_with_its_cost_and_what_may_follow(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(name, *TINY, *RUNS[name][0], "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "cost at most" in said
    (follows,) = [line for line in said.splitlines() if line.startswith("may follow")]
    assert "2 reporting seeds" in follows
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RUNS)
def test_a_nonsense_parameter_is_one_line_and_exit_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(name, *TINY, "question.tuning_seeds=[0]") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: question.tuning_seeds and seeds share 0")
    assert said.count("\n") == 1


RACE = [
    "+experiment=tuned",
    "tracking=disabled",
    "seeds=[0]",
    "question.total_batch_sizes=[256]",
    "question.lr_range=[0.08,0.64]",
    "workload.target.value=0.93",
    "workload.budget={epochs: 12}",
    "lr_scaling=sqrt",
    "cluster.precision=float64",  # in which two workers have the medians of one
    "cluster.timing_min_steps=2",
    "cluster.timing_min_s=0",
]


def by_command(folder: Path, *overrides: str) -> Path:
    """In a process of its own: Ray joins a process to one cluster for good."""
    command = [sys.executable, "-m", "harness", *RACE, *overrides, f"output_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "tuned" / "default"


@pytest.fixture(scope="module")
def full_grid(tmp_path_factory):
    return by_command(tmp_path_factory.mktemp("full"), "cluster=inline", "question.racing=false")


@pytest.mark.long
@pytest.mark.parametrize("cluster", [["cluster.cpus=2"], ["cluster=inline", "cluster.workers_per_trial=2"]])
def test_a_race_on_digits_has_the_winners_and_medians_of_the_full_grid(full_grid, tmp_path, cluster):
    raced = by_command(tmp_path, *cluster)  # two trials at a time through Ray; one on a gang
    keys = ("total_batch_size", "best_lr", "epochs", "tied_low", "tied_high", "at_edge", "lrs")
    (winner,), (expected,) = rows(raced, "tuned_lr"), rows(full_grid, "tuned_lr")
    assert [winner[key] for key in keys] == [expected[key] for key in keys]
    medians = {row["lr"]: row["epochs"] for row in rows(full_grid, "tuned_lr_candidates")}
    raced_medians = {row["lr"]: row["epochs"] for row in rows(raced, "tuned_lr_candidates")}
    assert raced_medians.keys() == medians.keys()
    known = {lr: epochs for lr, epochs in raced_medians.items() if epochs}
    assert known.items() <= medians.items()
    assert len(known) < len(medians)
    assert int(winner["examples"]) < int(expected["examples"])
