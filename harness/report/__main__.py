"""python -m harness.report: an older spelling of `harness report`."""

import sys

from harness.commands.report import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
