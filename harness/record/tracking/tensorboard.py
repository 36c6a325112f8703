"""TensorBoard event files of a study: one folder per trial, the metrics of W&B, examples on the x axis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.tracking.runs import AXES, TrialPlan, metrics_of

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class TensorBoardFiles:
    """Writes <study>/tensorboard/<trial's name>/<topology>; `tensorboard --logdir <study>/tensorboard` shows them.

    The x axis is examples seen, so that curves of different total batch sizes can be compared.
    """

    name = "TensorBoard"

    def __init__(self, study: Path) -> None:
        self.folder = study / "tensorboard"
        self._open: dict[str, tuple[SummaryWriter, TrialPlan]] = {}

    def open(self, plan: TrialPlan, attempt: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Continue after `rows`, which an earlier attempt wrote; what it wrote beyond them is purged."""
        from tensorboardX import SummaryWriter

        trial = plan.name.replace("/", "+").replace(" ", "_")
        resumed = int(rows[-1]["examples"]) + 1 if rows else 0
        folder = self.folder / trial / plan.planned.topology.key
        writer = SummaryWriter(str(folder), purge_step=resumed, write_to_disk=True)
        self._open[plan.planned.key] = writer, plan

    def log(self, trial: str, rows: Sequence[Mapping[str, Any]]) -> None:
        writer, plan = self._open[trial]
        for row in rows:
            metrics = metrics_of(row, plan.settings.averaging.decide_on)
            for name, value in metrics.items():
                if name not in AXES:
                    writer.add_scalar(name, value, int(row["examples"]))

    def finish(self, trial: str, summary: Mapping[str, Any], success: bool) -> None:
        """Adds the summary as text next to the curves: TensorBoard's own table needs the whole sweep at once."""
        writer, _ = self._open.pop(trial)
        writer.add_text("summary", "\n".join(f"- {name}: {value}" for name, value in sorted(summary.items())))
        writer.close()

    def close(self) -> None:
        for writer, _ in self._open.values():
            writer.close()
        self._open.clear()
