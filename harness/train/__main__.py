"""python -m harness.train: an older spelling of `harness train`."""

import sys

from harness.commands.train import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
