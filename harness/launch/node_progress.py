"""Whether a node that loads data makes progress, however long it takes: a file there, read by the driver."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from harness.datasets.progress import listening
from harness.record.files import write_whole

BEAT_S = 5.0
# What counts as progress between two beats, of this process and its children, where they announce none themselves.
ACTIVE_CPU_S = 0.25
ACTIVE_BYTES = 1 << 20


@contextmanager
def showing_progress(path: Path) -> Iterator[None]:
    """Inside, every BEAT_S in which there was progress writes the number of such beats to `path`, and the last line
    that was announced."""
    lines: list[str] = []
    over = threading.Event()

    def beat() -> None:
        beats, told, before = 0, 0, _activity()
        while not over.wait(BEAT_S):
            now = _activity()
            if len(lines) > told or now[0] - before[0] >= ACTIVE_CPU_S or now[1] - before[1] >= ACTIVE_BYTES:
                beats, told, before = beats + 1, len(lines), now
                with suppress(OSError):
                    write_whole(path, f"{beats}\n{lines[-1] if lines else ''}")

    thread = threading.Thread(target=beat, name="node-progress", daemon=True)
    thread.start()
    try:
        with listening(lines.append):
            yield
    finally:
        over.set()
        thread.join()


def read_progress(path: Path) -> tuple[str, str]:
    """(number of beats, last line) as the node has last written them; empty before."""
    try:
        list(path.parent.iterdir())  # network file systems show a new file once its folder is listed
        beats, _, line = path.read_text(encoding="utf-8").partition("\n")
    except OSError:
        return "", ""
    return beats, line


def _activity() -> tuple[float, float]:
    """Seconds of CPU and bytes written so far by this process and its children."""
    cpu_s, written = 0.0, 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error, AttributeError):  # it has ended, or this system does not count what it writes
            cpu_s += sum(process.cpu_times()[:2])
            written += process.io_counters().write_chars  # pyright: ignore[reportAttributeAccessIssue]
    return cpu_s, written
