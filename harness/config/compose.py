"""From command-line overrides to a plain, typed, resolved configuration, with errors in one line."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.config.configuration import Configuration
from harness.config.explain import explain, missing_value, nearest, unknown_choice, unreadable_file
from harness.config.overrides import as_hydra_reads, key_of
from harness.config.own_files import chosen, is_inline, register_own_files, search_path
from harness.config.places import available, conf_folder
from harness.config.privacy import refuse_interpolated_secrets, refuse_secrets
from harness.config.schema import GROUPS, SCHEMA
from harness.config.specs import check_changed_parts, check_specs
from harness.plan.duration import is_duration
from harness.plan.errors import UserError

PRIMARY = "config"
SEARCHPATH = "hydra.searchpath"
HAVE_DURATIONS = ("schedule", "workload")


def register_schema() -> None:
    """Make known to Hydra the typed schema, under the name conf/config.yaml refers to, and folders of a user's own."""
    ConfigStore.instance().store(name="schema", node=SCHEMA)
    register_own_files()


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> Configuration:
    """The resolved configuration. `config_dir` adds a folder of the user's own groups.

    Raises UserError, one line, for anything a person typed wrongly and for values that a part of it refuses.
    """
    return Configuration.of(compose_plain(overrides, config_dir))


def compose_plain(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """The same as plain data, of the right keys and types but whatever values.

    Raises UserError, one line, for anything a person typed wrongly.
    """
    return _composed(overrides, config_dir)[0]


def compose_unresolved(
    overrides: Sequence[str], config_dir: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The same with interpolations as they are written, and the file of every group, `inline:` for a workload's own."""
    _, unresolved, choices = _composed(overrides, config_dir)
    return _without_empty_units(unresolved), dict(choices)


def _composed(
    overrides: Sequence[str], config_dir: str | None
) -> tuple[dict[str, Any], Mapping[Any, Any], Mapping[str, str]]:
    """The plain data of a command, the same before interpolations were resolved, and the file of every group."""
    given = list(overrides)
    overrides, config, choices = _resolve_choices(overrides, config_dir)
    if "experiment" not in choices:
        names = ", ".join(available("experiment", config_dir))
        raise UserError(f"which experiment? Add +experiment=NAME with one of: {names}")
    unresolved = OmegaConf.to_container(config)
    assert isinstance(unresolved, dict)
    refuse_interpolated_secrets(unresolved)
    try:
        # Hydra lets `+` and `~` bend the schema; what remains must fit it once more.
        typed = OmegaConf.merge(OmegaConf.structured(SCHEMA), unresolved)
    except OmegaConfBaseException as error:
        raise UserError(explain(error, overrides, lambda: _all_values(overrides))) from error
    try:
        resolved = OmegaConf.to_container(typed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(missing_value(error)) from error
    assert isinstance(resolved, dict)
    plain = _without_empty_units(resolved)
    names = {group: chosen(choices[group], plain.get(group)) for group in ("experiment", *GROUPS)}
    composed = {**plain, "choices": names, "overrides": given}
    refuse_secrets(composed, os.environ)  # before any value is checked, and perhaps quoted
    check_specs(plain)
    if config_dir and (file := Path(config_dir, "workload", f"{choices['workload']}.yaml")).is_file():
        check_changed_parts(file, choices, plain)
    return composed, unresolved, choices


def _without_empty_units(values: Mapping[Any, Any]) -> dict[str, Any]:
    """The same with every duration in one unit; UserError for one in two units."""
    return {str(k): _in_one_unit(value, str(k)) if k in HAVE_DURATIONS else value for k, value in values.items()}


def _in_one_unit(value: Any, key: str) -> Any:
    """The same without the units that a duration leaves empty; `key` is its dotted key."""
    if is_duration(value):
        given = {unit: amount for unit, amount in value.items() if amount is not None}
        if len(given) > 1:
            raise UserError(
                f"{key} has the units {' and '.join(given)}: write the whole duration, {key}={{UNIT: number}}"
            )
        return given or value
    if isinstance(value, list):
        return [_in_one_unit(item, key) for item in value]
    return {name: _in_one_unit(i, f"{key}.{name}") for name, i in value.items()} if isinstance(value, dict) else value


def effective_overrides(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """What Hydra is given: whole durations, the user's folder on the search path, the workload of the chosen pair."""
    return _resolve_choices(overrides, config_dir)[0]


def _resolve_choices(
    overrides: Sequence[str], config_dir: str | None
) -> tuple[list[str], DictConfig, Mapping[str, str]]:
    """Effective overrides, the configuration they give without Hydra's own part, and the file of every group."""
    register_schema()
    for override in overrides:
        if not key_of(override):
            raise UserError(f"cannot read {override!r}: there is no key before the value; write key=value")
        if re.match("hydra[./]", key_of(override)) and key_of(override) != SEARCHPATH:
            raise UserError(f"{key_of(override)} has no effect here: the harness runs trials without Hydra's launcher")
    given = [written for override in overrides for written in as_hydra_reads(override)]
    search: list[str] = []
    if config_dir is not None:
        if not config_dir.strip():
            raise UserError("--config-dir is empty: give the folder of your own configuration files")
        _check_config_dir(Path(config_dir))
        place = search_path(Path(config_dir)).replace("'", "\\'")
        search = [f"{SEARCHPATH}=['{place}']"]
    config, choices = _compose([*search, *given])
    _check_choices(choices, config_dir)
    pair = (choices["dataset"], choices["model"])
    if "workload" in map(key_of, given) or _is_for(choices["workload"], pair, search):
        return [*search, *given], config, choices
    # A dataset or a model was chosen: the pair has its own target, budget and base LR, or none.
    name, known = "_".join(pair), available("workload", config_dir)
    if any(map(is_inline, pair)):
        part, other = ("dataset", "model") if is_inline(pair[0]) else ("model", "dataset")
        raise UserError(
            f"{part} is that of workload {choices['workload']}, so its target, budget and base LR may not suit {other} "
            f"{choices[other]}: take them as they are by workload={choices['workload']}, or choose another workload"
        )
    if name not in known:
        raise UserError(
            f"no workload for dataset {pair[0]} with model {pair[1]}: known pairs are {', '.join(known)}; write "
            f"workload/{name}.yaml in a --config-dir (target, budget, base LR), or take one as it is by workload=NAME"
        )
    overrides = [*search, f"workload={name}", *given]
    return overrides, *_compose(overrides)


def _check_choices(choices: Mapping[str, str], config_dir: str | None) -> None:
    """Raises UserError unless one file of every group is chosen, by its name alone."""
    for group in GROUPS:
        if not choices.get(group):
            names = ", ".join(available(group, config_dir))
            raise UserError(f"{group} cannot be left out: choose one of {names}")
    for group, name in choices.items():
        path = PurePosixPath(str(name))
        nested = group == "experiment" and len(path.parts) > 1
        if nested or path.is_absolute() or ".." in path.parts or path.suffix in (".yaml", ".yml"):
            hint = nearest(path.stem, available(group, config_dir))
            raise UserError(f"{group} {name!r} must be a name without folder and ending{hint}")


def _check_config_dir(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder} {'is not a directory' if folder.exists() else 'does not exist'}")
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder)
        _check_encoding(path)
        if (conf_folder() / name).is_file():
            raise UserError(f"{name} in --config-dir {folder} has the name of a file of the harness: rename it")


def _check_encoding(path: Path) -> None:
    """Raises UserError for a file that is not UTF-8, or has an invisible mark before its `# @package` line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if text.startswith("\ufeff"):
        raise UserError(
            f"{path} begins with a byte-order mark (BOM), which hides its first line: save it as UTF-8 without BOM"
        )


def _compose(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str]]:
    """The configuration without Hydra's own part, and which file of each group it took; UserError as above."""
    try:
        return _hydra_compose(overrides)
    except UserError:
        raise
    except MissingConfigException as error:
        raise UserError(unknown_choice(error)) from error
    except YAMLError as error:
        raise UserError(unreadable_file(error)) from error
    except Exception as error:  # Hydra and OmegaConf fail in many ways on what a person may write
        raise UserError(explain(error, overrides, lambda: _all_values(overrides))) from error


def _hydra_compose(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str]]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="harness"):
        config = compose(PRIMARY, list(overrides), return_hydra_config=True)
        choices = dict(config.hydra.runtime.choices)
        return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), choices


def _is_for(workload: str, pair: tuple[str, str], search: Sequence[str]) -> bool:
    """Whether a workload file is for this dataset and model: by its name, or because it chooses them itself."""
    if workload == "_".join(pair):
        return True
    _, choices = _compose([*search, f"workload={workload}"])
    return pair == (choices["dataset"], choices["model"])


def _all_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted key -> value of everything in the configuration that the choices among `overrides` give."""
    choices = [o for o in overrides if key_of(o) in ("experiment", SEARCHPATH, *GROUPS) and "{" not in o]
    try:
        config, _ = _hydra_compose(choices)
    except (HydraException, UserError):  # a chosen file is what is wrong
        config, _ = _hydra_compose([])
    values: dict[str, Any] = dict.fromkeys(SCHEMA.__annotations__)

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                values[f"{prefix}{key}"] = item
                walk(item, f"{prefix}{key}.")

    walk(OmegaConf.to_container(config, resolve=False), "")
    return values
