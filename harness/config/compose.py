"""From command-line overrides to a plain, typed, resolved configuration, with errors in one line."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.places import conf_folder
from harness.config.schema import HarnessConfig
from harness.plan.duration import UNITS
from harness.plan.errors import UserError

PRIMARY = "config"
GROUPS = ["dataset", "model", "optimizer", "schedule", "lr_scaling", "workload", "cluster", "tracking"]


def register_schema() -> None:
    """Make the typed schema known to Hydra under the name conf/config.yaml refers to."""
    ConfigStore.instance().store(name="schema", node=HarnessConfig)


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """The resolved configuration as plain data. `config_dir` adds a folder of the user's own groups.

    Raises UserError, one line, for anything a person typed wrongly.
    """
    register_schema()
    overrides = [_whole_duration(override) for override in overrides]
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UserError(f"--config-dir {config_dir} is no folder")
        overrides.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    config, choices = _compose(overrides)
    pair = f"{choices['dataset']}_{choices['model']}"
    chosen = {override.split("=")[0].lstrip("+") for override in overrides}
    if chosen & {"dataset", "model"} and "workload" not in chosen and choices["workload"] != pair:
        # The person chose a dataset or a model: the pair has its own target, budget and base LR, or none.
        known = available("workload", config_dir)
        if pair not in known:
            raise UserError(
                f"no workload for dataset {choices['dataset']} with model {choices['model']}: known pairs are "
                f"{', '.join(known)}; write workload/{pair}.yaml in a --config-dir (target, budget, base LR)"
            )
        config, choices = _compose([f"workload={pair}", *overrides])
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(_missing_value(error)) from error
    assert isinstance(plain, dict)
    names = {"experiment": choices.get("experiment", ""), **{group: choices[group] for group in GROUPS}}
    return {**{str(key): value for key, value in plain.items()}, "choices": names}


def available(group: str, config_dir: str | None = None) -> list[str]:
    """Names one can choose in a config group, ours and the user's own."""
    folders = [conf_folder() / group, *([Path(config_dir) / group] if config_dir else [])]
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})


def _whole_duration(override: str) -> str:
    """`schedule.warmup={epochs: 5}` replaces a duration in another unit, where Hydra would merge the two into one."""
    found = re.fullmatch(rf"\+*([\w.]+)=\{{\s*({'|'.join(UNITS)})\s*:\s*([^,{{}}]+)\}}", override)
    if not found:
        return override
    key, given, amount = found.groups()
    whole = ", ".join(f"{unit}: {amount if unit == given else 'null'}" for unit in UNITS)
    return f"++{key}={{{whole}}}"


def _compose(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str]]:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="harness"):
            config = compose(PRIMARY, list(overrides), return_hydra_config=True)
            choices = dict(config.hydra.runtime.choices)
    except MissingConfigException as error:
        raise UserError(_unknown_choice(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, overrides)) from error
    if "experiment" not in choices:
        raise UserError(f"which experiment? Add +experiment=NAME with one of: {', '.join(available('experiment'))}")
    known = [field.name for field in fields(HarnessConfig)]
    for key in config:
        if key not in known and key != "hydra":
            raise UserError(f"unknown key {str(key)!r}{_nearest(str(key), known)}")
    return OmegaConf.masked_copy(config, known), choices


def _unknown_choice(error: MissingConfigException) -> str:
    missing = str(error.missing_cfg_file or "")
    group, _, name = missing.rpartition("/")
    options = list(error.options or [])
    if not group or not options:
        return f"unknown config group {missing!r}: use one of {', '.join(['experiment', *GROUPS])}"
    return f"unknown {group} {name!r}{_nearest(name, options)}; there are: {', '.join(sorted(options))}"


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for a Hydra or OmegaConf error, with the nearest valid key where a key is misspelt."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(current)
        current = current.__cause__
    text = "\n".join(str(link) for link in chain)
    unknown_key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    if "is not in struct" in text or "not in 'HarnessConfig'" in text or re.search(r"Key '[^']+' not in '", text):
        key = unknown_key.group(1) if unknown_key else "?"
        return f"unknown key {key!r}{_nearest(key, _all_keys())}"
    if found := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        if found.group(1) == "experiment":
            return "write +experiment=NAME, with the plus sign"
        return f"unknown key or config group {found.group(1)!r}{_nearest(found.group(1), [*GROUPS, *_all_keys()])}"
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {str(error).splitlines()[0]}"
    reason = str(chain[-1]).strip().splitlines()[0] if str(chain[-1]).strip() else type(error).__name__
    given = next((o for o in overrides if unknown_key and o.lstrip("+").startswith(f"{unknown_key.group(1)}=")), None)
    place = f"{given}: " if given else (f"{unknown_key.group(1)}: " if unknown_key else "")
    return place + reason


def _missing_value(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None)
    return f"{key} must be given, e.g. {key}=..." if key else str(error).splitlines()[0]


def _nearest(word: str, options: Iterable[str]) -> str:
    near = get_close_matches(word, list(options), 1)
    return f": did you mean {near[0]!r}?" if near else ""


def _all_keys() -> list[str]:
    """Dotted names of everything the default configuration holds."""
    config, _ = _compose(["+experiment=tbs_sweep"])
    keys: list[str] = []

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                keys.append(f"{prefix}{key}")
                walk(item, f"{prefix}{key}.")

    walk(OmegaConf.to_container(config, resolve=False), "")
    return keys
