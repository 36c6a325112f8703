"""A study's report uses the base-LR and split checks that lie beside it, and asks for them where there are none."""

import math
import re
from pathlib import Path

import pytest
from synthetic_study import SWEEP, Accuracy, findings_of, write_study

from harness.analyse.findings import Findings
from harness.plan.trial import Trial
from harness.record.study import StudyFolder

RULES = "lr_scaling.rules=[none,linear]"
SENSITIVITY = ["+experiment=base_lr_sensitivity", "question.total_batch_sizes=[128,512]", "seeds=[5,6]", RULES]
SPLITS = [
    "+experiment=split_check",
    "question.total_batch_sizes=[16,512]",
    "question.split_seeds=[0,1]",
    "seeds=[5,6]",
    RULES,
]


def best_at(optimum: float) -> Accuracy:
    """Slower by a tenth for every factor of 2 between the LR and `optimum`, a little different for every seed."""

    def accuracy(trial: Trial, examples: int) -> float:
        arm = trial.arm
        far = abs(math.log2(arm.settings.peak_lr / optimum))
        need = 900 * (1 + arm.total_batch_size / 128) * (1 + 0.1 * far) * (1 + 0.02 * (trial.seed % 5))
        return 1 - 0.9 * math.exp(-examples / need)

    return accuracy


def sweep_beside(
    outputs: Path, optimum: float = 0.16, companion: list[str] | None = None, accuracy: Accuracy | None = None
) -> Findings:
    """Findings of a sweep with one other study in the same outputs."""
    if companion is not None:
        name = companion[0].partition("=")[2]
        write_study(outputs / name / "check", companion, accuracy or best_at(optimum), timed=False)
    return findings_of(write_study(outputs / "tbs_sweep" / "a", SWEEP, best_at(optimum), timed=False))


def asks_for(findings: Findings, experiment: str) -> bool:
    return any(f"+experiment={experiment}" in line for line in findings.caveats)


def test_a_sweep_alone_asks_for_both_checks(tmp_path: Path):
    findings = sweep_beside(tmp_path)
    assert asks_for(findings, "base_lr_sensitivity")
    assert asks_for(findings, "split_check")
    assert not findings.sections


def test_a_ranking_that_holds_at_half_and_twice_the_base_lr_is_said_with_its_numbers(tmp_path: Path):
    findings = sweep_beside(tmp_path, 0.16, SENSITIVITY)
    assert not asks_for(findings, "base_lr_sensitivity")
    line = next(line for line in findings.verdict if "no two rules change places" in line)
    assert "0.04, 0.08, 0.16" in line
    assert "TBS 512" in line
    (section,) = findings.sections
    assert "base_lr_sensitivity/check, 2 seeds" in section.title
    assert "TBS 512: the rules rank none < linear at every base LR (0.04, 0.08, 0.16)." in section.sentences
    rows = [dict(zip(section.tables[0].columns, row, strict=True)) for row in section.tables[0].rows]
    assert {(row["total_batch_size"], row["base_lr"]) for row in rows} == {
        (tbs, lr) for tbs in (128, 512) for lr in (0.04, 0.08, 0.16)
    }
    assert all(row["reached"] == row["n"] == 2 for row in rows)
    ratios = [float(r) for r in re.findall(r"([\d.]+) \([^)]*\) at base LR", section.sentences[-1])]
    # Costs are proportional to 1 + far / 10: none is 2, 1, 0 doublings from the best LR, linear 3, 4, 5.
    assert ratios == pytest.approx([1.2 / 1.3, 1.1 / 1.4, 1.0 / 1.5], abs=0.04)


def test_a_ranking_that_turns_with_the_base_lr_is_not_established(tmp_path: Path):
    findings = sweep_beside(tmp_path, 0.32, SENSITIVITY)
    assert not asks_for(findings, "base_lr_sensitivity")
    assert any("linear and none at TBS 512: they change places" in line for line in findings.not_established)
    assert not any("no two rules change places" in line for line in findings.verdict)


@pytest.mark.parametrize(
    "changed",
    [
        ["workload.target.value=0.9"],
        ["optimizer.momentum=0.8"],
        ["question.factors=[1.0,2.0]"],
        ["workload.base_lr=0.3"],
    ],
    ids=["another target", "another momentum", "no half", "another base LR"],
)
def test_a_check_of_something_else_does_not_count(changed: list[str], tmp_path: Path):
    assert asks_for(sweep_beside(tmp_path, 0.16, [*SENSITIVITY, *changed]), "base_lr_sensitivity")


def test_a_split_check_beside_prints_both_variance_components(tmp_path: Path):
    findings = sweep_beside(tmp_path, 0.16, SPLITS)
    assert asks_for(findings, "base_lr_sensitivity")
    assert not asks_for(findings, "split_check")
    (section,) = findings.sections
    own = findings_of_folder(tmp_path / "split_check" / "check")
    assert section.sentences == own.sections[0].sentences
    assert all("between seeds" in line and "between splits" in line for line in section.sentences)
    assert section.tables == own.sections[0].tables


def test_a_companion_that_cannot_be_read_is_passed_over(tmp_path: Path):
    folder = tmp_path / "base_lr_sensitivity" / "broken"
    folder.mkdir(parents=True)
    (folder / "plan.jsonl").write_text('{"arm": {"of": "another version"}, "seed": 0}\n[1]\n')
    assert asks_for(sweep_beside(tmp_path), "base_lr_sensitivity")


def findings_of_folder(path: Path) -> Findings:
    return findings_of(StudyFolder(path))
