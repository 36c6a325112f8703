"""Texts are read from the formats in which people keep them, and a faulty file is refused with its line."""

import json
from pathlib import Path

import pytest
import torch

from harness.datasets.examples import Splits
from harness.datasets.text_file import TextFile
from harness.plan.errors import UserError

ROWS = [(f"Good, {'very ' * (i % 3)}good!", "yes") if i % 2 else (f'a "bad"\nthing {i}', "no") for i in range(20)]


def write(path: Path, rows: list[tuple[str, str]] = ROWS, names: tuple[str, str] = ("text", "label")) -> Path:
    """The rows in the format of the path's suffix, with a column more, as a spreadsheet or json.dumps writes them."""
    if path.suffix == ".jsonl":
        lines = [json.dumps({"id": i, names[1]: b, names[0]: a}) for i, (a, b) in enumerate(rows)]
    else:
        tab = "\t" if path.suffix == ".tsv" else ","
        quoted = [tab.join([str(i), b, '"' + a.replace('"', '""') + '"']) for i, (a, b) in enumerate(rows)]
        lines = [tab.join(["id", names[1], names[0]]), *quoted]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def load(folder: Path, name: str = "texts.csv", **options) -> Splits:
    return TextFile(str(folder), name, **{"validation": 4, "test": 0.2, "longest": 6, **options}).load()


def refusal(folder: Path, content: str | bytes, name: str = "texts.csv", **options) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as error:
        load(folder, name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def texts(splits: Splits, part: str) -> list[tuple[list[int], int]]:
    examples = getattr(splits, part)
    inputs, targets = examples.batch(torch.arange(len(examples)))
    rows = [row[mask.bool()].tolist() for row, mask in zip(inputs["tokens"], inputs["attention_mask"], strict=True)]
    return list(zip(rows, targets.tolist(), strict=True))


@pytest.mark.parametrize("name", ["texts.csv", "texts.tsv", "texts.jsonl"])
def test_every_format_gives_the_same_examples_in_the_same_splits(tmp_path, name):
    reference = load(write(tmp_path / "reference.csv").parent, "reference.csv")
    splits = load(write(tmp_path / name, names=("Body", "stars")).parent, name, text="Body", label="stars")
    assert splits.fingerprint == reference.fingerprint
    assert [len(getattr(splits, part)) for part in ("train", "validation", "test")] == [12, 4, 4]
    held = [texts(splits, part) for part in ("train", "validation", "test")]
    assert held == [texts(reference, part) for part in ("train", "validation", "test")]
    assert [sum(label for _, label in part) for part in held] == [6, 2, 2]  # stratified
    assert max(len(tokens) for tokens, _ in held[0]) == 6  # cut


def test_words_are_told_apart_without_their_case_and_bytes_with_it(tmp_path):
    write(tmp_path / "texts.csv", [("Good, bad", "10"), ("good , BAD", "9"), ("Good", "2"), ("x", "b")])
    parts = {"classes": 4, "validation": "texts.csv", "test": "texts.csv"}
    rows = {label: tokens for tokens, label in texts(load(tmp_path, **parts), "train")}
    assert rows[2] == rows[1] == [*rows[0], *rows[1][1:]]  # labels sorted as numbers, then as words: 2, 9, 10, b
    assert len(rows[1]) == 3
    assert rows[3] not in rows[1]
    by_bytes = {label: tokens for tokens, label in texts(load(tmp_path, tokens="bytes", **parts), "train")}
    assert by_bytes[0] == [1 + byte for byte in b"Good"]
    assert by_bytes[1] == [1 + byte for byte in b"good ,"]


def test_files_of_their_own_are_validation_and_test(tmp_path):
    for name in ("texts.csv", "dev.jsonl", "test.tsv"):
        write(tmp_path / name, ROWS[: 20 if name == "texts.csv" else 6])
    splits = load(tmp_path, validation="dev.jsonl", test="test.tsv")
    assert [len(getattr(splits, part)) for part in ("train", "validation", "test")] == [20, 6, 6]
    write(tmp_path / "test.tsv", [("x", "maybe")])
    with pytest.raises(UserError, match=r"test.tsv has the label 'maybe', which the training file does not have"):
        load(tmp_path, validation="dev.jsonl", test="test.tsv")


def test_rows_without_text_or_label_are_excluded_and_counted(tmp_path, capsys):
    whole = load(write(tmp_path / "whole.csv").parent, "whole.csv")
    write(tmp_path / "texts.csv", [*ROWS[:10], (" ", "yes"), ("text", ""), *ROWS[10:]])
    assert load(tmp_path).fingerprint == whole.fingerprint
    assert "texts.csv: 2 rows without a text or a label excluded" in capsys.readouterr().err


def test_a_faulty_file_is_refused_in_one_line(tmp_path):
    assert "line 2: no text, but body, label" in refusal(tmp_path, "body,label\nx,1\n")
    assert "line 3: 3 cells, but the header has 2: put texts that contain ',' in quotes" in refusal(
        tmp_path, "text,label\na,1\nb,c,1\n"
    )
    assert "has 3 labels (a, b, c), but dataset.classes is 2: set dataset.classes=3" in refusal(
        tmp_path, "text,label\n" + "x,a\nx,b\nx,c\n" * 3
    )
    assert "a classifier needs two or more" in refusal(tmp_path, "text,label\nx,a\ny,a\n")
    assert "no row with a text and a label" in refusal(tmp_path, "text,label\n")
    assert "no row with a text and a label" in refusal(tmp_path, "")
    assert "none is left to train on" in refusal(tmp_path, "text,label\nx,a\ny,b\nz,a\n", validation=2, test=1)
    assert "dataset.test=0.2 of the 2 examples" in refusal(tmp_path, "text,label\nx,a\ny,b\n")
    assert "is not UTF-8 text" in refusal(tmp_path, b"text,label\n\xff,a\n")
    assert "line 2: unexpected end of data" in refusal(tmp_path, 'text,label\n"x,a\n')
    assert "line 1: no JSON value" in refusal(tmp_path, "text,label\n", "texts.jsonl")
    assert "line 1: must be an object" in refusal(tmp_path, "[1]\n", "texts.jsonl")
    assert "line 1: a text or a label must be text" in refusal(tmp_path, '{"text": ["x"], "label": 1}\n', "texts.jsonl")
    assert "must end in one of .csv" in refusal(tmp_path, "x", "texts.parquet")


def test_without_the_file_a_run_is_refused_and_a_plan_has_assumed_sizes(tmp_path):
    dataset = TextFile(str(tmp_path), sizes=(8, 2, 2))
    assert dataset.declared_sizes() == (8, 2, 2)
    with pytest.raises(UserError, match=r"texts.csv does not exist: save texts as .*texts.csv"):
        dataset.load()
    write(tmp_path / "texts.csv")
    assert dataset.declared_sizes() is dataset.missing() is None
