"""Draws every schedule of conf/schedule as docs/schedules/schedules.svg: python docs/draw_schedules.py [folder]

Curves are made the way a trial makes them (durations -> updates -> schedule), at two total batch sizes. The same
version of Matplotlib gives the same bytes.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from harness.plan.duration import Duration
from harness.plan.instantiate import instantiate
from harness.plan.schedules import Schedule
from harness.plan.target import Target
from harness.plan.workload import Workload

ROOT = Path(__file__).parent.parent
TRAIN_EXAMPLES, BUDGET_EPOCHS, EVALUATE_EVERY = 1024, 24, 512
TOTAL_BATCH_SIZES = {
    16: {"color": "#0b6e99", "linewidth": 1.6},
    512: {"color": "#d9480f", "linewidth": 1.0, "drawstyle": "steps-post"},  # each stair is an update
}
COLUMNS = 3


def schedule_of(path: Path, total_batch_size: int) -> Schedule:
    """A schedule of conf as a trial of the digits workload would build it."""
    spec: Any = OmegaConf.to_object(OmegaConf.load(path))
    workload = Workload(
        name="digits",
        dataset={},
        model={},
        loss="cross_entropy",
        optimizer_name="sgd",
        optimizer={},
        schedule=spec,
        train_examples=TRAIN_EXAMPLES,
        target=Target("validation_accuracy", 0.97, "max"),
        budget=Duration(BUDGET_EPOCHS, "epochs"),
        base_batch_size=16,
        base_lr=0.08,
        evaluate_every_examples=EVALUATE_EVERY,
    )
    return instantiate(workload.resolved_schedule(total_batch_size))


def draw(axes: Axes, path: Path) -> None:
    """One panel: the LR as a share of its peak, and the momentum where the schedule sets one, against epochs."""
    axes.set_title(path.stem, fontsize=10, loc="left")
    for total_batch_size, style in TOTAL_BATCH_SIZES.items():
        schedule = schedule_of(path, total_batch_size)
        epochs, factors, momenta = [], [], []
        for step in range(BUDGET_EPOCHS * TRAIN_EXAMPLES // total_batch_size):
            examples = step * total_batch_size
            if examples and examples % EVALUATE_EVERY == 0:
                schedule.observe(min(examples / TRAIN_EXAMPLES, 8.0))  # a metric that improves for 8 epochs
            epochs.append(examples / TRAIN_EXAMPLES)
            factors.append(schedule.lr_factor(step))
            momenta.append(schedule.momentum(step))
        axes.plot(epochs, factors, label=f"TBS {total_batch_size}", **style)
        if None not in momenta:
            axes.plot(epochs, momenta, ":", **style)
            axes.text(BUDGET_EPOCHS, momenta[-1] - 0.03, "momentum", ha="right", va="top")
    if path.stem == "range_test_exponential":
        axes.set_yscale("log")
    else:
        axes.set_ylim(-0.03, 1.05)
    axes.set_xlim(0, BUDGET_EPOCHS)
    axes.spines[["top", "right"]].set_visible(False)


def main(folder: Path) -> None:
    paths = sorted((ROOT / "conf" / "schedule").glob("*.yaml"))
    rows = -(-len(paths) // COLUMNS)
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "schedules", "font.size": 8, "path.simplify_threshold": 0.5}
    ):
        figure = Figure(figsize=(3.2 * COLUMNS, 1.9 * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for axes, path in zip(grid.flat, paths, strict=False):
            axes.set_visible(True)
            draw(axes, path)
            if path.stem == "constant":
                axes.legend(loc="lower right", frameon=False, fontsize=7)
        figure.supxlabel("epochs")
        figure.supylabel("LR / peak LR")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "schedules.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "schedules")
