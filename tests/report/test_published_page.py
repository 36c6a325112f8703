"""python -m harness.published and --overlay: published curves on the harness's own page, the two meanings apart."""

import csv
import json
import re
from pathlib import Path

import pytest
from synthetic_study import findings_of, write_study

from harness.analyse.findings import Findings
from harness.commands.published import main
from harness.commands.report import main as report
from harness.published.findings import published_findings
from harness.published.overlay import overlay_sections
from harness.published.read import read
from harness.published.shipped import SHIPPED
from harness.record.study import StudyFolder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return write_study(tmp_path_factory.mktemp("studies") / "mine")


@pytest.fixture(scope="module")
def findings(study: StudyFolder) -> Findings:
    return findings_of(study)


def test_reference_points_become_a_page_with_their_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["mlperf_resnet", "--train-examples", "1281167", "--out", str(tmp_path)]) == 0
    assert (
        "MLPerf resnet: costs twice the data of TBS 1,632, the cheapest, from about TBS 50,749 on (95 % 49,152–58,880)"
        "; 1.2 times from about TBS 8,169 on (95 % 4,096–13,056). E_min / S_min under MLPerf resnet: 47,016 (41,271 to "
        "54,026, profile likelihood 95 %). A hyperbola describes the sweep (left-out error 4.6 %)."
    ) in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "report.html").read_text()
    assert "Reference points that judge a submission of 5 runs: 1,632, 3,264, 32,768, 49,152, 67,840." in page
    with (tmp_path / "tables" / "mlperf_resnet_costs.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Epochs times the training set over TBS, at the median of 17 runs.
    assert float(rows[0]["updates"]) == pytest.approx(35 * 1281167 / 1632)
    assert json.loads((tmp_path / "results.json").read_text())["sections"][0]["title"] == "MLPerf resnet"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "mlperf_means"])
def test_every_shipped_table_makes_findings_that_name_its_source(name: str):
    found = published_findings([read(name)])
    text = json.dumps(found.to_json())
    assert SHIPPED[name].source in text
    assert found.verdict or found.not_established


HOSTILE = {
    "all missed": "tbs,epochs_to_target,outcome\n16,40,missed\n64,40,missed\n",
    "all diverged": "tbs,epochs_to_target,outcome\n16,,diverged\n64,,diverged\n128,,diverged\n",
    "one size": "tbs,epochs_to_target\n16,3\n16,4\n",
    "one run each": "tbs,epochs_to_target\n16,3\n64,4\n256,6\n",
    "ties": "tbs,seed,epochs_to_target\n16,0,3\n16,1,3\n64,0,3\n64,1,3\n256,0,3\n256,1,3\n",
    "no number": "tbs,epochs_to_target\n16,nan\n64,inf\n256,\n",
    "two meanings": "tbs,epochs,meaning,curve\n16,3,to_target,a\n64,4,to_target,a\n16,9,in_time_budget,b\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_page_comes_out_whatever_the_table_holds(case: str, tmp_path: Path):
    table = tmp_path / "table.csv"
    table.write_text(HOSTILE[case])
    assert main([str(table), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r">\s*(nan|inf|None)\s*<", page)
    if case == "two meanings":
        assert "epochs to the target" in page
        assert "epochs that fit into a fixed time" in page
    else:
        assert "No curve was fitted" in page or "critical batch size" in page.lower()


def test_a_time_budget_is_never_called_a_cost_of_a_target():
    found = published_findings([read("smith2018")])
    (section,) = found.sections
    assert [plot.y_label for plot in section.plots] == ["epochs that fit into a fixed time"]
    assert [table.name for table in section.tables] == ["resnet_56_cifar_10_1cycle_costs"]  # no fit
    assert "says nothing about a target" in found.verdict[0]


def test_published_costs_and_time_budgets_are_laid_over_a_study_apart(findings: Findings):
    curves = [*read("mlperf_resnet").curves, *read("smith2018").curves]
    to_target, in_budget = overlay_sections(findings, curves)
    labels = [{series.label for series in plot.series} for plot in (*to_target.plots, *in_budget.plots)]
    own = {"this study: none", "this study: linear"}
    assert labels == [own | {"MLPerf resnet"}, own | {"MLPerf resnet"}, own | {"ResNet-56, CIFAR-10, 1cycle"}]
    assert [plot.y_label for plot in in_budget.plots] == ["epochs that fit into a fixed time"]
    # The study's own line is what its timing pass says fits, not what its target takes.
    line = next(series for series in in_budget.plots[0].series if series.label == "this study: none")
    budget = next(b for b in findings.fixed_budgets if b.unit == "seconds" and line.y[0] == b.cells[0].epochs)
    assert line.y == [cell.epochs for cell in budget.cells if cell.label == "none"]


def test_the_study_s_own_line_in_an_overlay_is_its_main_table(findings: Findings):
    section = overlay_sections(findings, read("mlperf_resnet").curves)[0]
    epochs = next(plot for plot in section.plots if plot.name == "overlay_epochs")
    line = next(series for series in epochs.series if series.label == "this study: linear")
    assert list(line.y) == [arm.epochs for arm in findings.arms if arm.label == "linear"]


@pytest.mark.long
def test_overlay_writes_the_study_s_report_with_the_published_curves(study: StudyFolder):
    assert report([str(study.path), "--overlay", "mlperf_resnet", "--overlay", "smith2018"]) == 0
    page = (study.path / "report.html").read_text()
    assert "Published costs to a target, compared with this study" in page
    assert "Published epochs in a fixed time, compared with this study" in page


def test_a_study_is_a_source_for_another_study(study: StudyFolder, findings: Findings):
    curves = {curve.label: curve for curve in read(study.path).curves}
    assert set(curves) == {"mine: none", "mine: linear"}
    arm = next(arm for arm in findings.arms if (arm.label, arm.total_batch_size) == ("linear", 128))
    found = next(a for a in curves["mine: linear"].arms if a.total_batch_size == 128)
    assert [run.value for run in found.observations] == arm.epochs_by_seed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv"], "the shipped tables are smith2018"),
        (["smith2018", "--meaning", "both"], "meaning must be"),
        (["smith2018", "--column", "x"], "--column must be ROLE=NAME"),
        (["smith2018", "--column", "x=y"], "ROLE one of"),
        (["smith2018", "--batch-size", "0"], "--batch-size must be >= 1"),
        (["smith2018_log", "--target", "accuracy"], "METRIC>=VALUE"),
        (["mlperf_resnet", "--overhead", "20"], "--overhead must be > 0 and at most 10 (0.2 is 20 %), not 20"),
        (["mlperf_resnet", "--overhead", "0"], "--overhead must be > 0"),
        (["mlperf_resnet", "--overhead", "nan"], "--overhead must be > 0"),
        (["mlperf_resnet", "--overhead", "20%"], "invalid float value: '20%'"),
        (["mlperf_resnet", "--reference-batch-size", "0"], "--reference-batch-size must be >= 1, not 0"),
        (
            ["mlperf_resnet", "--reference-batch-size", "16"],
            "must lie within the arms that reached the target, 1,632 to 67,840, not 16",
        ),
        (["smith2018_log", "--target", "accuracy>=0.9", "--confirm", "0"], "confirm"),
    ],
)
def test_what_cannot_be_read_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_table_without_costs_cannot_be_laid_over(study: StudyFolder, capsys: pytest.CaptureFixture[str]):
    assert report([str(study.path), "--overlay", "goyal2017"]) == 2
    assert "no costs over total batch sizes" in capsys.readouterr().err


def test_without_a_source_the_shipped_tables_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SHIPPED)
