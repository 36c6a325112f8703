"""The page can be used without eyes, colour or a mouse: on its text always, in a browser where one is installed."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from synthetic_study import findings_of, write_study

from harness.report.write import write_files

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What a reader of the page would stumble over, as the browser has laid it out and with its scripts run.
AUDIT = """
<script>
addEventListener("load", () => {
  const luminance = (rgb) => rgb.map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parts(getComputedStyle(e).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const text = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const faint = [];
  let texts = 0;
  for (const element of document.body.querySelectorAll("*")) {
    if (!text(element) || !element.getClientRects().length || element.closest("script,style")) continue;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    if (colour === "none") continue;
    texts += 1;
    const [a, b] = [luminance(parts(colour).slice(0, 3)), luminance(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  const scrolls = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth + 1);
  const buttons = [...document.querySelectorAll("button")];
  const found = {
    texts, faint,
    dark: luminance(ground(document.body)) < 0.2,
    wide: document.documentElement.scrollWidth - innerWidth,
    figure_ends: Math.min(...[...document.querySelectorAll(".drawing")].map((e) => e.getBoundingClientRect().bottom)),
    widest_table: Math.max(...[...document.querySelectorAll("table")].map((e) => e.getBoundingClientRect().width)),
    unreachable: scrolls.filter((e) => e.tabIndex < 0).length,
    buttons: buttons.length,
    nameless: buttons.filter((b) => !b.textContent.trim()).length,
    toggled: (() => {
      const button = document.querySelector(".toggles button");
      button.click();
      return [button.getAttribute("aria-pressed"), document.querySelectorAll(".drawing .off").length > 0];
    })(),
    marks: (() => {
      const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const drawing = document.querySelector(".drawing"), stops = drawing.querySelectorAll('.tip[tabindex="0"]');
      stops[0].focus();
      const first = [document.getElementById("hover").textContent, document.activeElement.getAttribute("aria-label")];
      press("ArrowRight");
      const second = document.getElementById("hover").textContent;
      press("End");
      press("ArrowRight");
      return [stops.length, first[0] === first[1] && first[0] !== "", second !== first[0] && second !== "",
        document.activeElement === [...drawing.querySelectorAll(".tip:not(.off .tip)")].at(-1)];
    })(),
    sorted: (() => {
      document.querySelector("table.sortable th button").click();
      return document.querySelector("table.sortable th").getAttribute("aria-sort");
    })(),
  };
  document.documentElement.setAttribute("data-audit", JSON.stringify(found));
});
</script>
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    findings = findings_of(write_study(tmp_path_factory.mktemp("studies") / "sweep"))
    folder = tmp_path_factory.mktemp("reports")
    write_files(folder, findings)
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text())


def test_every_column_of_every_table_has_a_heading(page: Page):
    assert page.tables
    for head, *rows in page.tables:
        assert all(text.strip() for text, _ in head)
        assert all(len(row) == len(head) for row in rows)
    assert all(attributes.get("scope") == "col" for attributes in page.of("th"))


def test_the_page_has_one_main_part_a_title_and_no_jumping_focus(page: Page):
    assert len(page.of("main")) == 1
    assert len(page.of("title")) >= 1
    assert all(attributes.get("tabindex", "0") == "0" for _, attributes in page.elements)


def test_what_scrolls_sideways_can_be_reached_by_keyboard(page: Page):
    scrolled = [found for _, found in page.elements if found.get("class") == "scroll"]
    assert scrolled
    assert all(found.get("tabindex") == "0" and found.get("aria-label") for found in scrolled)


def test_lists_hold_items_and_details_open_with_a_summary(written: Path):
    text = written.read_text()
    assert not re.search(r"<ul[^>]*>\s*</ul>", text), "an empty list is read out as one"
    assert text.count("<details>") == len(re.findall(r"<details>\s*<summary>[^<]+</summary>", text))


def audit(written: Path, folder: Path, width: int, dark: bool) -> dict[str, Any]:
    """Open the page in a window of so many pixels and read what the audit wrote down."""
    copy = folder / "audited.html"
    copy.write_text(written.read_text().replace("</body>", f"{AUDIT}</body>"))
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    window = [f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom", copy.as_uri()]
    done = subprocess.run([*command, scheme, *window], capture_output=True, text=True, timeout=120)
    found = re.search(r'data-audit="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    return json.loads(found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; the tests above read the page's text")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)], ids=["wide and light", "narrow and dark"])
def test_in_a_browser_text_stands_out_nothing_overflows_and_controls_work(
    written: Path, tmp_path: Path, width: int, dark: bool
):
    found = audit(written, tmp_path, width, dark)
    assert found["texts"] > 300
    assert found["faint"] == []
    assert found["dark"] is dark
    assert found["wide"] <= 0
    assert found["unreachable"] == 0
    assert found["buttons"] > 20
    assert found["nameless"] == 0
    assert found["toggled"] == ["false", True]
    assert found["sorted"] == "ascending"
    assert found["marks"] == [1, True, True, True], "the marks of a figure cannot all be reached by keyboard"


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_on_a_phone_a_figure_is_in_sight_and_on_paper_no_table_is_wider_than_the_page(written: Path, tmp_path: Path):
    assert audit(written, tmp_path, 500, False)["figure_ends"] < 900
    print_width = round((210 - 2 * 12) / 25.4 * 96)  # A4 less the margins, in CSS pixels
    paper = tmp_path / "paper"
    paper.mkdir()
    style = written.read_text().replace("@media print", "@media all")
    (paper / "report.html").write_text(style)
    assert audit(paper / "report.html", paper, max(print_width, 500), False)["widest_table"] <= print_width
