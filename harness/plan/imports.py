"""Modules that a configuration names: the user's own, installed ones, and `experiments`, which comes with the harness.

A driver and its workers import such modules here and nowhere else, so that a name means the same module in all of them.
"""

import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from harness.plan.errors import UserError, one_line

PACKAGE = Path(__file__).resolve().parent.parent
EXPERIMENTS = "experiments"
NOT_FAULTS = (KeyboardInterrupt, GeneratorExit)  # everything else that a module raises is the module's fault


def shipped_folder(name: str) -> Path:
    """conf, experiments or slurm: next to the package in a checkout, inside it (as `_conf`) in an installed wheel."""
    inside = PACKAGE / f"_{name}"
    return inside if inside.is_dir() else PACKAGE.parent / name


def import_named(name: str) -> ModuleType:
    """Import a module by its dotted name; `experiments` is the harness's own, whatever is in the working directory.

    Raises ModuleNotFoundError if there is no such module, and UserError (file, line and cause in one line) if importing
    it fails.
    """
    _claim_experiments()
    try:
        return import_module(name)
    except NOT_FAULTS:
        raise
    except BaseException as error:
        is_missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        if is_missing and not isinstance(error, UnknownExperimentError):
            raise
        raise UserError(_failure(error)) from error


@contextmanager
def user_code(what: str = "", reason: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Whatever code of the user's own raises in the block, sys.exit included, becomes a UserError: `reason()` if there
    is one, else `what` with file, line and cause. A UserError keeps its own words."""
    try:
        yield
    except (UserError, *NOT_FAULTS):
        raise
    except BaseException as error:
        raise UserError(reason() or f"{what}: {_failure(error)}".removeprefix(": ")) from error


class UnknownExperimentError(ModuleNotFoundError):
    """There is no such file in experiments/."""


class _ShippedExperiments(MetaPathFinder):
    """Finds `experiments` and its files where the harness has them, before anything on sys.path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        if fullname == EXPERIMENTS:
            package = ModuleSpec(EXPERIMENTS, None, is_package=True)
            package.submodule_search_locations = [str(shipped_folder(EXPERIMENTS))]
            return package
        if parent != EXPERIMENTS:
            return None
        folder = shipped_folder(EXPERIMENTS)
        spec = PathFinder.find_spec(fullname, [str(folder)])
        if spec is None:
            raise UnknownExperimentError(_unknown(name, folder), name=fullname)
        return spec


_FINDER = _ShippedExperiments()


def _unknown(name: str, folder: Path) -> str:
    names = ", ".join(sorted(file.stem for file in folder.glob("*.py")))
    message = f"there is no experiment file {name}.py: choose one of {names}"
    theirs = Path.cwd() / EXPERIMENTS
    if not theirs.is_dir() or theirs == folder:
        return message
    return f"{message} (the harness's own; {theirs} is not searched: give that folder another name)"


def _claim_experiments() -> None:
    """Make `experiments` ours in this process; a package of that name that was imported before is dropped."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    loaded = sys.modules.get(EXPERIMENTS)
    if loaded is not None and list(getattr(loaded, "__path__", [])) != [str(shipped_folder(EXPERIMENTS))]:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{EXPERIMENTS}.")]:
            del sys.modules[name]


def _failure(error: BaseException) -> str:
    """`file, line N: cause`, where the line is the last one that its author can change."""
    place = _place(error)
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        place, cause = (error.filename, error.lineno), f"{type(error).__name__}: {error.msg}"
    else:
        says_enough = isinstance(error, ImportError) and str(error)
        cause = " ".join(str(error).split()) if says_enough else one_line(error)
    if place is None:
        return cause
    file = Path(place[0])
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f"{shown}, line {place[1]}: {cause}"


def _place(error: BaseException) -> tuple[str, int | None] | None:
    """File and line of the innermost frame outside the standard library, installed packages and the harness."""
    own = str(shipped_folder(EXPERIMENTS))
    paths = sysconfig.get_paths()
    libraries = (str(PACKAGE), *(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_file = not frame.filename.startswith("<")
        if is_file and (frame.filename.startswith(own) or not frame.filename.startswith(libraries)):
            return frame.filename, frame.lineno
    return None
