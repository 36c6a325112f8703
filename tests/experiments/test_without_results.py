"""Every experiment of one round has a page before its first trial has ended, and where every trial diverged."""

import math
from pathlib import Path

import pytest
from simulated import Simulation, new_study

from harness.analyse.results import Records
from harness.plan.outcome import Outcome
from harness.record.files import write_json
from harness.report.page import draw_all, page_html

SMALL = ["seeds=[0]", "question.total_batch_sizes=[256,512]", "workload.budget={epochs: 4}"]
NAMES = (
    "lr_range_test",
    "momentum_range_test",
    "momentum_search",
    "lr_grid",
    "fixed_budget",
    "one_cycle",
    "ema",
    "base_lr_sensitivity",
    "split_check",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_comes_out_before_any_trial_has_ended(name: str, tmp_path: Path):
    run = Simulation(new_study(tmp_path / "s", f"+experiment={name}", *SMALL), lambda trial, examples: math.nan)
    run.planned()
    found = run.experiment.conclude(Records(run.study))
    assert found.verdict
    assert found.sections[0].title in page_html(found, draw_all(found))


@pytest.mark.parametrize("name", ["lr_range_test", "one_cycle", "ema", "split_check"])
def test_a_page_comes_out_where_every_trial_diverged(name: str, tmp_path: Path):
    run = Simulation(new_study(tmp_path / "s", f"+experiment={name}", *SMALL), lambda trial, examples: math.nan)
    run.run()
    for path in run.study.path.glob("trials/*/*/record.json"):
        write_json(path, {"outcome": str(Outcome.DIVERGED), "test": {}, "attempt": 1})
    found = run.experiment.conclude(Records(run.study))
    assert found.outcomes["diverged"] == found.trials > 0
    assert found.verdict
    assert "nan" not in " ".join(line for section in found.sections for line in section.sentences)
    assert found.sections[0].title in page_html(found, draw_all(found))
