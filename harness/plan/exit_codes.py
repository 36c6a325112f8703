"""What every command of ours returns: one table, the same in docs/commands.md."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `harness` and all its subcommands; a caller can branch on them."""

    DONE = 0
    FAILED = 1  # trials, a check of doctor or a section of a report failed, or an upload is incomplete
    BAD_INPUT = 2  # one line on stderr says what was given and what is allowed
    SLOWER = 3  # harness report A B --fail-if-slower: the second study is established to be slower
    UNWRITABLE = 74  # EX_IOERR of sysexits.h: the study folder cannot be written
    PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: SIGTERM, SIGUSR1 or lost nodes; run the same command again to resume
    INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C
