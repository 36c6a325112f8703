"""A user's configuration files as Hydra reads them: one workload file may hold what ours keep in a file for each group.

A part that a workload file gives with `_target_` is served as a file of its group that this workload chooses. So
Hydra's own rules hold for it: an experiment and the command line change single keys of it or choose another file of the
group, and nothing of the group's default file remains. `# @package _global_` may be left out.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf

from harness.config.configuration import ConfigurationValues, resolved_hints
from harness.config.schema import GROUPS
from harness.plan.errors import UserError
from harness.plan.settings import Spec

# The groups whose files name a class; a workload file may hold the same keys itself.
PARTS = tuple(name for name, hint in resolved_hints(ConfigurationValues).items() if hint == Spec and name in GROUPS)
WHOLE = frozenset(resolved_hints(ConfigurationValues)) | {"defaults"}  # what a file with the package _global_ may give
INLINE = "inline:"  # before a workload's name: the choice of a part that this workload's own file gives


class OwnFiles(FileConfigSource):
    """The folder of a --config-dir."""

    @staticmethod
    def scheme() -> str:
        return "own"

    def is_config(self, config_path: str) -> bool:
        return super().is_config(_file(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        """One file, or one part of a workload's file. Raises UserError for a file that holds no keys."""
        path = Path(self.path, self._normalize_file_name(_file(config_path)))
        found = _with_keys(super().load_config(_file(config_path)), path)
        group = config_path.partition("/")[0]
        if is_inline(config_path):
            return replace(found, config=OmegaConf.create(_plain(found.config)[group]), header={"package": None})
        if group not in ("workload", "experiment"):
            return found
        if found.header["package"] is None and (group == "experiment" or WHOLE & set(_plain(found.config))):
            found = replace(found, header={"package": "_global_"})
        if group == "workload" and found.header["package"] == "_global_":
            return replace(found, config=_choosing_its_parts(found.config, config_path.partition("/")[2], path))
        return found


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


def _file(config_path: str) -> str:
    """The path of the file that holds what Hydra asks for."""
    _, is_part, workload = config_path.partition(f"/{INLINE}")
    return f"workload/{workload}" if is_part else config_path


def _with_keys(found: ConfigResult, path: Path) -> ConfigResult:
    if not isinstance(found.config, DictConfig):
        raise UserError(f"{path} must hold keys and values, like `workload: {{base_lr: 0.1}}`, not a list")
    return found


def _choosing_its_parts(config: DictConfig, name: str, path: Path) -> DictConfig:
    """A workload's file without the parts that it gives with `_target_`, which it chooses instead."""
    values: dict[str, Any] = _plain(config)
    parts = [part for part in PARTS if isinstance(values.get(part), dict) and "_target_" in values[part]]
    defaults = values.get("defaults", [])
    if not parts or not isinstance(defaults, list):
        return config
    for part in parts:
        for item in defaults:
            key = next(iter(item), "") if isinstance(item, dict) else ""
            if re.fullmatch(rf"(override +)?/?{part}", str(key)):
                raise UserError(
                    f"{path} gives the {part} twice, as {item[key]!r} in its defaults and by a _target_: keep one of them"
                )
    rest = {key: value for key, value in values.items() if key not in parts}
    return OmegaConf.create({**rest, "defaults": [*defaults, *({f"override /{p}": f"{INLINE}{name}"} for p in parts)]})


def _plain(config: DictConfig | ListConfig) -> dict[Any, Any]:
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return values
