"""The command line: Hydra's overrides and the few flags that make sense here; others are rejected with a hint."""

import argparse
import re
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from harness.config.build import check_values
from harness.config.compose import compose_plain, compose_unresolved, effective_overrides, register_schema
from harness.config.configuration import Configuration
from harness.config.places import conf_folder
from harness.config.schema import SCHEMA
from harness.plan.errors import UserError


def command_line(arguments: Sequence[str]) -> Configuration | None:
    """The composed configuration, its values checked; None where only a look at it was asked for."""
    parser = argparse.ArgumentParser(prog="harness", add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("overrides", nargs="*")
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args([a for a in arguments if a != "--resolve"])
    if flags.multirun:
        raise UserError(
            "--multirun is not supported: one command plans a whole sweep; give lists, e.g. "
            "question.total_batch_sizes=[16,64,256] seeds=[0,1,2]"
        )
    if flags.shell_completion:
        word = flags.overrides[0] if len(flags.overrides) == 1 else ""
        if not re.fullmatch("(install|uninstall|query)=(bash|zsh|fish)", word):
            raise UserError("--shell-completion needs one of install=bash, install=zsh and install=fish")
        _hydra(arguments)
        return None
    if len(flags.config_dir) > 1:
        raise UserError("--config-dir is given twice: give it once")
    config_dir = flags.config_dir[0] if flags.config_dir else None
    plain = compose_plain(flags.overrides, config_dir)
    if flags.cfg == "job":
        values = {key: plain[key] for key in SCHEMA.__annotations__}
        unresolved, _ = compose_unresolved(flags.overrides, config_dir)
        print(OmegaConf.to_yaml(values if "--resolve" in arguments else unresolved), end="")
        return None
    if flags.cfg:
        resolve = ["--resolve"] if "--resolve" in arguments else []
        _hydra(["--cfg", flags.cfg, *resolve, *effective_overrides(flags.overrides, config_dir)])
        return None
    config = Configuration.of(plain)
    check_values(config)
    return config


def _refuse(message: str) -> None:
    raise UserError(f"{message}; see harness --help")


def _hydra(arguments: Sequence[str]) -> None:
    """Hydra's own printing of the configuration and shell completion."""
    import hydra

    register_schema()
    sys.argv = ["harness", *arguments]
    hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(lambda config: None)()
