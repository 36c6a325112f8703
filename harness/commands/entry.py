"""What every command shares: how it reads its arguments, reports an error and prints."""

import argparse
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol

from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 140  # a log has no width, and a table cut to 80 columns is unreadable


class EntryPoint(Protocol):
    """A command as called from the command line or a test; arguments default to the command line."""

    def __call__(self, arguments: Sequence[str] | None = None, /) -> int: ...


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors look like all others: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def command(run: Callable[[Sequence[str]], int]) -> EntryPoint:
    """`run` as an entry point: arguments default to sys.argv, and a UserError becomes one line and exit code 2."""

    @functools.wraps(run)
    def main(arguments: Sequence[str] | None = None, /) -> int:
        print_whatever_the_encoding()
        try:
            return int(run(sys.argv[1:] if arguments is None else arguments))
        except UserError as error:
            print_error(error)
            return ExitCode.BAD_INPUT
        except OSError as error:
            if error.filename is None:
                raise
            print_error(f"{error.filename}: {error.strerror}")
            return ExitCode.UNWRITABLE

    return main


def print_whatever_the_encoding() -> None:
    """Print a character that standard output cannot show as its number, e.g. \\u2265, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_error(error: Exception | str) -> None:
    """Print one line on stderr, even if the message has line breaks."""
    print("error:", *str(error).split("\n"), file=sys.stderr)


def make_console() -> "Console":
    """Standard output as a terminal with its own width, or as a log of `LOG_WIDTH` columns."""
    from rich.console import Console  # `harness train` also runs where rich is not installed

    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def find_own_classes() -> None:
    """Make the user's classes in the working directory importable for every command, as in `python -m harness`."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
