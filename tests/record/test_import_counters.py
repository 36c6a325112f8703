"""Runs of ordinary scripts: every framework counts differently, and what is ambiguous is rejected with the key to name.

The true numbers of `run`: evaluations every half epoch of 1,024 examples; accuracy crosses 0.9 after 4 epochs at TBS 16
and after 6 at TBS 64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.config.imported import imported_configuration
from harness.plan.errors import UserError
from harness.record.study import StudyFolder
from harness.record.tracking.import_runs import Columns, Imported, write_runs
from harness.record.tracking.read_runs import RunRead

N = 1024
NEEDED = {16: 4096, 64: 6144, 512: 8192}  # examples to 0.9
Row = Mapping[str, Any]


def log_calls(
    tbs: int, evaluation: Callable[[int, float], Row], training: Callable[[int], Row] | None = None
) -> list[Row]:
    """What a script logs in 12 epochs: training rows four times as often as evaluations, as `wandb.log` calls."""
    every, rows = N // 2 // tbs, []
    for update in range(1, 12 * N // tbs + 1):
        if training and update % max(1, every // 4) == 0:
            rows.append({"train/loss": 1 / update, **training(update)})
        if update % every == 0:
            rows.append(evaluation(update, min(0.99, 0.9 * update * tbs / NEEDED[tbs])))
    return rows


def run(tbs: int, rows: Sequence[Row], **config: Any) -> RunRead:
    """W&B's own step counts the calls."""
    return RunRead(f"r{tbs}", f"r{tbs}", state="finished", config=config, rows={i: dict(r) for i, r in enumerate(rows)})


def imported(folder: Path, runs: Sequence[RunRead], *columns: str, examples: int | None = N) -> Imported:
    return write_runs(runs, folder / "s", Columns.parse(columns), "acc>=0.9", examples, imported_configuration)


def epochs(folder: Path) -> dict[int, list[float | None]]:
    experiment, _ = reopen(StudyFolder(folder / "s"))
    return {
        arm.total_batch_size: arm.epochs_by_seed for arm in experiment.conclude(Records(StudyFolder(folder / "s"))).arms
    }


def refusal(folder: Path, runs: Sequence[RunRead], *columns: str, examples: int | None = N) -> str:
    with pytest.raises(UserError) as refused:
        imported(folder, runs, *columns, examples=examples)
    assert "\n" not in str(refused.value)
    assert not (folder / "s").exists()
    return str(refused.value)


def hugging_face(tbs: int, accumulation: int = 1, **config: Any) -> RunRead:
    def counters(update: int) -> Row:
        return {"train/global_step": update, "train/epoch": round(update * tbs / N, 2)}

    rows = log_calls(tbs, lambda update, metric: {"eval/accuracy": metric, **counters(update)}, counters)
    per_device = {"per_device_train_batch_size": tbs // accumulation, "gradient_accumulation_steps": accumulation}
    return run(tbs, rows, **per_device, learning_rate=0.1, seed=0, **config)


HF = ("lr=learning_rate", "metric=eval/accuracy")


def test_hugging_face_runs_are_placed_by_their_own_steps(tmp_path):
    """By W&B's step, which counts log calls, they needed 0.688 and 4 epochs."""
    runs = [hugging_face(16), hugging_face(64)]
    done = imported(tmp_path, runs, *HF, "total_batch_size=per_device_train_batch_size")
    assert epochs(tmp_path) == {16: [4.0], 64: [6.0]}
    assert done.how == (
        "evaluations placed by train/global_step as updates; total batch size = per_device_train_batch_size (agrees "
        "with the runs' own epochs)"
    )
    experiment, _ = reopen(StudyFolder(tmp_path / "s"))
    assert done.how in experiment.conclude(Records(StudyFolder(tmp_path / "s"))).caveats


def test_accumulation_belongs_to_the_total_batch_size(tmp_path):
    """Without it, batch sizes of 16 and 64 were 4 and 16."""
    runs = [hugging_face(16, accumulation=4), hugging_face(64, accumulation=4)]
    assert refusal(tmp_path, runs, *HF, "total_batch_size=per_device_train_batch_size") == (
        "run r16: 32 updates of 4 examples are 0.125 epochs of 1,024, but train/epoch is 0.5, as with a total batch "
        "size of 16: check --train-examples, or give --column "
        "total_batch_size=per_device_train_batch_size*gradient_accumulation_steps or --column updates=KEY"
    )
    imported(tmp_path, runs, *HF, "total_batch_size=per_device_train_batch_size*gradient_accumulation_steps")
    assert epochs(tmp_path) == {16: [4.0], 64: [6.0]}


def test_devices_that_no_key_has_may_be_given_as_a_number(tmp_path):
    runs = [hugging_face(16, accumulation=4)]
    said = refusal(tmp_path, runs, *HF, "total_batch_size=gradient_accumulation_steps*1")
    assert "as with a total batch size of 16" in said
    imported(tmp_path, runs, *HF, "total_batch_size=per_device_train_batch_size*2*2")
    assert epochs(tmp_path) == {16: [4.0]}


def test_another_training_set_is_noticed(tmp_path):
    said = refusal(tmp_path, [hugging_face(16)], *HF, "total_batch_size=per_device_train_batch_size", examples=4096)
    assert "32 updates of 16 examples are 0.125 epochs of 4,096, but train/epoch is 0.5" in said


@pytest.mark.parametrize("size", [1000, 1030])
def test_partial_batches_and_rounded_epochs_are_no_contradiction(tmp_path, size):
    """A trainer that keeps the last, smaller batch makes 63 updates of 1,000 examples; one that drops it makes 62."""
    for drop in (False, True):
        per_epoch = size // 16 if drop else -(-size // 16)
        rows = [{"acc": 0.1 * i, "global_step": 40 * i, "epoch": round(40 * i / per_epoch, 2)} for i in range(1, 11)]
        imported(tmp_path / str(drop), [run(16, rows, bs=16, lr=1)], "total_batch_size=bs", "lr=lr", "metric=acc",
                 examples=size)  # fmt: skip


def lightning(tbs: int, first: int = 0) -> RunRead:
    """Evaluated at the end of every half epoch; Lightning logs the steps before it, and the epoch that runs."""

    def counters(update: int) -> Row:
        return {"trainer/global_step": update - 1 + first, "epoch": (update * tbs - 1) // N}

    rows = log_calls(tbs, lambda update, metric: {"val_acc": metric, **counters(update)}, counters)
    return run(tbs, rows, batch_size=tbs, lr=0.1)


@pytest.mark.parametrize("first", [0, 1])
def test_lightning_runs_are_placed_by_the_trainer_s_step_which_counts_from_zero(tmp_path, first):
    done = imported(tmp_path, [lightning(tbs, first) for tbs in (16, 64, 512)], "total_batch_size=batch_size", "lr=lr",
                    "metric=val_acc")  # fmt: skip
    assert epochs(tmp_path) == {16: [4.0], 64: [6.0], 512: [8.0]}
    assert "placed by trainer/global_step" in done.how
    assert ("+ 1" in done.how) == (first == 0)


def test_an_epoch_that_runs_contradicts_a_wrong_batch_size(tmp_path):
    wrong = lightning(64)
    wrong.config["batch_size"] = 16
    assert "but epoch is" in refusal(tmp_path, [wrong], "total_batch_size=batch_size", "lr=lr", "metric=val_acc")


@pytest.mark.parametrize("key", ["epoch", "epoch/epoch"])
def test_epochs_that_count_from_zero_are_asked_for(tmp_path, key):
    """Keras and timm log epoch 0 after it was trained."""
    rows = [{"val_accuracy": 0.16 * i, key: i - 1} for i in range(1, 9)]
    keras = run(32, rows, bs=32, lr=0.1)
    columns = ("total_batch_size=bs", "lr=lr", "metric=val_accuracy")
    assert refusal(tmp_path, [keras], *columns) == (
        f"run r32: {key} of its evaluations is 0, 1, 2: give --column epochs={key}+1 if it counts from 0, or "
        f"epochs={key} if it is right"
    )
    imported(tmp_path / "a", [keras], *columns, f"epochs={key}+1")
    imported(tmp_path / "b", [keras], *columns, f"epochs={key}")
    assert (epochs(tmp_path / "a"), epochs(tmp_path / "b")) == ({32: [6.0]}, {32: [5.0]})


def test_nanogpt_runs_are_placed_by_iter_with_their_accumulation(tmp_path):
    rows = [{"iter": 250 * i, "val/loss": 5 - 0.5 * i} for i in range(9)]
    gpt = run(0, rows, batch_size=12, gradient_accumulation_steps=40, learning_rate=6e-4)
    shared, product = ["lr=learning_rate", "metric=val/loss"], "batch_size*gradient_accumulation_steps"
    alone, both = (Columns.parse([*shared, f"total_batch_size={key}"]) for key in ("batch_size", product))
    with pytest.raises(UserError) as refused:
        write_runs([gpt], tmp_path / "s", alone, "loss<=3", 10**6, imported_configuration)
    assert f"next to gradient_accumulation_steps 40? Give --column total_batch_size={product}" in str(refused.value)
    write_runs([gpt], tmp_path / "s", both, "loss<=3", 10**6, imported_configuration)
    assert epochs(tmp_path) == {480: [1000 * 480 / 10**6]}


def test_a_step_that_counts_log_calls_places_nothing(tmp_path):
    rows = log_calls(16, lambda _, metric: {"acc": metric}, lambda _: {})
    columns = ("total_batch_size=bs", "lr=lr", "metric=acc")
    said = refusal(tmp_path, [run(16, rows, bs=16, lr=1)], *columns)
    assert said.startswith("run r16: W&B's step counts the calls of wandb.log (every step has a row)")
    assert "--column updates=KEY, epochs=KEY or examples=KEY" in said
    every_update = [{"loss": 1.0, **({"acc": (i + 1) / 80} if i % 8 == 7 else {})} for i in range(80)]
    imported(tmp_path, [run(16, every_update, bs=16, lr=1)], *columns, "updates=_step+1")
    assert epochs(tmp_path) == {16: [72 * 16 / N]}


def test_steps_that_the_script_gave_are_updates(tmp_path):
    """accelerate: `accelerator.log(values, step=completed_steps)`."""
    rows = {32 * i: {"acc": 0.1 * i} for i in range(1, 11)}
    plain = RunRead("r", "r", state="finished", config={"bs": 16, "lr": 1}, rows=rows)
    done = imported(tmp_path, [plain], "total_batch_size=bs", "lr=lr", "metric=acc")
    assert epochs(tmp_path) == {16: [9 * 32 * 16 / N]}
    assert done.how == "evaluations placed by W&B's step as updates; total batch size = bs"


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([{"acc": 0.1 * i, "step": s} for i, s in enumerate([10, 20, 30, 15, 25])], (),
         "step falls from 30 to 15 at W&B's step 3: the run was resumed from an earlier state"),
        ([{"acc": 0.1 * i, "step": 10 * i, "global_step": 20 * i} for i in range(1, 6)], (),
         "step and global_step of its evaluations disagree: give --column updates=step or updates=global_step"),
        ([{"acc": 0.1, "step": 10}, {"acc": 0.2}], (), "evaluations have step, but not the one at W&B's step 1"),
        ([{"acc": 0.1 * i, "step": 10 * i, "samples": 100 * i} for i in range(1, 6)], (),
         "samples is 100, but step is 10, hence 160 examples at a total batch size of 16"),
        ([{"acc": 0.1 * i, "step": 10 * i} for i in range(1, 6)], ("updates=stop",),
         "no number in 'stop' at W&B's step 0: give --column updates=KEY (did you mean 'step'?)"),
        ([{"acc": 10.0 * i, "step": 10 * i} for i in range(1, 6)], (), "is in percent (at most 50) and the target 0.9"),
        ([{"acc": v, "step": 10 * i} for i, v in enumerate([0.1, math.nan, 0.95, 0.95], 1)], (),
         "acc is nan at W&B's step 1 and a number after it"),
        ([{"accuracy": 0.1 * i, "step": 10 * i} for i in range(1, 6)], (),
         "no run has 'acc' in its rows: give --column metric=KEY (did you mean 'accuracy'?)"),
    ],
)  # fmt: skip
def test_rows_that_contradict_each_other_are_refused(tmp_path, rows, columns, said):
    refused = refusal(tmp_path, [run(16, rows, bs=16, lr=1)], "total_batch_size=bs", "lr=lr", "metric=acc", *columns)
    assert said in refused


@pytest.mark.parametrize(
    ("config", "product", "said"),
    [
        ({"bs": 16, "world_size": 4}, "bs", "is bs the total batch size, next to world_size 4? Give --column "
                                            "total_batch_size=bs*world_size, or --column ignore=world_size if it is"),
        ({"bs": 16, "world_size": 4, "num_nodes": 2}, "bs", "total_batch_size=bs*world_size, or"),
        ({"bs": 16, "num_gpus": 4, "num_nodes": 2}, "bs*num_gpus", "total_batch_size=bs*num_gpus*num_nodes, or"),
        ({"micro_batch_size": 16}, "micro_batch_size", "total_batch_size=micro_batch_size*N with N devices"),
        ({"fit": {"accumulate_grad_batches": 2}, "bs": 8}, "bs", "total_batch_size=bs*fit.accumulate_grad_batches"),
        ({"batchsize": 16}, "bs", "in its config 'bs': give --column total_batch_size=KEY (lr, batchsize)"),
    ],
)  # fmt: skip
def test_a_factor_that_is_missing_from_the_total_batch_size_is_named(tmp_path, config, product, said):
    rows = [{"acc": 0.1 * i, "step": 10 * i} for i in range(1, 6)]
    refused = refusal(tmp_path, [run(16, rows, lr=1, **config)], f"total_batch_size={product}", "lr=lr", "metric=acc")
    assert said in refused


@pytest.mark.parametrize(
    ("config", "columns", "size"),
    [
        ({"bs": 16, "world_size": 4}, ("total_batch_size=bs*world_size",), 64),
        ({"bs": 16, "world_size": 4}, ("total_batch_size=bs", "ignore=world_size"), 16),
        ({"global_batch_size": 16, "world_size": 4}, ("total_batch_size=global_batch_size",), 16),
        ({"bs": 16, "world_size": 1, "num_workers": 8, "gradient_accumulation_steps": 1}, ("total_batch_size=bs",), 16),
        ({"micro_batch_size": 16}, ("total_batch_size=micro_batch_size*1",), 16),
    ],
)
def test_the_total_batch_size_is_the_product_that_is_given(tmp_path, config, columns, size):
    rows = [{"acc": 0.1 * i, "step": 10 * i} for i in range(1, 11)]
    imported(tmp_path, [run(16, rows, lr=1, **config)], *columns, "lr=lr", "metric=acc")
    assert epochs(tmp_path) == {size: [90 * size / N]}


def test_a_run_that_ends_in_nan_diverged(tmp_path):
    rows = [{"acc": value, "step": 10 * i} for i, value in enumerate([0.1, 0.2, math.nan, math.nan], 1)]
    imported(tmp_path, [run(16, rows, bs=16, lr=1)], "total_batch_size=bs", "lr=lr", "metric=acc")
    assert '"diverged"' in next((tmp_path / "s").glob("trials/*/*/record.json")).read_text()


def test_nested_keys_of_rows_are_found_by_their_dots(tmp_path):
    rows = [{"val": {"acc": 0.1 * i}, "train": {"step": 10 * i}} for i in range(1, 11)]
    imported(tmp_path, [run(16, rows, bs=16, lr=1)], "total_batch_size=bs", "lr=lr", "metric=val.acc")
    assert epochs(tmp_path) == {16: [90 * 16 / N]}
