"""P29: names of a study that somebody sent are text wherever they are shown: no script, formula, link or command."""

import contextlib
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic_study import SWEEP, write_study

from harness.commands.main import main
from harness.record.files import append_lines, read_json, read_lines, write_json
from harness.report.write import csv_text

HOSTILE = (
    '"><script>alert(1)</script><img src=x onerror=alert(1)>',
    '=HYPERLINK("http://evil")|x](http://evil) ![i](http://evil/i.png)',
    "\x1b]0;owned\x07\x1b[31m [red]r[/y] $\\frac$ {{ 7*7 }} --> ]]> &amp; </title></svg>",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of which every name is hostile, with its report."""
    sizes = ["question.total_batch_sizes=[16,64,256]", "seeds=[0]"]
    path = write_study(tmp_path_factory.mktemp("hostile") / "study", [SWEEP[0], *sizes, SWEEP[3]]).path
    described, plan = read_json(path / "study.json"), list(read_lines(path / "plan.jsonl"))
    described["config"]["question"] = {"_target_": "experiments.imported.Imported"}
    described |= {"name": HOSTILE[0], "experiment": HOSTILE[2], "git": {"commit": HOSTILE[0]}}
    described["hardware"] = {"cpu": HOSTILE[0]}
    write_json(path / "study.json", described)
    for row in plan:
        arm = row["arm"]
        arm["variant"] = {HOSTILE[1]: HOSTILE[0], "@choice": HOSTILE[2]}
        arm["scaling_rule"] = HOSTILE[1] if arm["scaling_rule"] == "none" else HOSTILE[2]
        arm["workload"], arm["optimizer"] = HOSTILE[1], "+cmd|' /C calc'!A0"
    (path / "plan.jsonl").unlink()
    append_lines(path / "plan.jsonl", plan)
    return path


@pytest.fixture(scope="module")
def printed(study: Path) -> str:
    """What the report and the status print."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["report", str(study)]) == 0
        assert main(["status", str(study)]) == 0
    return out.getvalue()


class Elements(HTMLParser):
    """Names of the elements of a page and of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, Any]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


@pytest.mark.long
def test_the_page_has_its_own_script_and_no_other(study, printed):
    page = (study / "report.html").read_text()
    found = Elements(page)
    assert found.names.count("script") == 1
    assert not {"img", "iframe", "object", "embed", "base", "form", "link"} & {*found.names}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not [value for name, value in found.attributes if name in ("href", "src") and not value.startswith("#")]
    assert "alert(1)" in page  # it is shown, as text


def test_every_figure_is_a_drawing_and_nothing_else(study, printed):
    drawings = sorted((study / "figures").glob("*.svg"))
    assert len(drawings) > 3
    for path in drawings:
        for element in ElementTree.parse(path).iter():
            assert not str(element.tag).endswith(("script", "foreignObject", "image")), path
            assert not [name for name in element.attrib if name.lower().startswith("on")], path


def test_markdown_shows_names_as_text(study, printed):
    text = (study / "report.md").read_text()
    assert "alert(1)" in text
    assert not re.search(r"<[a-z/!?]", text, re.IGNORECASE)
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets
    assert all(target.startswith("figures/") for target in targets)


def test_no_cell_of_a_table_is_a_formula(study, printed):
    tables = [study / "results.csv", *(study / "tables").glob("*.csv")]
    for path in tables:
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if re.match(r"[=@\t\r+]|-(?![\d.])", cell)], path
    assert "'=HYPERLINK" in (study / "results.csv").read_text()


def test_the_terminal_gets_text_without_commands(printed):
    assert "[red]r[/y]" in printed
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed)


@pytest.mark.parametrize("value", ["-1.5", "-1e-05", "+3", "-", "-3 %", "none", -1.5, -2, None, "a=b", "x-1"])
def test_numbers_and_ordinary_names_have_no_quote(value):
    assert "'" not in csv_text(["a"], [[value]])


@pytest.mark.parametrize("value", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-cmd", "--1"])
def test_what_a_spreadsheet_would_run_gets_a_quote(value):
    shown = "'" + value.replace("\r", " ")
    assert list(csv.reader(io.StringIO(csv_text([value], [[value]])))) == [[shown], [shown]]


def test_a_metric_is_no_path(study, printed, tmp_path):
    described = read_json(study / "study.json")
    target = {**described["config"]["workload"]["target"], "metric": "../../../x", "mode": "max"}
    described["config"]["workload"]["target"] = target
    write_json(study / "study.json", described)
    main(["report", str(study), "--target", "0.5"])
    assert [path.name for path in (study / "read_as").iterdir()] == [".._.._.._x-0.5"]
    json.loads((study / "read_as" / ".._.._.._x-0.5" / "results.json").read_text())
