"""What every command shares: how it reads its arguments, reports an error and prints."""

import argparse
import functools
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from harness.config.own_classes import UntrustedError
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.printable import printable

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
    print("error:", *printable(str(error)).split("\n"), file=sys.stderr)


def make_console() -> "Console":
    """Standard output as a terminal with its own width, or as a log of `LOG_WIDTH` columns. What it prints is text:
    neither markup nor commands to the terminal."""
    from rich.console import Console  # `harness train` also runs where rich is not installed
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    console = PlainConsole(markup=False, emoji=False)
    return console if console.is_terminal else PlainConsole(markup=False, emoji=False, width=LOG_WIDTH)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """--trust: import what the study names of its user's own."""
    parser.add_argument("--trust", action="store_true", help="import the classes of your own that the study names")


def trusting(name: str, arguments: Sequence[str], given: argparse.Namespace, run: Callable[[], int]) -> int:
    """`run()`, which reads a study; with --trust the user's own classes can be imported, without it an error about them
    ends with the command `name`, with --trust, that would."""
    if given.trust:
        find_own_classes()
    try:
        return run()
    except UntrustedError as error:
        end = arguments.index("--") if "--" in arguments else len(arguments)
        with_trust = shlex.join(["harness", name, *arguments[:end], "--trust", *arguments[end:]])
        raise UserError(f"{error}; nothing of it was run. If you trust it: {with_trust}") from error


def find_own_classes() -> None:
    """Make the user's classes in the working directory importable: for commands that run them, and no others (P29)."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
