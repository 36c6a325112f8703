"""python -m harness.published: an older spelling of `harness published`."""

import sys

from harness.commands.published import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
