"""harness +experiment=NAME ...: compose -> plan -> launch -> analyse -> report."""

import errno
import sys
from collections.abc import Sequence

from harness.commands.entry import command, find_own_classes, print_error
from harness.commands.help import print_help_if_asked
from harness.launch.drain import Drain, Interrupted
from harness.plan.exit_codes import ExitCode

# Faults of a file system, as opposed to faults of a program.
FOLDER_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
TAKE_OVER = "--take-over"  # continue a study although a driver on another machine seems to be alive


@command
def main(arguments: Sequence[str]) -> int:
    """One experiment, from its overrides to its report."""
    if print_help_if_asked(arguments):
        return ExitCode.DONE
    find_own_classes()
    drain, take_over = Drain(), TAKE_OVER in arguments
    try:
        with drain:
            from harness.config.arguments import command_line

            config = command_line([argument for argument in arguments if argument != TAKE_OVER])
            if config is None:
                return ExitCode.DONE  # only a look at the configuration was asked for
            from harness.commands.session import run  # torch and the analysis come with it

            return run(config, drain, take_over)
    except OSError as error:
        if error.errno not in FOLDER_FAULTS:
            raise
        where = error.filename or "the study folder"
        print_error(
            f"{where}: {error.strerror}; what is written stays valid: run the same command again to resume once "
            "that is fixed"
        )
        return ExitCode.UNWRITABLE
    except Interrupted:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return drain.exit_code
    except KeyboardInterrupt:
        print("stopped at once: run the same command again to resume from the last checkpoints", file=sys.stderr)
        return ExitCode.INTERRUPTED
