"""A study's results in W&B: table, figures and files in one run, and a report document (harness.report.wandb_report) as
a W&B Report: created or updated online, as its spec offline."""

import json
import random
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.plan.errors import UserError
from harness.plan.settings import fingerprint
from harness.record.files import read_json, write_json, write_whole
from harness.record.tracking.alerts import Alert
from harness.record.tracking.project import WandbProject
from harness.record.tracking.public_files import without_paths, write_public_files

KEPT = "report.json"  # in the study's wandb folder: what has been published from it, by server and project
HEADINGS = {1: "H1", 2: "H2"}
SPEC = "report_spec.json"
CHART = "harness-to-target"  # the preset's name among the entity's charts begins with this
FIGURE_COLUMNS = 3
WIDTH, HEIGHT = 24, 9  # W&B's grid is 24 columns wide


def publish(
    project: WandbProject, document: Mapping[str, Any], results: Callable[[], Path], alert: Alert | None = None
) -> str:
    """Log the results, then create or update the study's report; returns its address. What is unchanged is not sent
    again. `results` is asked for a folder with the study's files as they are now.

    UserError if the optional package is not installed: the results are logged without it.
    """
    api = project.wandb.Api()
    entity, name = str(project.destination.entity), project.destination.project
    key = f"{api.settings['base_url']}/{entity}/{name}/{project.label.uid}"
    path = project.study / "wandb" / KEPT
    path.parent.mkdir(exist_ok=True)
    kept = read_json(path)
    kept = kept if isinstance(kept, dict) else {}
    published, content = kept.get(key), fingerprint(document)
    published = dict(published) if isinstance(published, dict) else {}
    # The results are logged first: a report cannot be saved in a project that does not exist yet.
    if published.get("results") != content:
        figures = log_results(project, document["table"], results(), alert)
        published |= {"results": content, "figures": figures}
        write_json(path, {**kept, key: published})
    elif alert is not None:
        log_alert(project, alert)
    reports = _package()
    if published.get("content") == content and "url" in published:
        return str(published["url"])
    chart = _preset(api, entity, document["chart"])
    with _same_random_numbers_after():
        place = {"entity": entity, "project": name}
        report = _build(reports, document, place, project.label.group, chart, published.get("figures", []))
        report.id = published.get("id", "")
        report.save()
    published |= {"id": report.id, "url": report.url, "content": content}
    write_json(path, {**kept, key: published})
    return str(report.url)


def log_results(project: WandbProject, table: Mapping[str, Any], folder: Path, alert: Alert | None) -> list[str]:
    """Log the table, the figures as images and the study's files as an artifact; returns the keys of the figures."""
    wandb = project.wandb
    figures = {_figure_key(path): wandb.Image(str(path)) for path in _figures(folder)}
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", f"results-{project.label.group}")[:128], type="results")
    with TemporaryDirectory() as public, project.report_run() as run:
        for path in write_public_files(folder, Path(public)):
            artifact.add_file(str(path))
        rows: list[Any] = [list(row) for row in table["rows"]]
        run.log({table["name"]: wandb.Table(columns=list(table["columns"]), data=rows), **figures})
        run.log_artifact(artifact)
        if alert is not None:
            project.send_alert(run, alert)
    return list(figures)


def log_alert(project: WandbProject, alert: Alert) -> None:
    """Send an alert about the whole sweep."""
    with project.report_run() as run:
        project.send_alert(run, alert)


def _figures(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.png"))


def _figure_key(path: Path) -> str:
    return f"figures/{path.stem}"


def write_spec(folder: Path, document: Mapping[str, Any], group: str) -> Path:
    """Write the report as it would be saved to <study>/wandb/report_spec.json; needs no server. Raises as `publish`."""
    reports = _package()
    with _same_random_numbers_after():
        # Entity and project would be looked up on a server, so the run sets get them only when it is published.
        report = _build(reports, document, {}, group, CHART, [_figure_key(path) for path in _figures(folder)])
        text = report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)  # what save() sends
    path = folder / "wandb" / SPEC
    path.parent.mkdir(exist_ok=True)
    write_whole(path, json.dumps(json.loads(text), indent=1) + "\n")
    return path


def _package() -> Any:
    try:
        with _same_random_numbers_after(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package is written for an older pydantic
            import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise UserError(
            "W&B reports need the package wandb-workspaces, which is not installed: pip install wandb-workspaces"
        ) from error
    return reports


@contextmanager
def _same_random_numbers_after() -> Any:
    """Restores Python's global random state, from which importing the package and building a report draw."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _preset(api: Any, entity: str, spec: Mapping[str, Any]) -> str:
    """The id of our chart preset, created once per entity: the same name is rejected the second time. A preset cannot
    be changed, so its name includes a fingerprint of its content."""
    name = f"{CHART}-{fingerprint(spec, 6)}"
    try:
        return str(
            api.create_custom_chart(
                entity=entity,
                name=name,
                display_name="to target by total batch size",
                spec_type="vega2",
                access="private",
                spec=dict(spec),
            )
        )
    except Exception:  # from wandb's internals: the preset exists, or the server has no custom charts
        return f"{entity}/{name}"


def _build(
    wr: Any,
    document: Mapping[str, Any],
    project: Mapping[str, str],
    group: str,
    chart: str,
    figures: Sequence[str],
) -> Any:
    blocks = [wr.TableOfContents()]
    for block in document["blocks"]:
        if "heading" in block:
            blocks.append(getattr(wr, HEADINGS[block["level"]])(text=block["heading"]))
            continue
        if "markdown" in block:
            blocks.append(wr.MarkdownBlock(text=without_paths(block["markdown"])))
            continue
        runs = _runset(wr, block, project, group)
        panels = [_panel(wr, panel, document["table"]["name"], chart, figures) for panel in block["panels"]]
        width = WIDTH // len(panels)
        for number, panel in enumerate(panels):
            panel.layout = wr.Layout(x=number * width, y=0, w=width, h=HEIGHT)
        blocks.append(wr.PanelGrid(runsets=[runs], panels=panels))
    content = {"title": document["title"], "description": document["description"], "width": "fluid", "blocks": blocks}
    return wr.Report(**{"project": "offline", "entity": "offline", **project}, **content)


def _runset(wr: Any, block: Mapping[str, Any], project: Mapping[str, str], group: str) -> Any:
    """Only finished runs of this study: superseded and failed runs are not shown as data."""
    job = "trial" if block["runs"] == "trials" else "report"
    filters = f"Group = '{group}' and JobType = '{job}' and State = 'finished'"
    grouping = [f"config.{key}" for key in block["group_by"]]
    return wr.Runset(**project, name=f"{job}s of {group}", filters=filters, groupby=grouping)


def _panel(wr: Any, panel: Mapping[str, Any], table: str, chart: str, figures: Sequence[str]) -> Any:
    if "figures" in panel:
        return wr.MediaBrowser(title=panel["figures"], media_keys=list(figures), num_columns=FIGURE_COLUMNS)
    if "chart" in panel:
        drawn = wr.CustomChart.from_table(
            table, chart_fields=panel["chart"]["fields"], chart_strings={"title": panel["chart"]["title"]}
        )
        drawn.chart_name = chart
        return drawn
    if "scatter" in panel:
        x, y = panel["scatter"]["x"], panel["scatter"]["y"]
        vertical = wr.Config(y) if panel["scatter"]["y_is_config"] else wr.SummaryMetric(y)
        return wr.ScatterPlot(title=f"{y} over {x}", x=wr.Config(x), y=vertical, log_x=True, log_y=True)
    x, y = panel["line"]["x"], panel["line"]["y"]
    return wr.LinePlot(
        title=f"{y} over {x}", x=x, y=[y], groupby_aggfunc="mean", groupby_rangefunc="minmax", max_runs_to_show=100
    )
