"""`harness` and `python -m harness`: a subcommand, or Hydra overrides, which run `sweep`."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from harness import __version__
from harness.commands.entry import command
from harness.commands.help import COMMANDS, help_text, print_help_if_asked
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode


@command
def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        return import_module(f"harness.commands.{first}").main(arguments[1:])
    if first == "--version" and len(arguments) == 1:
        print(f"harness {__version__}")
        return ExitCode.DONE
    if not arguments:
        print(help_text(), end="")
        return ExitCode.BAD_INPUT
    if {"--shell-completion", "-sc"} & set(arguments):
        import_module("harness.commands.completion").print_completions(arguments)
        return ExitCode.DONE
    if print_help_if_asked(arguments):
        return ExitCode.DONE
    if first[:1] not in ("+", "~", "-") and "=" not in first:
        near = get_close_matches(first, COMMANDS, 1)
        hint = f": did you mean {near[0]!r}?" if near else f": choose one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {first!r}{hint}")
    return import_module("harness.commands.sweep").main(arguments)
