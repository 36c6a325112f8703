"""Advice joins the epochs of a study with the seconds of an update: what it says is the same in every form, and what it
cannot know it does not say (P32, P34)."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import write_study

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.commands.main import main
from harness.plan.batch import BatchPlan
from harness.plan.timing import work_key
from harness.plan.trial import Topology
from harness.record.files import append_lines, write_json
from harness.record.study import StudyFolder

Study = tuple[Path, Path]


def step_s(workers: int, micro: int, accumulation: int) -> float:
    """5 ms + 50 us an example for a micro-step, 1 ms more for two workers."""
    return (0.005 + 5e-5 * micro) * accumulation + 0.001 * (workers > 1)


def write_step_times(folder: Path, study: StudyFolder, device: str = "fast", **changes: Any) -> Path:
    """A study of step times of the same work as `study`."""
    experiment, _ = reopen(study, trust=True)
    arm = experiment.trials(Records(study))[0].arm
    rows: list[dict[str, Any]] = []
    for workers, micro, accumulation in [(1, 16, 1), (1, 64, 1), (1, 256, 1), (1, 16, 8), (2, 64, 1), (2, 64, 4)]:
        topology = Topology(BatchPlan(workers * micro * accumulation, micro, workers, accumulation))
        work = work_key(arm, topology)
        seconds = step_s(workers, micro, accumulation)
        row = {
            "key": f"{work}/{device}",
            "work": work,
            "topology": topology.key,
            "conditions": device,
            "device": device,
        }
        rows.append({**row, "median_s": seconds, "rounds_s": [seconds] * 3, "evaluation_s": 0.02, **changes})
    folder.mkdir()
    write_json(folder / "study.json", {"experiment": "step_time", "name": folder.name})
    append_lines(folder / "timing.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("advise")
    swept = write_study(root / "swept")
    return swept.path, write_step_times(root / "timed", swept)


def test_advice_is_the_same_printed_in_json_and_in_csv(study: Study, capsys: pytest.CaptureFixture[str]):
    swept, timed = map(str, study)
    assert main(["advise", swept, timed, "--devices", "1,2,4", "--price", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["advise", swept, timed, "--devices", "1,2,4", "--price", "3"]) == 0
    printed = capsys.readouterr().out
    assert all(line in printed for line in found["lines"])
    assert json.loads((study[0] / "advice" / "advice.json").read_text()) == found
    with (study[0] / "advice" / "advice.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["hours"]) for row in rows] == [point["hours"] for point in found["points"]]


@pytest.mark.long
def test_the_report_has_the_same_section(study: Study, capsys: pytest.CaptureFixture[str]):
    swept, timed = map(str, study)
    assert main(["advise", swept, timed, "--devices", "1,2,4", "--price", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    output = str(study[0].parent / "out")
    asked = ["--step-times", timed, "--devices", "1,2,4", "--price", "3", "--output", output]
    assert main(["report", swept, *asked]) == 0
    results = json.loads((Path(output) / "results.json").read_text())
    section = next(s for s in results["sections"] if s["title"] == "Time and cost on N devices")
    assert section["sentences"][:5] == found["lines"]
    assert section["sentences"][-1].startswith("Command: harness +experiment=tbs_sweep")
    assert section["tables"][0]["rows"][0][7] == found["points"][0]["hours"]


def test_hours_are_updates_times_seconds_and_evaluations_and_say_what_they_rest_on(
    study: Study, capsys: pytest.CaptureFixture[str]
):
    main(["advise", *map(str, study), "--devices", "1,2,4", "--price", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [point["hours_are"] for point in found["points"]] == ["interpolated", "measured", "extrapolated"]
    assert found["measured_on"] == "fast"  # not combined with the study's own timing pass
    for point in found["points"][:2]:
        parts = point["devices"], point["micro_batch"], point["accumulation"]
        assert point["step_s"] == pytest.approx(step_s(*parts), rel=0.03)
        passes = point["epochs"] * 2  # every 512 of 1,024 examples
        evaluation = passes * 0.02 * (2 / point["devices"]) ** 0.5
        expected = (point["updates"] * point["step_s"] + evaluation) / 3600
        assert point["hours"] == pytest.approx(expected, rel=0.05)
        assert point["hours_low"] < point["hours"] < point["hours_high"]
        assert point["cost"] == pytest.approx(3 * point["devices"] * point["hours"])
    assert f"cluster.workers_per_trial={found['chosen']}" in found["command"]


def test_a_deadline_takes_the_cheapest_that_meets_it_and_a_budget_the_fastest(
    study: Study, capsys: pytest.CaptureFixture[str]
):
    def ask(*options: str) -> dict[str, Any]:
        assert main(["advise", *map(str, study), "--devices", "1,2", "--price", "3", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    hours = {point["devices"]: point["hours"] for point in ask()["points"]}
    assert hours[2] < hours[1]
    between = f"{1800 * (hours[1] + hours[2])}s"
    assert ask("--deadline", between)["chosen"] == 2
    assert ask("--deadline", "1h")["chosen"] == 1
    assert ask("--max-cost", str(3.01 * hours[1]))["chosen"] == 1


def test_seconds_of_other_work_or_of_two_machines_are_refused(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = StudyFolder(study[0])
    other = write_step_times(tmp_path / "other", folder, work="another/model")
    two = write_step_times(tmp_path / "two", folder, device="a")
    append_lines(two / "timing.jsonl", [{**folder_row, "conditions": "b"} for folder_row in StudyFolder(two).timings()])
    empty = tmp_path / "empty"
    empty.mkdir()
    write_json(empty / "study.json", {"experiment": "step_time", "name": "empty"})
    for timed, message in [(other, "another workload"), (two, "2 conditions (a; b)"), (empty, "has no timings")]:
        assert main(["advise", str(study[0]), str(timed), "--devices", "1"]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert not said.out


def test_a_micro_batch_below_half_of_the_smallest_timed_gets_a_bracket_and_what_to_measure(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    timed = write_step_times(tmp_path / "large", StudyFolder(study[0]))
    kept = [row for row in StudyFolder(timed).timings() if "-b256-" in row["topology"]]
    (timed / "timing.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    assert main(["advise", str(study[0]), str(timed), "--devices", "1,8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["devices"] for point in found["points"]] == [1]
    assert [(b["devices"], b["measure"]) for b in found["brackets"]] == [(8, [16, 64])]
    assert found["brackets"][0]["hours_low"] < found["brackets"][0]["hours_high"]
    assert "micro-batch 16 and 64" in found["lines"][-1]
