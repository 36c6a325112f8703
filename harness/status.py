"""python -m harness.status: an older spelling of `harness status`."""

import sys

from harness.commands.status import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
