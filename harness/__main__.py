"""python -m harness +experiment=NAME ...: compose -> plan -> launch -> analyse -> report."""

import errno
import os
import sys

from harness.launch.drain import INTERRUPTED, Drain, Interrupted
from harness.plan.errors import UserError

BAD_INPUT = 2
UNWRITABLE = 74  # EX_IOERR of sysexits.h
# What happens to a file system, as opposed to what a program gets wrong.
FOLDER_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


def main() -> int:
    """The command line; returns the exit code (docs: exit codes)."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # `harness` finds a user's own classes where `python -m harness` does
    drain = Drain()
    try:
        with drain:
            from harness.config.arguments import command_line

            config = command_line(sys.argv[1:])
            if config is None:
                return 0  # help or a look at the configuration was asked for
            from harness.session import run

            return run(config, drain)
    except UserError as error:
        print("error:", *str(error).split("\n"), file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in FOLDER_TROUBLE:
            raise
        where = f"{error.filename}: " if error.filename else "the study folder: "
        print(
            f"error: {where}{error.strerror}; what is written stays valid, and the same command goes on once that is "
            "put right",
            file=sys.stderr,
        )
        return UNWRITABLE
    except Interrupted:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return drain.exit_code
    except KeyboardInterrupt:
        print("stopped at once: the same command goes on from the last checkpoints", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
