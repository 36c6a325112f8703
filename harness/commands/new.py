"""harness new workload NAME: a workload of your own in one file, to be changed where it is yours.

    harness new workload mine                          # myconf/workload/mine.yaml and mine.py, which run as they are
    harness new workload mine --from cifar10_resnet20  # that workload with all of its groups in one file

Nothing is overwritten.
"""

import argparse
import importlib.util
import keyword
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.commands.entry import Parser, command, find_own_classes
from harness.config.new_workload import template, written_out
from harness.config.places import available, conf_folder
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode

VALUES = ("null", "true", "false", "nan", "inf")  # what workload=NAME would not take for a name


@command
def main(arguments: Sequence[str]) -> int:
    """Write the files and print the command that plans with them."""
    assert __doc__ is not None
    parser = Parser(
        prog="harness new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=["workload"], help="what to write")
    parser.add_argument("name", metavar="NAME", help="its name, and that of the Python file of its classes")
    parser.add_argument(
        "--from", dest="origin", metavar="WORKLOAD", help="write out this workload instead of a template"
    )
    parser.add_argument("--config-dir", metavar="FOLDER", default="myconf", help="default: %(default)s")
    given = parser.parse_args(arguments)
    folder = Path(given.config_dir)
    file, classes = folder / "workload" / f"{given.name}.yaml", Path(f"{given.name}.py")
    _check(given.name, folder, file)
    if given.origin is None:
        _check_classes(classes)
        text, code = template(given.name, given.config_dir)
        _write(classes, code)
    else:
        text = written_out(given.name, given.origin, given.config_dir, given.config_dir if folder.is_dir() else None)
    _write(file, text)
    place = ["--config-dir", given.config_dir]
    print(f"wrote {file}" + (f" and {classes}" if given.origin is None else ""))
    print(f"next: {shlex.join(['harness', '+experiment=tbs_sweep', f'workload={given.name}', *place, 'dry_run=true'])}")
    return ExitCode.DONE


def _check(name: str, folder: Path, file: Path) -> None:
    """Raises UserError unless a workload of that name may be written there."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or keyword.iskeyword(name) or name.lower() in VALUES:
        raise UserError(f"NAME must be a word of letters, digits and _ that means nothing else, not {name!r}")
    if folder.resolve() == conf_folder().resolve():
        raise UserError(f"--config-dir {folder} is the harness's own: give a folder of your own")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--config-dir {folder} is not a directory: give another one")
    if file.exists():
        raise UserError(f"{file} exists: choose another name, or remove it")
    if name in available("workload"):
        raise UserError(f"{name} is a workload of the harness: choose another name")


def _check_classes(file: Path) -> None:
    """Raises UserError if the file of classes exists, or hides or is hidden by a module of that name."""
    if file.exists():
        raise UserError(f"{file} exists: choose another name, or remove it")
    find_own_classes()
    if importlib.util.find_spec(file.stem) is not None:
        raise UserError(f"there is a Python module {file.stem!r} already, which {file} would hide: choose another name")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as new:
        new.write(text)
