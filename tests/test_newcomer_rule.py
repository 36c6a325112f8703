"""A newcomer adds an LR rule from outside the package, in two files, and every page of every study knows it.

The rule is the cube root of k. It is not among the rules that the harness has, so that a list of rules, exponents or
columns which is not derived from the study's own rules says something false here or fails.
"""

import csv
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.plan.trial import Trial

sys.path.insert(0, str(Path(__file__).parent / "experiments"))
from simulated import Simulation, new_study  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.long  # whole sweeps by the command; fast tests cover the parts

MODULE = """
from harness.plan.scaling import Rule

cube_root = Rule("cube_root", lambda k: k ** (1 / 3), 1 / 3, "a notebook <of mine>")


def broken(k: float) -> float:
    return 1 / (k - k)


"""
CHOICE = "rules: [none, newcomers_rules.cube_root]\n"
RULES = "lr_scaling.rules=[none,newcomers_rules.cube_root]"
PAGES = ("report.html", "report.md", "results.csv", "terminal")
TINY = ["question.total_batch_sizes=[16,128]", "seeds=[0,1]", "workload.target.value=0.9", "cluster.timing_min_s=0"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The newcomer's folder: one module, one configuration file."""
    root = tmp_path_factory.mktemp("newcomer")
    (root / "newcomers_rules.py").write_text(MODULE)
    (root / "myconf" / "lr_scaling").mkdir(parents=True)
    (root / "myconf" / "lr_scaling" / "cube_root.yaml").write_text(CHOICE)
    return root


def harness(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The installed command, run from the newcomer's folder."""
    command = [str(Path(sys.executable).with_name("harness")), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=200)


class Text(HTMLParser):
    """The words of a page, without its style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.skips = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.skips += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.skips -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self.skips:
            self.words.append(data)


def pages(study: Path, terminal: str) -> dict[str, str]:
    """What a person reads of a study, each page as text."""
    html = " ".join("".join(Text((study / "report.html").read_text()).words).split())
    rest = {name: (study / name).read_text() for name in ("report.md", "results.csv")}
    return {"report.html": html, **rest, "terminal": " ".join(terminal.split())}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sweep(project) -> tuple[Path, dict[str, str]]:
    """A sweep under the newcomer's rule, run to its end."""
    run = ["--config-dir", "myconf", "+experiment=tbs_sweep", "lr_scaling=cube_root", "cluster=inline"]
    done = harness(project, *run, *TINY, "tracking=disabled")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    study = project / "outputs" / "tbs_sweep" / "default"
    return study, pages(study, done.stdout)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_a_sweep_names_the_rule(sweep, page):
    assert "cube_root" in sweep[1][page]


def test_the_rule_gives_the_lr_of_its_arms(sweep):
    lrs = {
        (row["scaling_rule"], row["total_batch_size"]): float(row["peak_lr"]) for row in rows(sweep[0] / "results.csv")
    }
    assert list(lrs) == [("none", "16"), ("cube_root", "16"), ("none", "128"), ("cube_root", "128")]
    assert lrs["cube_root", "128"] == pytest.approx(0.08 * 2)


def test_the_page_says_where_the_rule_comes_from_and_draws_it_between_its_neighbours(sweep):
    page = sweep[1]["report.html"]
    assert "cube_root (a notebook <of mine>)" in page
    assert "what the rules give from the base point (none, cube_root, sqrt, linear)" in page
    assert ">none, cube_root, sqrt, linear<" in (sweep[0] / "figures" / "lr_map.svg").read_text()


def test_the_rules_are_compared_by_name(sweep):
    for page in ("report.html", "report.md", "terminal"):
        assert "at TBS 128" in sweep[1][page]
    assert "cube_root / none" in sweep[1]["report.html"]


def learns(trial: Trial, examples: int) -> float:
    """Fastest at LR 0.08 x (TBS / 16)^(1/3), and slow enough to tell LRs apart."""
    tbs, lr = trial.arm.total_batch_size, trial.arm.settings.peak_lr
    off = math.log2(lr / (0.08 * (tbs / 16) ** (1 / 3)))
    return 1 - 0.9 * math.exp(-examples / (3000 * (1 + off**2) * (1 + 0.01 * (trial.seed % 5))))


@pytest.fixture(scope="module")
def tuned(project) -> tuple[Path, dict[str, str]]:
    """A tuned sweep whose best LR grows as the cube root of TBS: simulated journals, a real report."""
    path = project / "outputs" / "tuned" / "default"
    question = ["question.total_batch_sizes=[16,32,64,128,256,512]", "question.tuning_seeds=[100]", "seeds=[0,1]"]
    sys.path.insert(0, str(project))
    try:
        study = new_study(path, "+experiment=tuned", *question, RULES, "workload.budget={epochs: 20}")
        Simulation(study, learns).run()
    finally:
        sys.path.remove(str(project))
    done = harness(project, "report", str(path), "--trust")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return path, pages(path, done.stdout)


@pytest.mark.parametrize("page", ["report.html", "report.md", "terminal"])
def test_every_page_attributes_a_growth_as_the_cube_root_to_that_rule(tuned, page):
    sentences = re.findall(r"Best LR grows as [^)]*\)[^.]*\.", tuned[1][page])
    assert len(set(sentences)) == 1, sentences
    assert "rules: none 0, sqrt 0.5, linear 1, cube_root 0.333)" in sentences[0]
    assert sentences[0].endswith("which is compatible with the rule cube_root.")


def test_the_tables_of_a_tuned_sweep_have_the_rule(tuned):
    study, said = tuned
    assert "| exponent | low | high | points | none | sqrt | linear | cube_root |" in said["report.md"]
    (row,) = rows(study / "tables" / "tuned_lr_exponent.csv")
    assert list(row) == ["exponent", "low", "high", "points", "none", "sqrt", "linear", "cube_root"]
    assert float(row["low"]) <= 1 / 3 == float(row["cube_root"]) <= float(row["high"])
    assert {line["scaling_rule"] for line in rows(study / "tables" / "regret.csv")} == {"none", "cube_root"}
    assert {line["scaling_rule"] for line in rows(study / "results.csv")} == {"tuned", "none", "cube_root"}


def test_a_rule_needs_no_configuration_file_and_the_plan_prints_its_source(project):
    planned = harness(project, "+experiment=tbs_sweep", "lr_scaling.rules=[newcomers_rules.cube_root]", "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "LR rules      cube_root (a notebook <of mine>)" in planned.stdout


def test_a_rule_that_fails_is_one_line_before_the_first_trial(project):
    refused = harness(project, "+experiment=tbs_sweep", "lr_scaling.rules=[none,newcomers_rules.broken]", *TINY)
    assert (refused.returncode, refused.stdout) == (2, "")
    where = "newcomers_rules.py, line 8: ZeroDivisionError: "
    assert refused.stderr.startswith(f"error: LR rule newcomers_rules.broken fails at k = 1: {where}")
    assert refused.stderr.count("\n") == 1
