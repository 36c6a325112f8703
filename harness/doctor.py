"""python -m harness.doctor: an older spelling of `harness doctor`."""

import sys

from harness.commands.doctor import Doctor, main

__all__ = ["Doctor", "main"]

if __name__ == "__main__":
    sys.exit(main())
