"""One table in every form that spreadsheets and loggers give it: the same numbers, or one line on what is wrong."""

import json
import math
from pathlib import Path

import pytest
from published_tables import places, refusal

from harness.commands.published import main
from harness.commands.report import main as report
from harness.plan.target import Target
from harness.published.columns import ReadingOptions
from harness.published.read import read

COSTS = {16: [4.0, 4.1, 4.2], 64: [6.0, 6.1, 6.2], 1024: [40.0, 40.1, 40.2]}
ROWS = [(size, seed, cost) for size, costs in COSTS.items() for seed, cost in enumerate(costs)]
LINES = ["tbs,seed,epochs_to_target", *(f"{size},{seed},{cost}" for size, seed, cost in ROWS)]
PLAIN = "\n".join(LINES) + "\n"


def written(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def with_decimal_comma(delimiter: str) -> str:
    return PLAIN.replace(",", delimiter).replace(".", ",")


SAME = {
    "plain": PLAIN,
    "CRLF and a byte order mark": b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode(),
    "CR alone": PLAIN.replace("\n", "\r"),
    "tabs": PLAIN.replace(",", "\t"),
    "tabs in UTF-16": PLAIN.replace(",", "\t").encode("utf-16"),
    "UTF-16 without a mark": PLAIN.replace(",", ";").encode("utf-16-le"),
    "UTF-32": PLAIN.encode("utf-32"),
    "semicolons and decimal commas": with_decimal_comma(";"),
    "tabs and decimal commas": with_decimal_comma("\t"),
    "Excel's sep line": "sep=;\r\n" + with_decimal_comma(";"),
    "bars": PLAIN.replace(",", " | "),
    "spaces around cells": PLAIN.replace(",", " , "),
    "comments": "# exported 2024-01-01\n#\n" + PLAIN.replace("64,0", "# 64,9,9\n64,0"),
    "a header that is a comment": "# first\n# " + PLAIN,
    "blank rows": "\n\n" + PLAIN.replace("64,0", "\n,,\n64,0") + ",,\n,,\n\n",
    "trailing delimiters": PLAIN.replace("\n", ",\n"),
    "a pandas index": "".join(f"{i - 1 if i else ''},{line}\n" for i, line in enumerate(LINES)),
    "a pandas index, saved twice": "".join(f"{2 * i if i else 'Unnamed: 0'},{line}\n" for i, line in enumerate(LINES)),
    "thousands": PLAIN.replace("1024,", '"1,024",'),
    "thousands with points": with_decimal_comma(";").replace("1024;", "1.024;"),
    "thousands with blanks": PLAIN.replace("1024,", "1 024,"),
    "thousands with narrow blanks": PLAIN.replace("1024,", "1\u202f024,"),
    "thousands with apostrophes": PLAIN.replace("1024,", "1'024,"),
    "floats": PLAIN.replace("1024,", "1024.0,").replace("16,", "1.6e1,"),
    "quotes": "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in LINES),
    "a repeated column": "\n".join(f"{line},{line.split(',')[1]}" for line in LINES),
    "other capitals": PLAIN.replace("tbs", "TBS").replace("epochs_to_target", "Epochs to target"),
}  # fmt: skip


@pytest.mark.parametrize("form", SAME)
def test_one_table_in_any_form_gives_the_same_numbers(tmp_path, form):
    (curve,) = read(written(tmp_path, SAME[form])).curves
    assert places(curve) == COSTS


def test_a_table_with_tabs_is_one_whatever_its_suffix(tmp_path):
    (curve,) = read(written(tmp_path, PLAIN.replace(",", "\t"), "table.tsv")).curves
    assert places(curve) == COSTS


REFUSED = {
    "k": (PLAIN.replace("1024,0", "1k,0"), "line 8: tbs must be a number, not '1k' (1k may be 1,000 or 1,024"),
    "more cells": (PLAIN + "1024,3,40.3,oops,more\n", "line 11: 5 cells, but the header has 3: complete or remove"),
    "fewer cells": (PLAIN + "1024,3\n", "line 11: 2 cells, but the header has 3"),
    "no header": ("\n".join(LINES[1:]), "has no header: its first row, line 1, has numbers"),
    "two columns of one name": (PLAIN.replace("seed", "tbs"), "has two columns named 'tbs': rename or remove one"),
    "thousands or decimals": ('tbs,epochs_to_target\n"1,024",4\n', "not '1,024' (thousands or decimals? write it"),
    "negative": (PLAIN.replace("4.1", "-1"), "line 3: epochs_to_target must be > 0, not '-1': write inf if the run"),
    "zero": (PLAIN.replace("4.1", "0"), "line 3: epochs_to_target must be > 0, not '0'"),
    "percent and not": (PLAIN.replace("4.1", "4%"), "line 3: epochs_to_target must be a number, not '4%'"),
    "an unnamed setting": ("tbs,,epochs_to_target\n16,a,4\n16,b,5\n", "differ in column 2 (column 2: a and b)"),
    "Latin-1": (b"tbs,\xe9poque\n16,3\n", "it is not text in UTF-8; save it as UTF-8"),
    "a workbook": (b"PK\x03\x04\x14\x00", "table.csv is an Excel workbook or another archive, not a text table"),
    "zero bytes": (PLAIN.encode() + b"\0\0\0", "it has zero bytes"),
    "one cell": ("tbs", "cannot be read as a CSV table: it is one cell"),
    "a size per device": ("micro_batch_size,epochs_to_target\n16,3\n", "no column for total_batch_size"),
    "accumulation": ("bs,grad_accum,epochs_to_target\n16,4,3\n64,4,5\n",
                     "is bs the total batch size, next to grad_accum 4? Give --column total_batch_size=bs*grad_accum"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_is_damaged_or_ambiguous_is_refused_in_one_line(tmp_path, case):
    content, said = REFUSED[case]
    assert said in refusal(written(tmp_path, content))


def test_a_total_batch_size_may_be_a_product_of_columns(tmp_path):
    path = written(tmp_path, "bs,grad_accum,epochs_to_target\n16,4,3\n64,4,5\n")
    (curve,) = read(path, ReadingOptions(columns={"total_batch_size": "bs*grad_accum"})).curves
    assert places(curve) == {64: [3], 256: [5]}
    (curve,) = read(path, ReadingOptions(columns={"total_batch_size": "bs*2", "ignore": "grad_accum"})).curves
    assert places(curve) == {32: [3], 128: [5]}
    (curve,) = read(path, ReadingOptions(columns={"ignore": "grad_accum"})).curves
    assert places(curve) == {16: [3], 64: [5]}


def test_a_size_per_device_needs_the_devices(tmp_path):
    path = written(tmp_path, "micro_batch_size,epochs_to_target\n16,3\n64,5\n")
    alone = ReadingOptions(columns={"total_batch_size": "micro_batch_size"})
    assert "give --column total_batch_size=micro_batch_size*N with N devices" in refusal(path, alone)
    (curve,) = read(path, ReadingOptions(columns={"total_batch_size": "micro_batch_size*8"})).curves
    assert places(curve) == {128: [3], 512: [5]}
    assert curve.source == "table.csv; total batch size: micro_batch_size*8"


def test_a_unit_that_contradicts_the_column_is_refused(tmp_path):
    path = written(tmp_path, "tbs,steps_to_target\n16,400\n64,500\n")
    assert "--unit epochs contradicts the column steps_to_target" in refusal(path, ReadingOptions(unit="epochs"))
    (curve,) = read(path, ReadingOptions(unit="updates")).curves
    assert places(curve) == {16: [6400], 64: [32000]}


def test_a_cost_without_a_number_is_a_miss_and_counted(tmp_path):
    (curve,) = read(written(tmp_path, "tbs,epochs_to_target\n16,nan\n16,3\n64,inf\n64,\n")).curves
    assert places(curve) == {16: [math.inf, 3], 64: [math.inf, math.inf]}
    assert curve.source == "table.csv; 2 rows without a number in epochs_to_target counted as missed"


# -- evaluations --------------------------------------------------------------------------------------------------

NEEDED = {16: 4096, 64: 6144}  # examples to 0.9, evaluated every 512


def evaluations(metric: str = "val_acc", step: str = "step", row: str = "{size},{seed},{step},{acc}") -> str:
    lines = [f"batch_size,seed,{step},{metric}"]
    for size, need in NEEDED.items():
        for seed in range(3):
            for seen in range(512, 12 * 1024 + 1, 512):
                acc = min(0.99, 0.9 * seen / need) - 0.001 * seed * (seen != need)
                lines.append(row.format(size=size, seed=seed, step=seen // size, acc=f"{acc:.4f}", epoch=seen / 1024))
    return "\n".join(lines) + "\n"


def target(metric: str = "val_acc", value: float = 0.9, confirm: int = 1) -> ReadingOptions:
    return ReadingOptions(target=Target(metric, value, "max", confirm), train_examples=1024)


def crossings(path: Path, options: ReadingOptions) -> dict[int, list[float]]:
    (curve,) = read(path, options).curves
    assert curve.unit == "examples"
    return places(curve)


EXPECTED = {16: [4096] * 3, 64: [6144] * 3}


@pytest.mark.parametrize(
    "name", ["step", "global_step", "Step", "train/global_step", "trainer/global_step", "iteration", "num_updates"]
)
def test_evaluations_are_placed_by_steps_under_any_usual_name(tmp_path, name):
    assert crossings(written(tmp_path, evaluations(step=name)), target()) == EXPECTED


@pytest.mark.parametrize("metric", ["val acc", "val/acc", "Validation accuracy (%)"])
def test_a_metric_may_have_any_name(tmp_path, metric, capsys):
    path = written(tmp_path, evaluations(metric))
    assert crossings(path, target(metric)) == EXPECTED
    options = ["--target", f"{metric}>=0.9", "--train-examples", "1024", "--out", str(tmp_path / "out")]
    assert main([str(path), *options]) == 0
    assert "4,096" in capsys.readouterr().out


def test_a_row_of_another_kind_is_no_evaluation(tmp_path):
    """With --confirm 2, training rows between the evaluations gave 0 of 3 runs that reached."""
    content = evaluations("train_loss,val_acc", row="{size},{seed},{step},,{acc}\n{size},{seed},{step}.5,1.25,")
    path = written(tmp_path, content)
    assert crossings(path, target(confirm=2)) == EXPECTED
    (curve,) = read(path, target()).curves
    assert curve.source == ("table.csv; positions: step, counting steps; 144 rows without val_acc left out")
    unknown = written(tmp_path, content.replace("1.25,\n", "1.25,nan\n"))
    assert "line 3: val_acc is nan between evaluations of one run: leave the cell empty" in refusal(unknown, target())


def test_percents_are_shares_and_targets_on_another_scale_are_refused(tmp_path):
    lines = [line.rpartition(",") for line in evaluations().splitlines()[1:]]
    percent = "\n".join(
        ["batch_size,seed,step,val_acc", *(f"{head},{100 * float(acc):.2f}%" for head, _, acc in lines)]
    )
    path = written(tmp_path, percent)
    assert crossings(path, target()) == EXPECTED
    assert "val_acc is a share of 1 (at most 0.99) and the target 90 is not: give the target as 0.9" in refusal(
        path, target(value=90)
    )
    path = written(tmp_path, percent.replace("%", ""))
    assert "val_acc is in percent (at most 99) and the target 0.9 is not" in refusal(path, target())
    assert crossings(path, target(value=90)) == EXPECTED


def test_a_target_whose_column_is_missing_is_named_with_the_nearest(tmp_path):
    """Told to give a column for the value, the user got every evaluation counted as a run."""
    path = written(tmp_path, evaluations())
    assert refusal(path, target("val_accuracy")) == (
        "table.csv has no column 'val_accuracy' for the target: did you mean 'val_acc'?"
    )
    assert "choose one of batch_size, seed, step, val_acc" in refusal(path, target("bleu"))
    assert "has no column 'tsb': did you mean 'tbs'?" in refusal(
        written(tmp_path, PLAIN), ReadingOptions(columns={"total_batch_size": "tsb"})
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("16,0,32,", "16,0,,", "line 2: step must be a number >= 0, not ''"),
        ("16,0,32,", "16,0,-32,", "line 2: step must be a number >= 0, not '-32'"),
        (
            "16,0,64,0.2",
            "16,0,32,0.2",
            "lines 2 and 3: two evaluations of table at TBS 16, seed 0 at step 32 that differ",
        ),
        ("16,0,32,0.1125", "16,0,32,ten", "line 2: val_acc must be a number, not 'ten'"),
    ],
)
def test_an_evaluation_without_a_place_of_its_own_is_refused(tmp_path, old, new, said):
    content = evaluations()
    assert old in content
    assert said in refusal(written(tmp_path, content.replace(old, new, 1)), target())


@pytest.mark.parametrize("key", ["step", "epoch"])
def test_a_counter_that_begins_at_zero_is_asked_for(tmp_path, key):
    """Keras logs epoch 0 after it was trained, and Lightning step 31 after 32 updates."""
    one = 32 if key == "step" else 1
    path = written(tmp_path, f"bs,{key},acc\n" + "".join(f"16,{one * i - 1},{0.1 * i:.1f}\n" for i in range(1, 10)))
    options = ReadingOptions(target=Target("acc", 0.75, "max", 1), train_examples=1024)
    assert f"give --column position={key}+1 if it counts from 0" in refusal(path, options)
    for position, counted in ((f"{key}+1", 8 * one), (key, 8 * one - 1)):
        named = ReadingOptions(target=options.target, train_examples=1024, columns={"position": position})
        (curve,) = read(path, named).curves
        assert places(curve) == {16: [counted * 16 if key == "step" else counted]}


def test_updates_and_epochs_that_contradict_each_other_are_refused(tmp_path):
    content = evaluations("epoch,val_acc", row="{size},{seed},{step},{epoch},{acc}")
    steps = ReadingOptions(target=target().target, train_examples=1024, columns={"position": "step"})
    assert crossings(written(tmp_path, content), steps) == EXPECTED
    four_devices = written(tmp_path, content.replace("\n16,", "\n4,"))
    said = refusal(four_devices, steps)
    assert (
        "line 2: 32 updates of 4 examples (table at TBS 4, seed 0) are 0.125 epochs of 1,024, but epoch is 0.5" in said
    )


@pytest.mark.parametrize("name", ["key", "metric", "tag"])
def test_a_long_table_has_its_metrics_in_rows(tmp_path, name):
    """MLflow's metric history and TensorBoard's tags."""
    lines = [f"{name},value,step", *(f"{m},{0.1 * i:.1f},{32 * i}" for i in range(1, 10) for m in ("val_acc", "loss"))]
    options = ReadingOptions(target=Target("val_acc", 0.75, "max", 1), batch_size=16)
    assert crossings(written(tmp_path, "\n".join(lines)), options) == {16: [8 * 32 * 16]}


# -- charts of W&B ------------------------------------------------------------------------------------------------


def chart(names: dict[str, tuple[int, int]], bound: str = "{acc:.6f}") -> str:
    """As W&B exports a line plot: a column per run with its smallest and largest value; cells are empty elsewhere."""
    header = ["Step", *(f"{name} - val/acc{end}" for name in names for end in ("", "__MIN", "__MAX"))]
    lines = [header]
    for step in range(8, 769, 8):
        line = [str(step)]
        for size, seed in names.values():
            acc = min(0.99, 0.9 * (step * size - 64 * seed) / NEEDED[size])
            is_there = step * size % 512 == 0 and step * size <= 12 * 1024
            line += [f"{acc:.6f}", bound.format(acc=acc), bound.format(acc=acc)] if is_there else ["", "", ""]
        lines.append(line)
    return "".join(",".join(f'"{cell}"' for cell in line) + "\r\n" for line in lines)


def test_a_chart_exported_from_wandb_is_read_run_by_run(tmp_path):
    names = {f"bs{size}-seed{seed}": (size, seed) for size in NEEDED for seed in range(3)}
    path = written(tmp_path, chart(names))
    assert crossings(path, target("val/acc")) == {16: [4096, 4608, 4608], 64: [6144, 6656, 6656]}
    assert refusal(path) == "table.csv is a chart from W&B: give --target, e.g. --target 'val/acc>=VALUE'"
    assert "has no metric 'acc': choose one of val/acc" in refusal(path, target("acc"))
    bare = written(tmp_path, "\n".join(["Step,bs16 - val/acc", *(f"{32 * i},{0.1 * i:.1f}" for i in range(1, 10))]))
    assert crossings(bare, target("val/acc", 0.75)) == {16: [8 * 32 * 16]}
    timed = written(tmp_path, chart(names).replace("Step", "Relative Time (Process)"))
    assert "what 'Relative Time (Process)' counts is unknown" in refusal(timed, target("val/acc"))
    grouped = written(tmp_path, chart(names, bound="0.5"))
    assert "is an average of several runs or steps (its __MIN or __MAX differs)" in refusal(grouped, target("val/acc"))


def test_names_of_runs_keep_arms_apart_or_need_a_batch_size(tmp_path):
    names = {"sqrt tbs=16 seed 0": (16, 0), "linear tbs=16 seed 0": (16, 0)}
    curves = read(written(tmp_path, chart(names)), target("val/acc")).curves
    assert [(curve.label, places(curve)) for curve in curves] == [("sqrt", {16: [4096]}), ("linear", {16: [4096]})]
    nameless = written(tmp_path, chart({"fluffy-cloud-12": (16, 0), "golden-sun-13": (16, 1)}))
    assert "give --batch-size N" in refusal(nameless, target("val/acc"))
    options = ReadingOptions(target=Target("val/acc", 0.9, "max", 1), batch_size=16)
    assert crossings(nameless, options) == {16: [4096, 4608]}
    mixed = written(tmp_path, chart({"bs16": (16, 0), "golden-sun-13": (16, 1)}))
    assert "the name of run golden-sun-13 has no batch size" in refusal(mixed, target("val/acc"))


# -- MLPerf's logs ------------------------------------------------------------------------------------------------


def log(
    path: Path, last: float, status: str | None, size: int = 2048, lr: float = 8.0, place: str = "epoch_num"
) -> Path:
    """A log of evaluations every 4 epochs that ends at `last`."""
    events = [("submission_benchmark", "resnet", {}), ("global_batch_size", size, {}), ("train_samples", 1281167, {}),
              ("opt_base_learning_rate", lr, {}), ("run_start", None, {})]  # fmt: skip
    events += [("eval_accuracy", 0.7595 * at / last, {place: at}) for at in [*range(4, int(last), 4), last]]
    events += [("run_stop", None, {"status": status})] if status else []
    lines = [f":::MLLOG {json.dumps({'key': key, 'value': value, 'metadata': data})}" for key, value, data in events]
    path.parent.mkdir(exist_ok=True)
    path.write_text("+ some shell line\n" + "\n".join(f"0: {line}" for line in lines) + "\n")
    return path


def test_mlperf_logs_are_runs_of_their_batch_size(tmp_path):
    folder = tmp_path / "results"
    for i, (last, status) in enumerate([(35, "aborted"), (36, "success"), (35, "success"), (37, "success")]):
        log(folder / f"result_{i}.txt", last, status)
    log(folder / "result_4.txt", 36, "success")  # the log of result_1 again
    log(folder / "result_5.txt", 30, None)
    (curve,) = read(folder).curves
    assert (curve.label, curve.unit, curve.train_examples) == ("MLPerf resnet", "epochs", 1281167)
    assert places(curve) == {2048: [math.inf, 36, 35, 37]}
    assert curve.arms[0].observations[0].at_least == 35
    assert curve.arms[0].lr == 8
    assert curve.source == "results; 1 log without run_stop left out; result_4.txt left out as a copy of result_1.txt"
    (curve,) = read(folder, ReadingOptions(target=Target("eval_accuracy", 0.759, "max", 1))).curves
    assert places(curve) == {2048: [35, 36, 35, 37]}
    (curve,) = read(folder / "result_1.txt").curves
    assert [(run.low, run.value) for run in curve.arms[0].observations] == [(32, 36)]


def test_logs_of_other_units_and_settings_are_kept_apart_or_refused(tmp_path):
    log(tmp_path / "a" / "result_0.txt", 4000, "success", place="samples_count")
    (curve,) = read(tmp_path / "a").curves
    assert (curve.unit, places(curve)) == ("examples", {2048: [4000]})
    log(tmp_path / "b" / "result_0.txt", 36, "success")
    log(tmp_path / "b" / "result_1.txt", 35, "success", lr=9.0)
    assert "result_0.txt and result_1.txt at TBS 2,048 differ in opt_base_learning_rate (8.0 and 9.0)" in refusal(
        tmp_path / "b"
    )
    log(tmp_path / "b" / "result_1.txt", 35, "success", size=4096, lr=9.0)
    assert places(read(tmp_path / "b").curves[0]) == {2048: [36], 4096: [35]}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"global_batch_size"', '"other"', "result_0.txt has no global_batch_size"),
        ('"epoch_num"', '"place"', "line 7: an evaluation without samples_count or epoch_num"),
        ("eval_accuracy", "eval_bleu", "result_0.txt has no evaluation (eval_accuracy)"),
        ("run_stop", "run_end", "has no finished MLPerf run"),
        (":::MLLOG {", ":::MLLOG ", "line 2: :::MLLOG must be followed by JSON"),
        (
            '"train_samples", "value": 1281167',
            '"global_batch_size", "value": 64',
            "line 4: a second global_batch_size, 64",
        ),
    ],
)
def test_a_log_that_is_no_whole_run_is_refused(tmp_path, old, new, said):
    path = log(tmp_path / "result_0.txt", 36, "success")
    path.write_text(path.read_text().replace(old, new))
    assert said in refusal(path)


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "16"], "--batch-size has no effect on table.csv as it was read: leave it out"),
        (["--column", "position=seed"], "--column position=NAME has no effect on table.csv"),
        (["--confirm", "2"], "--confirm counts evaluations that meet a target: give the target as well"),
        (["--column", "total_batch_size"], "--column must be ROLE=NAME, not 'total_batch_size'"),
    ],
)
def test_an_option_without_an_effect_is_refused(tmp_path, options, said, capsys):
    path = written(tmp_path, PLAIN)
    assert main([str(path), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_without_a_source_are_refused(capsys):
    for options in (["--unit", "epochs"], ["--overhead", "0.2"], ["--out", "x"], ["--target", "acc>=0.9"]):
        assert main(options) == 2
        assert capsys.readouterr().err == f"error: {options[0]} needs a SOURCE; without any, tables are listed\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--unit", "epochs"], "--unit is for published sources: add --overlay SOURCE, or leave it out"),
        (["a", "--column", "value=x"], "--column is for published sources: add --overlay SOURCE"),
        (["a", "a"], "a is the same study as a: give two studies to compare"),
        (["a", "./b/../a"], "is the same study as a: give two studies"),
        (["a", "b", "--overlay", "smith2018"], "--overlay is for a report on one study: leave out b or --overlay"),
        (["a", "b", "--budget-epochs", "3"], "--budget-epochs is for a report on one study"),
    ],
)
def test_a_report_refuses_what_it_would_ignore(tmp_path, monkeypatch, arguments, said, capsys):
    monkeypatch.chdir(tmp_path)
    assert report(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
