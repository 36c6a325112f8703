"""README, docs and conf are true: links lead somewhere, commands and files compose, no machine's folder is named."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config.arguments import command_line
from harness.config.compose import compose_config
from harness.config.schema import GROUPS
from harness.plan.errors import UserError

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CALL = re.compile(r"(?:python -m harness|(?<![\w./-])harness)(?= [+-])(.*)")
# /tmp by itself is every machine's, and a documented default; what lies below it, or in these others, is one machine's.
MACHINE_PATH = re.compile(r"(?<![\w.\-/}])/(?:(?:work|home|root|Users)\b|tmp/)")
TEXT = ("*.md", "*.py", "*.yaml", "*.sh", "*.sbatch", "*.toml", "Makefile", "run")


def links(page: Path) -> Iterator[str]:
    """Targets of links and images that are no addresses, without their anchors."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            yield target.partition("#")[0]


def code_lines(page: Path) -> Iterator[str]:
    """Lines of indented and fenced code, continuation lines joined."""
    fenced = False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def commands() -> Iterator[tuple[str, str]]:
    """(path of the page, arguments) of every call of the command with an experiment that the pages quote."""
    for page in PAGES:
        for line in code_lines(page):
            if (found := CALL.search(line)) and "+experiment=" in line and "NAME" not in line and "..." not in line:
                yield str(page.relative_to(ROOT)), found.group(1)


def answered() -> Iterator[str]:
    """Arguments of every result in the tables of experiments/README.md; those of the language model name it above."""
    digits, model = (ROOT / "experiments" / "README.md").read_text().split("## On the language model")
    yield from re.findall(r"^\| .*?`(\+experiment=[^`]+)`", digits, re.MULTILINE)
    yield from (
        f"{found} workload=stdlib_text_gpt_short" for found in re.findall(r"^\| `(\+exp[^`]+)`", model, re.MULTILINE)
    )


def own_files(page: Path) -> Iterator[tuple[str, str]]:
    """Files that a page shows as ```language file=NAME."""
    yield from re.findall(r"```\w+ file=(\S+)\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    assert not [target for target in links(page) if not (page.parent / target).exists()]


def test_the_pages_quote_commands():
    assert len(list(commands())) >= 5  # else the tests below look at nothing


@pytest.mark.parametrize(("page", "arguments"), list(commands()))
def test_every_quoted_command_composes(page, arguments, tmp_path, monkeypatch):
    for name, text in own_files(ROOT / page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("a") as file:
            file.write(text + "\n")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(arguments, comments=True)
    words = words[: next((i for i, word in enumerate(words) if word in ("|", "&&", ">", "&", ";")), len(words))]
    config_dir = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    overrides = [word for word in words if not word.startswith("-") and word != config_dir]
    assert compose_config(overrides, config_dir).experiment_name


@pytest.mark.parametrize("arguments", list(answered()))
def test_every_result_names_a_command_that_plans(arguments):
    config = command_line([*shlex.split(arguments), "dry_run=true"])
    assert config is not None
    assert config.experiment_name in arguments


def test_every_question_has_a_result_on_both_workloads():
    of_digits, of_model = (
        {re.match(r"\+experiment=(\w+)", found).group(1) for found in answered() if ("gpt" in found) is model}  # pyright: ignore[reportOptionalMemberAccess]
        for model in (False, True)
    )
    questions = {path.stem for path in EXPERIMENTS} - {"doctor"}
    assert of_digits == questions - {"beta2_scaling"}  # AdamW's; SGD has beta_scaling
    assert of_model == questions - {"base_lr", "beta_scaling", "bn_span", "bn_statistics"}


def test_no_page_or_source_names_a_folder_of_one_machine():
    names = ("README.md", "Makefile", ".ci", "benchmarks", "conf", "docs", "experiments", "harness", "slurm")
    places = [ROOT / name for name in names]
    files = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    texts = [path for path in files if path.is_file() and any(path.match(pattern) for pattern in TEXT)]
    assert len(texts) > 100
    named = {
        str(path.relative_to(ROOT)): found.group()
        for path in texts
        for line in path.read_text().splitlines()
        if (found := MACHINE_PATH.search(line))
    }
    assert not named


EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def required(group: str, name: str) -> list[str]:
    """A value for every key that a file leaves to the user."""
    value = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"), throw_on_missing=False)
    assert isinstance(value, dict)
    return [f"{group}.{key}=1" for key, item in value.items() if item == "???"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_opens_with_the_command_that_runs_it_and_composes(path):
    package, command, *_ = path.read_text().splitlines()
    assert package == "# @package _global_"
    assert command.startswith("# python -m harness ")
    words = shlex.split(command.removeprefix("# python -m harness "))
    words = [word for word in words if not word.endswith("=NAME")]  # the user's choice
    assert f"+experiment={path.stem}" in words
    config = command_line(words)
    assert config is not None
    assert config.experiment_name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_rule_chosen_on_the_command_line_beats_the_experiments_own(path):
    config = command_line([f"+experiment={path.stem}", "lr_scaling=power"])
    assert config is not None
    assert config.lr_scaling.rules == ["power"]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_of_a_group_composes(group, name):
    arguments = ["+experiment=tbs_sweep", f"{group}={name}", *required(group, name)]
    if group in ("dataset", "model"):
        # A pair's own workload where there is one; the file must compose all the same where there is none.
        pairs = [path.stem for path in sorted((CONF / "workload").glob("*.yaml")) if name in path.stem.split("_")]
        arguments.append(f"workload={[*pairs, 'digits_bn_cnn'][0]}")
    config = compose_config(arguments)
    assert config.choices[group] == name


def test_a_group_choice_that_leaves_a_value_to_the_user_says_which():
    with pytest.raises(UserError, match=r"dataset\.folder must be given, e\.g\. dataset\.folder=\.\.\."):
        compose_config(["+experiment=tbs_sweep", "dataset=image_folder", "workload=digits_bn_cnn"])
