"""python -m harness.report A B: what changed, whether B needs more, and an exit code for convergence regressions."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import SWEEP, learns, write_study

from harness.analyse.results import Records
from harness.analyse.two_studies import changes, compare_studies
from harness.commands.report import main
from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.trial import Trial
from harness.record.study import StudyFolder
from harness.statistics.comparisons import Verdict, p_slower
from harness.statistics.estimates import Observation


def slower(trial: Trial, examples: int) -> float:
    """1.5 times the examples for the same accuracy."""
    return learns(trial, round(examples / 1.5))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return write_study(tmp_path_factory.mktemp("a") / "before")


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    overrides = [*SWEEP, "workload.budget.epochs=60", "workload.clip_norm=1.0"]
    return write_study(tmp_path_factory.mktemp("b") / "after", overrides, slower)


def test_a_slower_study_is_established_with_its_ratio(before: StudyFolder, after: StudyFolder):
    found = compare_studies(Records(before), Records(after), margin=0.05)
    assert found.overall_ratio == pytest.approx(1.5, rel=0.08)
    assert 1.5 in found.overall
    assert "overall" in found.slower
    by_label = {arm.label: arm for arm in found.arms}
    assert by_label["none TBS 512"].epochs.verdict is Verdict.SLOWER
    # The timing pass is the same in both, so that seconds differ as epochs do.
    arm = by_label["none TBS 512"]
    assert arm.seconds_ratio == pytest.approx(arm.epochs.ratio)


def test_runs_that_several_rules_share_count_once(before: StudyFolder, after: StudyFolder):
    labels = [arm.label for arm in compare_studies(Records(before), Records(after)).arms]
    assert [label for label in labels if "TBS 16" in label] == ["none TBS 16"]


def test_the_settings_that_differ_are_listed_and_nothing_else(before: StudyFolder, after: StudyFolder):
    found = compare_studies(Records(before), Records(after))
    assert {change.key: (change.a, change.b) for change in found.changes} == {
        "config.workload.clip_norm": (None, 1.0),
        "config.workload.budget.epochs": (40, 60),
    }


def test_a_study_does_not_differ_from_its_copy(before: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(before.path, tmp_path / before.path.name)
    found = compare_studies(Records(before), Records(StudyFolder(copy)))
    assert (found.overall_ratio, found.changes, found.slower) == (1.0, (), ())
    assert main([str(before.path), str(copy), "--fail-if-slower", "0%"]) == 0
    assert "are the same" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "code"), [("5%", 3), ("0.05", 3), ("100%", 0)])
def test_the_exit_code_says_whether_b_is_slower_by_more_than_the_level(
    before: StudyFolder, after: StudyFolder, level: str, code: int
):
    assert main([str(before.path), str(after.path), "--fail-if-slower", level]) == code


def test_b_is_not_failed_for_being_faster_or_without_a_level(before: StudyFolder, after: StudyFolder):
    assert main([str(after.path), str(before.path), "--fail-if-slower", "5%"]) == 0
    assert main([str(before.path), str(after.path)]) == 0
    assert (after.path / "compared_with" / f"{before.path.parent.name}_before" / "report.html").exists()


def test_seeds_that_no_longer_reach_make_b_slower(before: StudyFolder, tmp_path: Path):
    overrides = [*SWEEP[:2], "seeds=[0,1,2,3,4]", SWEEP[3]]
    a = write_study(tmp_path / "a", overrides)
    b = write_study(tmp_path / "b", overrides, lambda t, e: 0.1 if t.arm.total_batch_size == 512 else learns(t, e))
    found = compare_studies(Records(a), Records(b), margin=0.05)
    missed = next(arm for arm in found.arms if arm.label == "linear TBS 512")
    assert missed.epochs.ratio == math.inf
    assert "linear TBS 512" in found.slower
    assert 1.1 in found.overall  # one ratio for all: the three equal arms hold it down, the two that missed raise it
    assert "overall" not in found.slower


@pytest.mark.parametrize("swapped", [False, True], ids=["cut second", "cut first"])
def test_a_copy_cut_at_two_epochs_is_not_established_to_be_slower(tmp_path: Path, swapped: bool):
    """Its trials stopped before most of the first study's crossed: they are not late, they were not watched."""
    overrides = [*SWEEP[:2], "seeds=[0,1,2,3,4]", SWEEP[3]]
    whole = write_study(tmp_path / "whole", overrides)
    cut = write_study(tmp_path / "cut", [*overrides, "workload.budget.epochs=2"])
    pair = (cut, whole) if swapped else (whole, cut)
    found = compare_studies(Records(pair[0]), Records(pair[1]), margin=0.05)
    assert found.slower == ()
    assert {arm.epochs.verdict for arm in found.arms} <= {Verdict.NOT_ESTABLISHED, Verdict.EQUIVALENT}
    assert main([str(pair[0].path), str(pair[1].path), "--fail-if-slower", "5%"]) == 0


def test_no_arm_is_called_slower_while_its_interval_allows_the_margin(before: StudyFolder, after: StudyFolder):
    for margin in (0.0, 0.3, 0.45):
        found = compare_studies(Records(before), Records(after), margin=margin)
        for arm in found.arms:
            assert arm.label not in found.slower or arm.epochs.interval.low > 1 + margin
        assert "overall" not in found.slower or found.overall.low > 1 + margin


def reached(*places: float) -> list[Observation]:
    return [Observation(Outcome.REACHED, place, place) for place in places]


def test_the_one_sided_test_keeps_its_level_at_the_margin():
    """At exactly the margin a 5 % test fails in 5 % of repetitions, and hardly ever without a change."""
    rng = np.random.default_rng(0)
    fails = {1.05: 0, 1.0: 0}
    for ratio in fails:
        for _ in range(2000):
            a, b = (np.exp(0.05 * rng.standard_normal(5)) for _ in range(2))
            fails[ratio] += p_slower(reached(*a), reached(*(ratio * b)), 0.05) < 0.05
    assert fails[1.05] / 2000 == pytest.approx(0.05, abs=0.015)
    assert fails[1.0] / 2000 < 0.01


def test_changes_are_values_by_dotted_key():
    a = {"config": {"lr": {"rules": ["none"]}, "output_dir": "x"}, "git": {"commit": "1"}, "name": "a"}
    b = {"config": {"lr": {"rules": ["sqrt"]}, "output_dir": "y", "new": 1}, "git": {"commit": "1"}, "name": "b"}
    assert [(c.key, c.a, c.b) for c in changes(a, b)] == [
        ("config.lr.rules", ["none"], ["sqrt"]),
        ("config.new", None, 1),
    ]


def test_studies_that_cannot_be_compared_are_refused(before: StudyFolder, tmp_path: Path):
    other = write_study(tmp_path / "other", [*SWEEP[:1], "question.total_batch_sizes=[64]", *SWEEP[2:]])
    with pytest.raises(UserError, match=r"no arm .* in common"):
        compare_studies(Records(before), Records(other))
    easier = write_study(tmp_path / "easier", [*SWEEP, "workload.target.value=0.9"])
    with pytest.raises(UserError, match="give --target"):
        compare_studies(Records(before), Records(easier))
    empty = write_study(tmp_path / "empty", runs=False)
    with pytest.raises(UserError, match="finished trials in both"):
        compare_studies(Records(before), Records(empty))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail-if-slower", "5%"], "compares two studies"),
        (["B", "--fail-if-slower", "much"], "a share like 5%"),
        (["B", "--fail-if-slower", "1000%"], "a share like 5%"),
        (["nowhere"], "is not a study"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    before: StudyFolder, after: StudyFolder, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    words = [str(after.path) if word == "B" else word for word in arguments]
    assert main([str(before.path), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
