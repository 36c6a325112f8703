"""Draws the plots of a section: nothing here knows what was asked."""

import math
import textwrap
from itertools import pairwise

from harness.analyse.sections import Plot, Section, Series
from harness.report.canvas import Canvas, Figure, draw
from harness.statistics.words import number

Y_CHARACTERS = 42  # of one line along the figure's height
LABELS = 7  # values of x, as of batch sizes, with a label each
APART = 1.4  # factor between neighbours that leaves room for their labels
MARKS = 40  # markers, each with its hover text, along one series


def figures_of(section: Section) -> list[Figure]:
    """One figure for each of its plots, in their order."""
    return [_figure(plot) for plot in section.plots]


def _figure(plot: Plot) -> Figure:
    def paint(canvas: Canvas) -> None:
        for index, series in enumerate(plot.series):
            _paint(canvas, index, plot, series)
        for mark in plot.references:
            canvas.mark(mark.at, mark.label, mark.axis)
        for axis, base in (("x", plot.x_log), ("y", plot.y_log)):
            if base is not None:
                canvas.log(axis, base)
        measured = sorted(
            {x for one in plot.series if one.kind not in ("curve", "band") for x in one.x if _shown(x, plot.x_log)}
        )
        has_room = 0 < len(measured) <= LABELS and all(b >= APART * a for a, b in pairwise(measured))
        if plot.x_log == 2 and has_room:
            canvas.label_x(measured)
        canvas.axes.set_xlabel(plot.x_label)
        canvas.axes.set_ylabel(textwrap.fill(plot.y_label, Y_CHARACTERS))

    columns = ["series", plot.x_label, plot.y_label]
    columns += ["low", "high"] if any(series.low is not None for series in plot.series) else []
    columns += ["what the interval is"] if any(series.interval is not None for series in plot.series) else []
    rows = [
        [series.label, *map(number, point), series.interval[i] if series.interval else ""][: len(columns)]
        for series in plot.series
        for i, point in enumerate(_points(series))
    ]
    rows += [
        [mark.label, *((number(mark.at), "") if mark.axis == "x" else ("", number(mark.at)))]
        for mark in plot.references
    ]
    rows = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return draw(plot.name, plot.title, plot.alt, columns, rows, paint)


def _points(series: Series) -> list[tuple[float, float, float, float]]:
    """(x, y, low, high) of every point; nan where there is no interval."""
    none = [math.nan] * len(series.x)
    return list(zip(series.x, series.y, series.low or none, series.high or none, strict=True))


def _paint(canvas: Canvas, index: int, plot: Plot, series: Series) -> None:
    """One series; what is not finite, or not positive on a logarithmic axis, is in the data only."""
    kept = [i for i, (x, y, _, _) in enumerate(_points(series)) if _shown(x, plot.x_log) and _shown(y, plot.y_log)]
    if not kept:
        return
    points = [_points(series)[i] for i in kept]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if series.kind == "band":
        canvas.band(index, xs, [p[2] for p in points], [p[3] for p in points])
    if series.kind in ("curve", "band"):
        canvas.curve(index, xs, ys, series.label)
        return
    for x, _, low, high in points:
        if _shown(low, plot.y_log) and _shown(high, plot.y_log):
            canvas.interval(index, x, low, high)
    kinds = [series.interval[i] if series.interval else "" for i in kept]
    tips = [
        f"{series.label}: {number(y)} at {number(x)}{_between(low, high, kind)}"
        for (x, y, low, high), kind in zip(points, kinds, strict=True)
    ]
    hollow = None if series.hollow is None else [series.hollow[i] for i in kept]
    every = max(1, len(xs) // MARKS)
    line = series.kind == "line"
    canvas.points(index, series.label, xs, ys, tips, line=line, hollow=hollow, bounds=True, every=every)


def _shown(value: float, log: int | None) -> bool:
    return math.isfinite(value) and (log is None or value > 0)


def _between(low: float, high: float, kind: str) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f" ({number(low)}–{number(high)}{f', {kind}' if kind else ''})"
