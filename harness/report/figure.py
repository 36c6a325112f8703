"""The main figure: epochs to target over TBS, log2-log2, a line per rule, misses as hollow arrows."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from harness.analyse.findings import ArmFinding, Findings

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe-Ito: told apart by colour-blind readers; marker and dash tell them apart in grey.
STYLES = [
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#000000", "v", "-"),
]
DETERMINISTIC: dict[Any, Any] = {
    "svg.hashsalt": "harness",
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_epochs(findings: Findings, folder: Path) -> list[Path]:
    """Write epochs_to_target.svg and .png; the same findings give the same bytes."""
    lines: dict[str, list[ArmFinding]] = {}
    for arm in findings.arms:
        if arm.n:
            lines.setdefault(arm.label, []).append(arm)
    with plt.rc_context(DETERMINISTIC):
        figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
        ticks = sorted({arm.total_batch_size for arms in lines.values() for arm in arms})
        for number, (label, arms) in enumerate(lines.items()):
            _draw_line(axes, label, arms, STYLES[number % len(STYLES)], (number - (len(lines) - 1) / 2) * 0.012)
        _draw_perfect(axes, lines)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("total batch size (examples per update)")
        axes.set_ylabel("epochs to target")
        axes.set_title(findings.target, fontsize=10, loc="left")
        axes.grid(True, which="major", alpha=0.25)
        axes.legend(frameon=False)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"epochs_to_target.{suffix}" for suffix in ("svg", "png")]
        for path in paths:
            metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
            figure.savefig(path, metadata=metadata, dpi=150)
        plt.close(figure)
    return paths


def _draw_line(axes: Any, label: str, arms: Sequence[ArmFinding], style: tuple[str, str, str], shift: float) -> None:
    colour, marker, dash = style
    reached = [arm for arm in arms if math.isfinite(arm.epochs)]
    xs = [arm.total_batch_size * 2 ** (shift * 10) for arm in reached]
    axes.plot(
        xs, [arm.epochs for arm in reached], color=colour, marker=marker, linestyle=dash, label=label, markersize=6
    )
    for x, arm in zip(xs, reached, strict=True):
        low, high = arm.place.low / arm.train_examples, arm.place.high / arm.train_examples
        if low > 0:
            top = high if math.isfinite(high) else arm.epochs * 4
            axes.plot([x, x], [low, top], color=colour, linewidth=1.2, alpha=0.8)
    for arm in arms:
        if not math.isfinite(arm.epochs):
            x, y = arm.total_batch_size * 2 ** (shift * 10), arm.place.at_least / arm.train_examples
            axes.plot(
                [x], [y if math.isfinite(y) else 1], marker=r"$\uparrow$", color=colour, markersize=13, fillstyle="none"
            )


def _draw_perfect(axes: Any, lines: dict[str, list[ArmFinding]]) -> None:
    """Perfect scaling: a bigger batch that needs no more epochs, from the smallest batch's median."""
    first = [arms[0] for arms in lines.values() if arms and math.isfinite(arms[0].epochs)]
    if first:
        base = min(first, key=lambda arm: arm.total_batch_size)
        axes.axhline(base.epochs, color="0.5", linestyle=(0, (6, 4)), linewidth=1, label="perfect scaling")
