"""python -m harness.submit: an older spelling of `harness submit`."""

import sys

from harness.commands.submit import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
