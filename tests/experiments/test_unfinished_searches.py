"""A search that is not over can be reported at any moment, and says so."""

import math

import pytest
from simulated import Simulation, new_study

from harness.analyse.results import Records
from harness.plan.trial import Trial

SEARCHES = {
    "tuned": ["question.lr_range=[0.08,0.32]", "lr_scaling=sqrt"],
    "weight_decay_search": ["question.rounds=1"],
    "lr_batch_momentum": ["question.points=4", "question.sampler=bayesian", "question.batch=2"],
    "schedule_length": ["lr_scaling=sqrt"],
}
COMMON = ["question.total_batch_sizes=[16]", "question.tuning_seeds=[100,101]", "seeds=[0,1]"]


def learns(trial: Trial, examples: int) -> float:
    return 1 - 0.9 * math.exp(-examples / (800 + 50 * (trial.seed % 2)))


@pytest.mark.parametrize("name", SEARCHES)
def test_every_moment_has_a_report(name, tmp_path):
    run = Simulation(new_study(tmp_path / "s", f"+experiment={name}", *COMMON, *SEARCHES[name]), learns)
    said = []
    for ended in (0, 1, 4, 4):
        run.run(most=ended)
        run.planned()
        found = run.experiment.conclude(Records(run.study))
        said.append(" ".join(line for section in found.sections for line in section.sentences))
    assert "not finished" in said[0]
    run.run()
    found = run.experiment.conclude(Records(run.study))
    assert "not finished" not in " ".join(line for section in found.sections for line in section.sentences)
