"""Draws one figure: SVG and PNG for a file, and an inline SVG for the page with series and hover values marked."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harness.plan.printable import printable
from harness.report.numbers import tick
from harness.report.palette import DASHES, LIGHT, MARKERS, SERIES_LIGHT, as_variables

SIZE_INCHES = (4.8, 3.5)  # small enough that its text stays readable at the width of a phone
DPI = 144
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.usetex": False,  # matplotlib also reads a matplotlibrc of the working directory, which need not be ours
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.facecolor": LIGHT["ground"],
    "figure.facecolor": LIGHT["ground"],
    "savefig.facecolor": LIGHT["ground"],
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["grid"],
    "legend.fontsize": 9,
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure with the words and the numbers that say the same."""

    name: str  # of its files
    title: str
    alt: str  # the finding in words
    columns: Sequence[str]  # of the data table
    rows: Sequence[Sequence[str]]
    svg: str
    inline: str
    series: dict[int, str]  # names of the numbered series in `inline`
    drawing: Drawing

    def png(self) -> bytes:
        """Drawn when asked for: it takes as long as all of the rest."""
        out = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.drawing.set_dpi(DPI)
            FigureCanvasAgg(self.drawing).print_png(out, metadata={"Software": None})
        return out.getvalue()


class Canvas:
    """Axes on which every mark belongs to a numbered series."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        self.tips: list[Sequence[str]] = []  # of each group of markers
        self.names: dict[int, str] = {}
        self._marks = 0

    def points(
        self,
        series: int,
        label: str,
        xs: Sequence[float],
        ys: Sequence[float],
        tips: Sequence[str],
        *,
        line: bool = True,
        hollow: Sequence[bool] | None = None,
        bounds: bool = False,
        every: int = 1,
    ) -> None:
        """A line with a marker on every `every`-th point, each with its hover text.

        `bounds`: hollow points are bounds only, and no line leads to them.
        """
        colour = SERIES_LIGHT[series % len(SERIES_LIGHT)]
        marker, dash = MARKERS[series % len(MARKERS)], DASHES[series % len(DASHES)]
        is_new = series not in self.names
        self.names.setdefault(series, label)
        if line:
            joined = [math.nan if bounds and hollow and hollow[i] else y for i, y in enumerate(ys)]
            self.axes.plot(xs, joined, color=colour, linestyle=dash, linewidth=1.6, gid=self._mark(series))
        if is_new:
            self.axes.plot([], [], color=colour, linestyle=dash if line else "", marker=marker, label=label)
        marked = range(0, len(xs), every)
        for face, kept in (
            (colour, [i for i in marked if hollow is None or not hollow[i]]),
            (LIGHT["ground"], [i for i in marked if hollow is not None and hollow[i]]),
        ):
            style = {"marker": marker, "color": colour, "markerfacecolor": face, "markersize": 6}
            self._tips(series, [xs[i] for i in kept], [ys[i] for i in kept], [tips[i] for i in kept], **style)

    def stairs(self, series: int, label: str, xs: Sequence[float], ys: Sequence[float]) -> None:
        """A line that keeps each y until the next x, to be marked by `points`."""
        colour, dash = SERIES_LIGHT[series % len(SERIES_LIGHT)], DASHES[series % len(DASHES)]
        marker = MARKERS[series % len(MARKERS)]
        self.names.setdefault(series, label)
        style = {"color": colour, "linestyle": dash, "linewidth": 1.6, "drawstyle": "steps-post"}
        self.axes.plot(xs, ys, gid=self._mark(series), **style)
        self.axes.plot([], [], color=colour, linestyle=dash, marker=marker, label=label)

    def interval(self, series: int, x: float, low: float, high: float) -> None:
        colour = SERIES_LIGHT[series % len(SERIES_LIGHT)]
        self.axes.plot([x, x], [low, high], color=colour, linewidth=1.2, alpha=0.75, gid=self._mark(series))

    def miss(self, series: int, label: str, x: float, y: float, tip: str) -> None:
        """A hollow arrow upwards: the median lies beyond."""
        colour = SERIES_LIGHT[series % len(SERIES_LIGHT)]
        if series not in self.names:
            self.names[series] = label
            self.axes.plot([], [], color=colour, marker=MARKERS[series % len(MARKERS)], linestyle="", label=label)
        style = {"marker": r"$\Uparrow$", "color": colour, "markerfacecolor": LIGHT["ground"], "markersize": 12}
        self._tips(series, [x], [y], [tip], **style)

    def ring(self, x: float, y: float, label: str) -> None:
        """A ring about one point."""
        ring = {"marker": "o", "linestyle": "", "markersize": 17, "markerfacecolor": "none", "markeredgewidth": 1.6}
        self.axes.plot([x], [y], color=LIGHT["ink"], label=label, **ring)

    def band(self, series: int, xs: Sequence[float], low: Sequence[float], high: Sequence[float]) -> None:
        colour = SERIES_LIGHT[series % len(SERIES_LIGHT)]
        self.axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0, gid=self._mark(series))

    def curve(self, series: int, xs: Sequence[float], ys: Sequence[float], label: str | None = None) -> None:
        """A fitted curve: thin, without markers; `label` for one that stands alone."""
        colour = SERIES_LIGHT[series % len(SERIES_LIGHT)]
        self.axes.plot(xs, ys, color=colour, linewidth=1.1, linestyle="-", gid=self._mark(series), label=label)
        if label is not None:
            self.names.setdefault(series, label)

    def reference(self, xs: Sequence[float], ys: Sequence[float], label: str) -> None:
        self.axes.plot(xs, ys, color=LIGHT["muted"], linestyle=(0, (6, 4)), linewidth=1.1, label=label)

    def mark(self, at: float, label: str, axis: str) -> None:
        """A straight dashed line at a value of the axis `x` (vertical) or `y` (horizontal)."""
        line = self.axes.axvline if axis == "x" else self.axes.axhline
        line(at, color=LIGHT["muted"], linestyle=(0, (6, 4)), linewidth=1.1, label=label)

    def log(self, axis: str, base: int) -> None:
        """A logarithmic axis `x` or `y` whose labels have no exponents."""
        (self.axes.set_xscale if axis == "x" else self.axes.set_yscale)("log", base=base)
        drawn = self.axes.xaxis if axis == "x" else self.axes.yaxis
        low, high = drawn.get_view_interval()
        between = (1.0, 1.25, 1.5, 1.75) if base == 2 else (1.0, 2.0, 5.0)
        is_narrow = high < (6 if base == 2 else 60) * low  # holds few powers of the base
        subs = between if is_narrow else (1.0,)
        if base == 10 and high < 2 * low:  # LogLocator would place as many labels as on a linear axis, which overlap
            drawn.set_major_locator(MaxNLocator(4))
        else:
            drawn.set_major_locator(LogLocator(base=base, subs=subs, numticks=9))
        drawn.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        drawn.set_minor_locator(NullLocator())

    def log2(self, x: bool, y: bool, ticks: Sequence[float] = ()) -> None:
        """Base-2 logarithms; `ticks` are the values of x that get a label."""
        for wanted, axis in ((x, "x"), (y, "y")):
            if wanted:
                self.log(axis, 2)
        if len(ticks):
            self.label_x(ticks)

    def label_x(self, ticks: Sequence[float]) -> None:
        """These values of x get a label, and no others."""
        self.axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
        self.axes.xaxis.set_minor_locator(NullLocator())
        self.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        if len(ticks) > 7:
            self.axes.tick_params(axis="x", labelrotation=45)

    def _mark(self, series: int) -> str:
        self._marks += 1
        return f"s{series}-{self._marks}"

    def _tips(self, series: int, xs: Sequence[float], ys: Sequence[float], texts: Sequence[str], **style: Any) -> None:
        """Markers of one look as one artist: a hundred of one point each take as long as the rest of the figure."""
        if texts:
            self.tips.append(texts)
            self.axes.plot(xs, ys, linestyle="", gid=f"t{len(self.tips) - 1}-s{series}", **style)


def draw(
    name: str,
    title: str,
    alt: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    paint: Callable[[Canvas], None],
) -> Figure:
    """Paint one figure; the same findings give the same bytes."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        drawing = Drawing(figsize=SIZE_INCHES)
        drawing.subplots_adjust(left=0.17, right=0.98, top=0.97, bottom=0.15)  # room for "32,768" and two labels
        axes = drawing.add_subplot()
        canvas = Canvas(axes)
        paint(canvas)
        axes.grid(True, which="major")
        axes.set_axisbelow(True)
        # Labels where the margins leave room for them: measuring every tick to find their place takes half of the time.
        axes.yaxis.set_label_coords(-0.165, 0.5)
        axes.xaxis.set_label_coords(0.5, -0.12)
        legend = None
        if len(axes.get_legend_handles_labels()[0]) > 1:
            # Where it has to lie over points, they shine through, and its words can still be read.
            ground = {"facecolor": LIGHT["ground"], "edgecolor": "none", "framealpha": 0.8}
            legend = axes.legend(handlelength=2.6, **ground)
        for text in drawing.findobj(Text):
            text.set_parse_math(False)  # a name with dollar signs is a name
            text.set_text(printable(text.get_text()))
        if legend is not None:
            _place_legend(legend, FigureCanvasAgg(drawing))
        out = io.StringIO()
        # Not savefig: it draws everything a first time to measure it, which no fixed layout needs.
        FigureCanvasSVG(drawing).print_svg(out, metadata={"Date": None, "Creator": None})
    inline = _inline(name, out.getvalue(), alt, canvas)
    return Figure(name, title, alt, columns, rows, out.getvalue(), inline, canvas.names, drawing)


def _place_legend(legend: Legend, canvas: FigureCanvasAgg) -> None:
    """Fix the best place, which would be searched for twice in every drawing."""
    box = legend.get_window_extent(canvas.get_renderer())
    legend.set_loc(tuple(legend.axes.transAxes.inverted().transform(box.min)))


def _inline(name: str, svg: str, alt: str, canvas: Canvas) -> str:
    """The SVG as an element of the page: ids of its own, themed, described, series and hover values marked."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(
        r'<g id="t(\d+)-s(\d+)">.*?</g>',
        lambda m: _with_tips(m[0], canvas.tips[int(m[1])], m[2]),
        body,
        flags=re.DOTALL,
    )
    body = re.sub(r'\bid="s(\d+)-\d+">', r'data-series="\1">', body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"\s*\n\s*", "\n", body)
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    head = f'<svg role="img" aria-label="{escape(alt)}" {view[0]} xmlns="http://www.w3.org/2000/svg">'
    return as_variables(re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)).strip()


def _with_tips(group: str, texts: Sequence[str], series: str) -> str:
    """A group of markers with a hover text on each."""
    texts = list(texts) if group.count("<use ") == len(texts) else []  # a point outside of the drawing has no mark
    group = re.sub(r'<g id="[^"]*">', f'<g data-series="{series}">', group, count=1)
    said = iter(texts)
    return re.sub(r"<use ([^>]*?)/>", lambda m: _tip(m[1], next(said, None)), group)


def _tip(attributes: str, text: str | None) -> str:
    return (
        f"<use {attributes}/>" if text is None else f'<use class="tip" {attributes}><title>{escape(text)}</title></use>'
    )
