"""Shell completion: Hydra completes overrides; this module adds the commands, folders and the user's own --config-dir.

A shell asks by running `harness -sc query=SHELL` with the line typed so far in COMP_LINE.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from glob import escape, glob
from itertools import pairwise

from harness.commands.help import COMMANDS
from harness.config.arguments import command_line

TAKE_OVERRIDES = {"sweep": "", "submit": "", "doctor": "+experiment=doctor "}  # command: what it adds to the line
CONFIG_DIR = ("--config-dir", "-cd")


def print_completions(arguments: Sequence[str]) -> None:
    """Print what may stand at the end of COMP_LINE; nothing is written to stderr, which would disturb the prompt.

    `arguments`: of the shell's call, such as `-sc query=bash`; without COMP_LINE it asks for the install script.
    """
    line = os.environ.get("COMP_LINE")
    if line is None:
        command_line(arguments)
        return
    _, *before = line.split()
    word = "" if line[-1:].isspace() or not before else before.pop()
    command = before[0] if before and before[0] in COMMANDS else None
    if (before and before[-1] in CONFIG_DIR) or command not in {None, *TAKE_OVERRIDES}:
        _print_lines(_paths(word))
        return
    if not before:
        _print_lines([name for name in COMMANDS if name.startswith(word)])
    rest = before if command is None else before[1:]
    os.environ["COMP_LINE"] = f"harness {TAKE_OVERRIDES.get(command or '', '')}{' '.join([*rest, word])}"
    folders = [value for flag, value in pairwise(before) if flag in CONFIG_DIR]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        command_line([*(("--config-dir", folders[-1]) if folders else ()), *arguments])


def _paths(word: str) -> list[str]:
    """Files and folders that begin with `word`."""
    return [f"{path}/" if os.path.isdir(path) else path for path in sorted(glob(f"{escape(word)}*"))]


def _print_lines(candidates: Sequence[str]) -> None:
    if candidates:
        print(*candidates, sep="\n")
