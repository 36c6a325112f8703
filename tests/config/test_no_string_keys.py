"""Outside harness/config a configuration is a typed value: nothing looks a key of one up by its name."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from harness.config.configuration import ConfigurationValues
from harness.plan.settings import Settings

ROOT = Path(__file__).parents[2]
# Keys that nothing but a configuration has: others are also names in settings, journals and tables.
OWN_KEYS = {f.name for f in fields(ConfigurationValues)} - {f.name for f in fields(Settings)}
OWN_KEYS -= {"workload", "study", "seeds"}
# A file of W&B's, whose rows have a part called config.
EXEMPT = ("harness/record/tracking/read_runs.py",)


def looked_up(source: str) -> Iterator[str]:
    """Every place where a key of a configuration is looked up by name, as source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            base, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            base, key = node.func.value, node.args[0]  # .get("config"), .pop("config"), itemgetter and the like
            if node.func.attr not in ("get", "pop", "__getitem__"):
                continue
        else:
            continue
        name = key.value if isinstance(key, ast.Constant) else None
        is_raw = isinstance(base, ast.Attribute) and base.attr == "raw"
        if is_raw or name == "config" or name in OWN_KEYS:
            yield ast.unparse(node)


def modules() -> Iterator[tuple[str, str]]:
    for folder in ("harness", "experiments", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("harness/config/") and name not in EXEMPT:
                yield name, path.read_text()


def test_nothing_outside_config_looks_up_a_key_of_a_configuration():
    places = [f"{name}: {place}" for name, source in modules() for place in looked_up(source)]
    assert not places


@pytest.mark.parametrize(
    "planted",
    [
        'description["config"]["seeds"]',
        'folder.description().get("config")',
        'config.raw["seeds"]',
        'config.raw.get("workload", {})',
        'values["cluster"]["cpus"]',
        'values.pop("lr_scaling")',
    ],
)
def test_a_planted_look_up_is_found(planted):
    assert list(looked_up(f"x = {planted}"))


@pytest.mark.parametrize(
    "allowed", ['{"config": config.raw}', "config.cluster.cpus", 'settings["batch_norm"]', 'config.choices["model"]']
)
def test_what_is_no_look_up_in_a_configuration_is_left_alone(allowed):
    assert not list(looked_up(f"x = {allowed}"))


def test_the_own_keys_are_those_of_a_configuration():
    assert {"cluster", "tracking", "lr_scaling", "question", "output_dir"} <= OWN_KEYS
