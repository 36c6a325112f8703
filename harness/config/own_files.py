"""A user's configuration files as Hydra reads them: one workload file may hold what ours keep in a file for each group.

A part that a workload file gives with `_target_` is served as a file of its group that this workload chooses. So
Hydra's own rules hold for it: an experiment and the command line change single keys of it or choose another file of the
group, and nothing of the group's default file remains. `# @package _global_` may be left out.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from harness.config.configuration import ConfigurationValues, resolved_hints
from harness.config.schema import GROUPS
from harness.plan.duration import UNITS, is_duration
from harness.plan.errors import UserError
from harness.plan.settings import Spec

# The groups whose files name a class; a workload file may hold the same keys itself.
PARTS = tuple(name for name, hint in resolved_hints(ConfigurationValues).items() if hint == Spec and name in GROUPS)
WHOLE = frozenset(resolved_hints(ConfigurationValues))  # keys of a file whose package is _global_
NO_LOSS = "no loss"  # read before a file that gives its loss by _target_, which replaces another one that way
INLINE = "inline:"  # before a workload's name: the choice of a part that this workload's own file gives


class OwnFiles(FileConfigSource):
    """The folder of a --config-dir."""

    @staticmethod
    def scheme() -> str:
        return "own"

    def is_config(self, config_path: str) -> bool:
        return config_path == NO_LOSS or super().is_config(_file(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        """One file, or one part of a workload's file. Raises UserError for a file of another form."""
        if config_path == NO_LOSS:
            config = OmegaConf.create({"workload": {"loss": None}})
            return ConfigResult(self.provider, self.full_path(), config, {"package": "_global_"})
        found = super().load_config(_file(config_path))
        group, _, name = _file(config_path).partition("/")
        values: Any = OmegaConf.to_container(found.config, resolve=False)
        package = found.header["package"]
        if group in ("workload", "experiment"):
            _check_form(values, file_name(config_path))
        if group in ("workload", "experiment", "schedule"):
            values = _whole_durations(values)
        if is_inline(config_path):
            values, package = values[config_path.partition("/")[0]], None
        elif group == "experiment":
            values, package = _replacing_the_loss(values), package or "_global_"
        elif group == "workload" and WHOLE & set(values):
            values, package = _choosing_its_parts(_replacing_the_loss(values), name), "_global_"
        return replace(found, config=OmegaConf.create(values), header={"package": package})


def register_own_files() -> None:
    """Make folders that `search_path` names readable."""
    Plugins.instance().register(OwnFiles)


def search_path(folder: Path) -> str:
    """A folder as an entry of Hydra's search path."""
    return f"{OwnFiles.scheme()}://{folder.resolve()}"


def is_inline(choice: str) -> bool:
    """Whether the choice of a group, or its path, is a part that a workload's own file gives."""
    return f"/{INLINE}" in f"/{choice}"


def file_name(config_path: str) -> str:
    """The file behind a path as Hydra names it, below its folder."""
    return f"{_file(config_path)}.yaml"


def chosen(choice: str, spec: Any) -> str:
    """The name of a group's choice: that of its file, or the class of a part that a workload's own file gives."""
    if not is_inline(choice):
        return choice
    target = spec.get("_target_") if isinstance(spec, Mapping) else None
    return str(target).rpartition(".")[2]


def keys_of_file(path: Path) -> dict[Any, Any]:
    """The keys and values of a file that Hydra has read."""
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(values, dict)
    return values


def chosen_parts(values: Mapping[Any, Any]) -> set[str]:
    """The parts for which a file's defaults choose a file of their group."""
    keys = [str(key) for item in values.get("defaults", []) if isinstance(item, Mapping) for key in item]
    return set(PARTS) & {key.removeprefix("override").strip().removeprefix("/") for key in keys}


def _file(config_path: str) -> str:
    """The path of the file that holds what Hydra asks for."""
    _, is_part, workload = config_path.partition(f"/{INLINE}")
    return f"workload/{workload}" if is_part else config_path


def _check_form(values: Any, file: str) -> None:
    """Raises UserError unless a file of a workload or an experiment has keys, and parts that are mappings."""
    is_text = isinstance(values, dict) and any(value is None and " " in str(key) for key, value in values.items())
    if not isinstance(values, dict) or not values or is_text:
        given = "a text" if is_text else "a list" if values else "an empty file"
        raise UserError(f"{file} must hold keys and values, such as `seeds: [0]`, not {given}")
    for key, value in values.items():
        first, _, rest = str(key).partition(".")
        if rest and first in WHOLE:
            raise UserError(f"{file}: write {first}: {{{rest}: ...}} instead of {key}: ...")
        is_mapping = isinstance(value, dict) or (isinstance(value, str) and value.startswith("${"))
        if key in (*PARTS, "workload") and not is_mapping:
            hint = f": write {{_target_: {value}}}" if key in PARTS and isinstance(value, str) and "." in value else ""
            raise UserError(f"{file}: {key} must be a mapping, not {'null' if value is None else repr(value)}{hint}")


def _replacing_the_loss(values: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of a file which, if it gives its loss by `_target_`, begins with no loss at all."""
    workload, defaults = values.get("workload"), values.get("defaults", [])
    loss = workload.get("loss") if isinstance(workload, dict) else None
    if not isinstance(loss, dict) or "_target_" not in loss or not isinstance(defaults, list):
        return values
    overrides = [item for item in defaults if str(item).startswith("{'override ")]
    before = [item for item in defaults if item not in overrides]
    place = before.index("_self_") if "_self_" in before else len(before)
    own = before[place:] or ["_self_"]
    return {**values, "defaults": [*before[:place], f"/{NO_LOSS}", *own, *overrides]}


def _choosing_its_parts(values: dict[Any, Any], name: str) -> dict[Any, Any]:
    """The keys of a workload's file without the parts that it gives with `_target_`, which it chooses instead."""
    parts = [part for part in PARTS if isinstance(values.get(part), dict) and "_target_" in values[part]]
    defaults = values.get("defaults", [])
    if not parts or not isinstance(defaults, list):
        return values
    if twice := chosen_parts(values) & set(parts):
        part = min(twice)
        raise UserError(
            f"workload/{name}.yaml gives the {part} twice, in its defaults and by a _target_: keep one of them"
        )
    rest = {key: value for key, value in values.items() if key not in parts}
    return {**rest, "defaults": [*defaults, *({f"override /{part}": f"{INLINE}{name}"} for part in parts)]}


def _whole_durations(value: Any) -> Any:
    """The same with null for every other unit of a duration, so that it replaces one in another unit where Hydra merges
    the two."""
    if is_duration(value):
        return {**dict.fromkeys(UNITS), **value}
    if not isinstance(value, dict):
        return value
    return {
        key: item if key in ("dataset", "model", "question") else _whole_durations(item) for key, item in value.items()
    }
