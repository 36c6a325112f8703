"""A report whose every section is tried: one that fails is named, and the rest is written."""

import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.plan.errors import UserError, one_line
from harness.statistics import words

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))


class Attempts:
    """Collects what failed; faults of what the user gave (UserError) are not for a report and are raised."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def of(self, section: str, make: Callable[[], Result], instead: Result) -> Result:
        """What `make` gives, or `instead` after a line on the failure of `section`."""
        try:
            return make()
        except UserError:
            raise
        except Exception as error:  # whatever it is, the other sections are worth having
            self.failed.append(words.section_failed(section, f"{one_line(error)}{_place(error)}"))
            return instead


def _place(error: Exception) -> str:
    """Where in our code, or in the user's, it was raised: ` (harness/report/page.py, line 12)`; no folder of this
    machine."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "harness"):
            return f" ({path.relative_to(ROOT)}, line {frame.lineno})"
        if not frame.filename.startswith(LIBRARIES):
            return f" ({path.name}, line {frame.lineno})"
    return ""
