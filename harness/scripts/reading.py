"""What every reader of a script's metrics gives, whatever the script writes them to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, get_args

Unit = Literal["updates", "examples", "tokens", "epochs"]
UNITS: Final[tuple[str, ...]] = get_args(Unit)


@dataclass(frozen=True)
class Reading:
    """One row of a script: its metrics after `progress`, which is in the reader's `unit`.

    Metrics hold every number of the row that is not progress, non-finite ones included, by the name the script gives
    them; presets rename the training loss to `train_loss` and the learning rate to `lr`. Two readings may have the same
    progress: scripts write training and validation metrics in rows of their own.
    """

    progress: float
    metrics: Mapping[str, float]
    at: float  # seconds since 1970: the row's own time where it has one, otherwise when it was read
    counts: Mapping[str, float] = field(default_factory=dict)  # by unit: other counters of the row, to check the TBS by


class Reader(Protocol):
    """Follows one script's metrics; the same memory for any amount of output."""

    @property
    def unit(self) -> Unit:
        """What `Reading.progress` counts."""
        ...

    @property
    def behind(self) -> bool:
        """Whether more was written than the last `poll` has read: poll again at once."""
        ...

    @property
    def missing(self) -> str | None:
        """What has not been seen yet, e.g. "a file out/log.jsonl", for an error message; None after a reading."""
        ...

    def skip(self) -> None:
        """Leave out everything written so far: before a script starts in a folder that an earlier attempt has used."""
        ...

    def poll(self) -> list[Reading]:
        """New complete rows, in the order written; a torn last line waits for its rest."""
        ...

    def finish(self) -> list[Reading]:
        """All remaining rows once the script has ended; a last line then needs no newline."""
        ...
