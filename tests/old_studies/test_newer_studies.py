"""What a newer version wrote is rejected by every command in one line that names it, or changes nothing.

A newer version is imitated by planting in a study what this version does not know. The policy is docs/compatibility.md.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from own_command import own_command

from harness.commands.main import main
from harness.record.files import read_json, read_lines, write_json
from harness.record.journal import read_trial

UNKNOWN = {"foo": 1}
# Dotted place in a line of plan.jsonl -> what the message calls it.
PLAN_PLACES = {
    "": "plan.jsonl",
    "arm": "arm",
    "arm.settings": "settings",
    "arm.settings.target": "target",
    "arm.settings.batch_norm": "batch_norm",
    "arm.settings.averaging": "averaging",
    "arm.settings.noise_scale": "noise_scale",
    "arm.settings.start": "start",
    "topology": "topology",
    "topology.batch": "batch",
}
CONFIG_PLACES = (
    "",
    "workload",
    "workload.target",
    "workload.read_beside",
    "workload.batch_norm",
    "workload.averaging",
    "workload.noise_scale",
    "lr_scaling",
    "lr_scaling.co_scaling",
    "parameter_groups",
    "cluster",
    "tracking",
)


@pytest.fixture
def study(outputs) -> Path:
    """A finished study of 18 trials, to work on."""
    return outputs / "one_cycle/default"


def at(value: dict[str, Any], place: str) -> dict[str, Any]:
    for key in place.split(".") if place else ():
        value = value[key]
    return value


def change_lines(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    lines = list(read_lines(path))
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_file(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = read_json(path)
    change(value)
    write_json(path, value)


def plant(row: dict[str, Any], place: str) -> None:
    """A field that this version does not know."""
    if place.endswith("start"):
        settings = at(row, place.removesuffix(".start"))
        settings["start"] = {"settings": dict(settings), "examples": 512}
    at(row, place).update(UNKNOWN)


def refusal(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> str:
    """What the command says in its one line."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return error


def every_command(study: Path) -> list[list[str]]:
    track = ["track", str(study), "--mode", "offline"]
    copy = study.parent.parent / "copies" / study.name
    shutil.copytree(study, copy, dirs_exist_ok=True)
    return [
        ["report", str(study)],
        ["report", str(study), str(copy)],
        ["status", str(study)],
        track,
        own_command(study),
    ]


# -- plan.jsonl -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLAN_PLACES)
def test_a_field_of_the_plan_that_is_not_known_is_named(study, capsys, place):
    change_lines(study / "plan.jsonl", lambda row: plant(row, place))
    named = f"it has 'foo' in its {PLAN_PLACES[place]}, which this version does not know"
    for words in (["report", str(study)], ["status", str(study)]):
        error = refusal(capsys, words)
        assert f"study default was written by a newer version of harness ({named}): use the version that" in error


def test_every_command_names_it(study, capsys):
    change_lines(study / "plan.jsonl", lambda row: plant(row, "arm.settings"))
    change_file(study / "study.json", lambda value: value["versions"].update(harness="99.1.0"))
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    for words in every_command(study):
        assert refusal(capsys, words).endswith(
            "study default was written by a newer version of harness (it has 'foo' in its settings, which this "
            "version does not know): use harness >= 99.1.0\n"
        )
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.pop("arm"), "a line has no 'arm'"),
        (lambda row: row["arm"]["settings"].pop("dataset"), "a line has no 'dataset'"),
        (lambda row: row["topology"].update(precision="fp8"), "precision must be one of "),
        (lambda row: row["arm"].update(settings=None), "TypeError"),
    ],
)
def test_a_line_of_the_plan_that_cannot_be_read_is_one_line(study, capsys, change, reason):
    change_lines(study / "plan.jsonl", change)
    for words in (["report", str(study)], ["status", str(study)]):
        error = refusal(capsys, words)
        assert "plan.jsonl of study default cannot be read by this version of harness (" in error
        assert reason in error
        assert "use the version that wrote it (commit ffbf2abd460c)" in error


# -- study.json -------------------------------------------------------------------------------------------------------


def test_a_study_of_a_higher_schema_is_rejected_by_every_command(study, capsys):
    change_file(study / "study.json", lambda value: value.update(schema=2))
    for words in every_command(study):
        assert (
            "study default was written by a newer version of harness (its study.json has schema 2, and this version "
            "reads up to 1): use the version that wrote it (commit ffbf2abd460c)"
        ) in refusal(capsys, words)


@pytest.mark.parametrize("place", CONFIG_PLACES)
def test_a_key_of_the_configuration_that_is_not_known_is_named(study, capsys, place):
    change_file(study / "study.json", lambda value: at(value["config"], place).update(UNKNOWN))
    named = f"it has '{f'{place}.' if place else ''}foo' in its configuration, which this version does not know"
    error = refusal(capsys, ["report", str(study)])
    assert f"study default was written by a newer version of harness ({named}): use the version that" in error


def test_track_and_a_comparison_name_it_too(study, capsys):
    change_file(study / "study.json", lambda value: value["config"]["tracking"].update(UNKNOWN))
    _, comparison, _, track, _ = every_command(study)
    for words in (comparison, track):
        assert "it has 'tracking.foo' in its configuration, which this version does not know" in refusal(capsys, words)


def test_an_argument_of_the_question_that_is_not_known_is_named(study, capsys):
    change_file(study / "study.json", lambda value: value["config"]["question"].update(UNKNOWN))
    error = refusal(capsys, ["report", str(study)])
    assert "study default, written by harness 0.1.0, cannot be read here: unknown key 'question.foo'" in error


def test_an_older_configuration_takes_the_defaults_of_what_is_younger(study, capsys):
    assert main(["report", str(study)]) == 0
    before = (study / "results.csv").read_bytes()

    def older(value: dict[str, Any]) -> None:
        for key in ("noise_scale", "clip_norm", "read_beside"):
            value["config"]["workload"].pop(key)
        value["config"].pop("parameter_groups")
        value["config"]["cluster"].pop("share_study")

    change_file(study / "study.json", older)
    assert main(["report", str(study)]) == 0
    with_read_beside = before.split(b"\n")[0]
    assert (study / "results.csv").read_bytes().split(b"\n")[0] == with_read_beside


# -- trials -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [p.removeprefix("arm.") for p in PLAN_PLACES if p != "arm"])
def test_a_field_of_a_trial_that_is_not_known_is_named_by_train(study, capsys, place):
    path = min(study.glob("trials/*/*/trial.json"))
    change_file(path, lambda value: plant(value, place))
    name = place.rpartition(".")[2] or "file"
    error = refusal(capsys, ["train", str(path)])
    assert f"{path} was written by a newer version of harness (it has 'foo' in its {name}, which this" in error


def test_a_trial_of_a_higher_schema_is_rejected_by_train(study, capsys):
    path = min(study.glob("trials/*/*/trial.json"))
    change_file(path, lambda value: value.update(schema=2))
    assert "its file has schema 2, and this version reads up to 1" in refusal(capsys, ["train", str(path)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "paused"}, "its outcome is 'paused', which this version does not know"),
        ({"schema": 2}, "its events.1.jsonl has schema 2, and this version reads up to 1"),
    ],
)
def test_a_journal_in_another_form_is_rejected_by_every_command(study, capsys, change, reason):
    path = min(study.glob("trials/*/*/record.json"))  # a newer version writes it into both accounts
    change_file(path, lambda value: value.update(change))
    change_lines(path.with_name("events.1.jsonl"), lambda value: value.update(change))
    trial = f"trial {path.parent.parent.name}/{path.parent.name}"
    for words in every_command(study):
        assert f"{trial} was written by a newer version of harness ({reason})" in refusal(capsys, words)


@pytest.mark.parametrize("change", [{"schema": 2}, {"outcome": "paused"}])
def test_another_form_in_the_record_alone_is_damage(study, change):
    path = min(study.glob("trials/*/*/record.json"))
    change_file(path, lambda value: value.update(change))
    assert read_trial(path.parent).damage == "record.json has another schema or outcome than the journal"


def test_timings_in_another_form_are_rejected(study, capsys):
    change_lines(study / "timing.jsonl", lambda row: row.pop("median_s"))
    error = refusal(capsys, ["report", str(study)])
    assert "timing.jsonl of study default cannot be read by this version of harness (a line has no 'median_s')" in error


# -- what is only more ------------------------------------------------------------------------------------------------


def test_what_is_only_measured_or_noted_besides_changes_nothing(study):
    assert main(["report", str(study)]) == 0
    before = {name: (study / name).read_bytes() for name in ("results.csv", "results.json")}
    change_file(study / "study.json", lambda value: value.update(UNKNOWN))
    change_lines(study / "timing.jsonl", lambda row: row.update(UNKNOWN))
    for path in study.glob("trials/*/*/record.json"):
        change_file(path, lambda value: value["clock"].update(UNKNOWN))
    for path in study.glob("trials/*/*/events.1.jsonl"):
        change_lines(path, lambda row: row.update(UNKNOWN))
        with path.open("a") as file:
            file.write('{"kind": "a_kind_of_row_that_is_new", "step": 1}\n')
    assert main(["status", str(study)]) == 0
    assert main(["report", str(study)]) == 0
    assert {name: (study / name).read_bytes() for name in before}["results.csv"] == before["results.csv"]
