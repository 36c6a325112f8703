"""python -m harness.track: an older spelling of `harness track`."""

import sys

from harness.commands.track import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
