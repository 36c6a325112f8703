"""A report document (harness.report.wandb_report) as a W&B Report: created or updated online, as its spec offline."""

import json
import random
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError
from harness.plan.settings import fingerprint
from harness.record.files import read_json, write_json, write_whole
from harness.record.tracking.project import WandbProject

KEPT = "report.json"  # in the study's wandb folder: ids of the report published from it, by server and project
SPEC = "report_spec.json"
CHART = "harness-to-target"  # the preset's name among the entity's charts begins with this
WIDTH, HEIGHT = 24, 9  # W&B's grid is 24 columns wide


def publish(project: WandbProject, document: Mapping[str, Any]) -> str:
    """Create or update the study's report; returns its address. An unchanged report is not sent again.

    UserError if the optional package is not installed.
    """
    reports = _package()
    api = project.wandb.Api()
    entity, name = str(project.destination.entity), project.destination.project
    key = f"{api.settings['base_url']}/{entity}/{name}/{project.label.uid}"
    path = project.study / "wandb" / KEPT
    path.parent.mkdir(exist_ok=True)
    kept = read_json(path)
    kept = kept if isinstance(kept, dict) else {}
    published, content = kept.get(key), fingerprint(document)
    published = published if isinstance(published, dict) and {"id", "url"} <= published.keys() else {}
    if published.get("content") == content:
        return str(published["url"])
    table = document["table"]
    # The table is logged first: a report cannot be saved in a project that does not exist yet.
    project.log_table(project.label.report_run_id, table["name"], table["columns"], table["rows"])
    chart = _preset(api, entity, document["chart"])
    with _same_random_numbers_after():
        report = _build(reports, document, {"entity": entity, "project": name}, project.label.group, chart)
        report.id = published.get("id", "")
        report.save()
    write_json(path, {**kept, key: {"id": report.id, "url": report.url, "content": content}})
    return str(report.url)


def write_spec(folder: Path, document: Mapping[str, Any], group: str) -> Path:
    """Write the report as it would be saved to <study>/wandb/report_spec.json; needs no server. Raises as `publish`."""
    reports = _package()
    with _same_random_numbers_after():
        # Entity and project would be looked up on a server, so the run sets get them only when it is published.
        report = _build(reports, document, {}, group, CHART)
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


def _build(wr: Any, document: Mapping[str, Any], project: Mapping[str, str], group: str, chart: str) -> Any:
    blocks = [wr.TableOfContents()]
    for block in document["blocks"]:
        if "markdown" in block:
            blocks.append(wr.MarkdownBlock(text=block["markdown"]))
            continue
        runs = _runset(wr, block, project, group)
        panels = [_panel(wr, panel, document["table"]["name"], chart) for panel in block["panels"]]
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


def _panel(wr: Any, panel: Mapping[str, Any], table: str, chart: str) -> Any:
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
