"""python -m harness.report: a finished study answers another target or budget without a new trial."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import TRAIN_EXAMPLES
from synthetic_study import SWEEP, findings_of, write_study

from harness.analyse.experiment import reopen
from harness.commands.report import asked_target, main
from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.record.study import StudyFolder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return write_study(tmp_path_factory.mktemp("studies") / "study")


def test_an_easier_target_is_answered_as_if_the_trials_had_been_run_for_it(study: StudyFolder, tmp_path: Path):
    reread = findings_of(study, Target("accuracy", 0.9, "max"))
    direct = findings_of(write_study(tmp_path / "direct", [*SWEEP, "workload.target.value=0.9"]))
    assert [arm.place for arm in reread.arms] == [arm.place for arm in direct.arms]
    assert [arm.outcomes for arm in reread.arms] == [arm.outcomes for arm in direct.arms]
    assert reread.verdict == direct.verdict
    assert reread.target == direct.target
    assert any("read for accuracy >= 0.9" in line for line in reread.caveats)


def test_another_metric_of_the_journals_can_be_the_target(study: StudyFolder):
    asked = asked_target(reopen(study)[1].workload, 0.3, "loss")
    assert asked == Target("loss", 0.3, "min")
    # The journals have loss = 3 (1 - accuracy), so that loss 0.3 is accuracy 0.9.
    by_loss, by_accuracy = findings_of(study, asked), findings_of(study, Target("accuracy", 0.9, "max"))
    assert [arm.place for arm in by_loss.arms] == [arm.place for arm in by_accuracy.arms]


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [("perplexity", None, "needs --target"), ("wisdom", 0.5, "no known direction: add --mode max or --mode min")],
)
def test_a_target_on_another_metric_needs_a_value_and_a_direction(
    study: StudyFolder, metric: str, value: float | None, said: str
):
    with pytest.raises(UserError, match=said):
        asked_target(reopen(study)[1].workload, value, metric)
    assert asked_target(reopen(study)[1].workload, 0.5, metric, "min") == Target(metric, 0.5, "min")


def test_a_smaller_budget_turns_late_arrivals_into_misses(study: StudyFolder):
    whole, cut = findings_of(study), findings_of(study, budget_examples=6 * TRAIN_EXAMPLES)
    for there, here in zip(cut.arms, whole.arms, strict=True):
        # Confirmed by two: the evaluation after the crossing, half an epoch later, must lie within the budget.
        assert there.outcomes.reached == sum(e is not None and e + 0.5 <= 6 for e in here.epochs_by_seed)
    assert 0 < cut.outcomes["censored"] < cut.trials


def test_a_harder_target_gets_no_number_and_a_reason(study: StudyFolder):
    reread = findings_of(study, Target("accuracy", 0.999, "max"))
    assert all(arm.outcomes.reached == 0 for arm in reread.arms)
    assert any("count as misses at the place they stopped" in line for line in reread.caveats)


def test_the_answer_lies_beside_the_study_s_own_report(study: StudyFolder):
    assert main([str(study.path), "--target", "0.9", "--budget-epochs", "20"]) == 0
    found = json.loads((study.path / "read_as" / "accuracy-0.9-20-epochs" / "results.json").read_text())
    assert found["target"] == "validation accuracy >= 0.9, confirmed by 2"
    assert not (study.path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metric", "wisdom", "--target", "1"], "is not measured in this study: choose one of accuracy, loss"),
        (["--metric", "f1_macro"], "is not measured in this study: choose one of accuracy, loss"),
        (["--budget-epochs", "41"], "between 0.5 and 40"),
        (["--budget-epochs", "nan"], "between 0.5 and 40"),
        (["--target", "nan"], "finite"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    study: StudyFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    assert main([str(study.path), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 2
    assert "is not a study" in capsys.readouterr().err


def test_reports_need_neither_torch_nor_ray(study: StudyFolder):
    """In a child in which they refuse to be imported."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'ray', 'wandb'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from harness.commands.report import main\n"
        f"sys.exit(main([{str(study.path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(study.path / "report.html") in done.stdout.replace("\n", "")
