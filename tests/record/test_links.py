"""P29: what was planted in a study is never written through: links and second names lead out of it."""

import os
from pathlib import Path

import pytest
from synthetic_study import SWEEP, write_study

from harness.commands.main import main
from harness.launch.gang import send_output_to
from harness.plan.errors import UserError
from harness.record.drain_flag import DrainFlag, is_draining
from harness.record.files import append_lines, make_folder, open_in_place, read_lines, write_whole
from harness.record.limit import read_limit, write_limit
from harness.record.study import Study
from harness.train.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint

SMALL = [SWEEP[0], "question.total_batch_sizes=[16]", "seeds=[0]", "lr_scaling.rules=[none]"]
DESCRIPTION = {"experiment": "e", "name": "s", "code_fingerprint": "c", "data_fingerprint": "d"}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing below may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", SMALL).path


def is_untouched(outside: Path) -> bool:
    return [(path.name, path.read_text()) for path in outside.iterdir()] == [("mine", "mine")]


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["link", "second name"])
def test_a_whole_file_takes_the_place_of_a_link(plant, tmp_path, outside):
    plant(outside / "mine", tmp_path / "results.csv")
    plant(outside / "mine", tmp_path / f".results.csv.{os.getpid()}.tmp")
    write_whole(tmp_path / "results.csv", "ours")
    assert (tmp_path / "results.csv").read_text() == "ours"
    assert not (tmp_path / "results.csv").is_symlink()
    assert is_untouched(outside)


def test_a_checkpoint_takes_the_place_of_a_link_and_none_is_removed_through_one(tmp_path, outside):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("8.pt", f".8.pt.{os.getpid()}.tmp"):
        (folder / name).symlink_to(outside / "mine")
    save_checkpoint(folder, 8, {"step": 8})
    assert load_checkpoint(folder) == (8, {"step": 8})
    (tmp_path / "linked").symlink_to(outside)
    remove_checkpoints(tmp_path / "linked")
    assert is_untouched(outside)


def test_what_is_written_in_place_is_refused_at_a_link(tmp_path, outside):
    for name in ("plan.jsonl", "limit", "drain", "log.txt"):
        (tmp_path / name).symlink_to(outside / "mine")
    for write in (
        lambda: append_lines(tmp_path / "plan.jsonl", [{"a": 1}]),
        lambda: write_limit(tmp_path, 8.0),
        lambda: DrainFlag(tmp_path / "drain", 1),
        lambda: send_output_to(tmp_path / "log.txt"),
    ):
        with pytest.raises(UserError, match="is a link, and a study's files are written in their own place: remove it"):
            write()
    assert is_untouched(outside)


def test_what_is_written_in_place_leaves_a_second_name_behind(tmp_path, outside):
    (outside / "mine").write_text('{"a":1}\n')
    for name in ("plan.jsonl", "limit", "drain"):
        os.link(outside / "mine", tmp_path / name)
    append_lines(tmp_path / "plan.jsonl", [{"b": 2}])
    assert list(read_lines(tmp_path / "plan.jsonl")) == [{"a": 1}, {"b": 2}]
    write_limit(tmp_path, 8.0)
    assert read_limit(tmp_path / "limit") == 8.0
    flag = DrainFlag(tmp_path / "drain", 3)
    flag.raise_()
    flag.close()
    assert is_draining(tmp_path / "drain", 3)
    assert (outside / "mine").read_text() == '{"a":1}\n'


def test_a_file_written_in_place_stays_the_same_file(tmp_path):
    """Readers on other nodes keep it open (record.drain_flag)."""
    for _ in range(2):
        os.close(open_in_place(tmp_path / "drain"))
    first = (tmp_path / "drain").stat().st_ino
    os.close(open_in_place(tmp_path / "drain"))
    assert (tmp_path / "drain").stat().st_ino == first


@pytest.mark.parametrize("name", ["figures", "tables", "read_as", "trials", "wandb", "leases", "report.html", "a/b/c"])
def test_a_study_with_a_link_out_of_it_is_refused_by_every_command(name, study, outside, capsys):
    path = study / name
    if path.is_dir():
        path.rename(study / "elsewhere")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)
    for command in (
        ["report"],
        ["report", "--target", "0.5"],
        ["status"],
        ["track", "--mode", "offline"],
        ["published"],
    ):
        assert main([command[0], str(study), *command[1:]]) == 2
        err = capsys.readouterr().err
        assert f"error: {name} in {study} is a link that leads out of the study, and such links are not followed" in err
    assert is_untouched(outside)


def test_a_sweep_does_not_open_a_study_with_a_link_out_of_it(tmp_path, outside):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / f".writable.{os.getpid()}").symlink_to(outside / "mine")
    with pytest.raises(UserError, match="leads out of the study"):
        Study.open(folder, DESCRIPTION)
    assert is_untouched(outside)


def test_a_study_behind_a_link_and_links_inside_a_study_are_in_order(study, tmp_path, capsys):
    (study / "wandb").mkdir()
    (study / "wandb" / "run").mkdir()
    (study / "wandb" / "run" / "debug-core.log").symlink_to(tmp_path / "a log of wandb")
    (study / "wandb" / "latest-run").symlink_to("run")  # as wandb makes it
    (study / "wandb" / "gone").symlink_to("a-run-that-is-gone")
    (tmp_path / "disk").symlink_to(tmp_path)
    assert main(["status", str(tmp_path / "disk" / "study")]) == 0
    (study / "trials" / "inside").symlink_to("../wandb/run")
    assert main(["status", str(study)]) == 0


def test_a_folder_is_not_made_behind_a_link(tmp_path, outside):
    (tmp_path / "figures").symlink_to(outside)
    with pytest.raises(UserError, match="is a link: remove it"):
        make_folder(tmp_path / "figures")
    (tmp_path / "tables").write_text("")
    with pytest.raises(UserError, match="is not a directory: remove it"):
        make_folder(tmp_path / "tables")
    assert make_folder(tmp_path / "new").is_dir()
