"""What measures a study's configurations without running trials: the timing pass and the doctor."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.launch.gang import Gang
from harness.launch.tasks import Cluster

Row = Mapping[str, Any]  # JSON-able


class Gangs(Protocol):
    """Gangs for exclusive use, created when they are first asked for."""

    @property
    def cluster(self) -> Cluster: ...

    def of(self, world_size: int, device: str | None = None) -> Gang:
        """The gang of this many workers; without a device, on the cluster's."""
        ...

    def drop(self, world_size: int, device: str | None = None) -> None:
        """End a gang that failed, which must never be used again (P21)."""
        ...


@runtime_checkable
class Measures(Protocol):
    """Anything that measures on gangs and returns plain rows, which its caller prints and writes."""

    def measure(self, gangs: Gangs, study: Path) -> Iterator[Row]:
        """One row after another, as each is measured; `study` is the study's folder."""
        ...
