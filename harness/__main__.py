"""python -m harness +experiment=NAME ...: compose -> plan -> launch -> analyse -> report."""

import sys

from harness.plan.errors import UserError

BAD_INPUT, FAILED_TRIALS, INTERRUPTED = 2, 1, 130


def main() -> int:
    """The command line; returns the exit code (docs: exit codes)."""
    from harness.config.arguments import command_line

    try:
        config = command_line(sys.argv[1:])
        if config is None:
            return 0  # help or a look at the configuration was asked for
        from harness.session import run

        return run(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
