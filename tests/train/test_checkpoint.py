"""P9, the file: whole or absent, plain data, the newest two kept, a damaged one passed over."""

import os
import random

import pytest
import torch

from harness.train.checkpoint import checkpoint_steps, load_checkpoint, remove_checkpoints, save_checkpoint


def state(step: int) -> dict:
    return {"weights": torch.full((50,), float(step)), "progress": {"step": step, "metrics": [0.5, None]}}


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", 3, state(3))
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert loaded[0] == 3
    assert torch.equal(loaded[1]["weights"], state(3)["weights"])
    assert loaded[1]["progress"] == state(3)["progress"]


def test_there_is_nothing_to_load_where_nothing_was_saved(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint") is None
    remove_checkpoints(tmp_path / "checkpoint")


def test_the_newest_two_are_kept_in_order_of_their_steps(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, step, state(step))
    assert checkpoint_steps(tmp_path) == [10, 100]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", ["torn", "empty", "noise", "other bits"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    save_checkpoint(tmp_path, 1, state(1))
    save_checkpoint(tmp_path, 2, state(2))
    whole, rng = (tmp_path / "2.pt").read_bytes(), random.Random(0)
    for _ in range(50):
        spoilt = {
            "torn": whole[: rng.randrange(len(whole))],
            "empty": b"",
            "noise": rng.randbytes(rng.randrange(1, 300)),
            "other bits": b"PK" + rng.randbytes(2) + whole[4 : len(whole) // 2] + rng.randbytes(len(whole) // 2),
        }[damage]
        (tmp_path / "2.pt").write_bytes(spoilt)
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded[0] == 1


def test_a_checkpoint_that_cannot_be_written_leaves_the_others_and_no_litter(tmp_path):
    save_checkpoint(tmp_path, 1, state(1))
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path, 2, {"not plain": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["1.pt"]


def test_code_hidden_in_a_checkpoint_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"weights": Attack()}, tmp_path / "7.pt")
    assert load_checkpoint(tmp_path) is None
    assert not (tmp_path / "owned").exists()


def test_a_finished_trial_keeps_no_checkpoint_and_nothing_a_killed_writer_left(tmp_path):
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, 1, state(1))
    (folder / ".2.4711.tmp").write_bytes(b"half a file")
    remove_checkpoints(folder)
    assert not folder.exists()
