"""README, docs and conf are true: links resolve, commands and files compose, tables list what the code has, and no
folder of one machine is named."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from harness.commands.help import COMMANDS
from harness.commands.main import main
from harness.config.arguments import command_line
from harness.config.compose import compose_config, compose_plain
from harness.config.schema import GROUPS
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
OUTSIDE_DOCS = ("README.md", "CHANGELOG.md", "experiments/README.md", "harness/published/tables/README.md")
PAGES = [*(ROOT / name for name in OUTSIDE_DOCS), *sorted((ROOT / "docs").glob("*.md"))]
CALL = re.compile(r"harness (.*)")
SHELL = {"|", "&&", "&", ">", ";"}  # where a command ends
PLACEHOLDER = re.compile(r"\b(?:NAME|STUDY|DIR|FOLDER|HOST|[A-Z])\b|\.\.\.|<TAB>")  # left to the reader
TAKE_OVERRIDES = {"sweep": [], "submit": [], "doctor": ["+experiment=doctor"]}  # command: what it adds
# The package name on PyPI is somebody else's; the other phrases have a standard wording instead.
AVOIDED = (
    "pip install harness",
    "pip install 'harness",
    "goes on from here",
    "soonest",
    "is no folder",
    "another draw",
)
# /tmp itself exists on every machine and is a documented default; folders in it, or in the others, are one machine's.
MACHINE_PATH = re.compile(r"(?<![\w.\-/}])/(?:(?:work|home|root|Users)\b|tmp/)")
TEXT = ("*.md", "*.py", "*.yaml", "*.sh", "*.sbatch", "*.toml", "Makefile", "run")


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file or folder, anchor or nothing) of links and images that are not web addresses."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page), anchor


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: Path) -> Iterator[str]:
    """Lines of indented and fenced code, continuation lines joined, and code in the text."""
    fenced = False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def commands() -> Iterator[tuple[str, list[str]]]:
    """(path of the page, arguments) of every call of `harness` that the pages quote and that leaves nothing open."""
    for page in PAGES:
        for line in code(page):
            if call := CALL.match(line):
                words = list(takewhile(lambda word: word not in SHELL, shlex.split(call.group(1), comments=True)))
                if not any(PLACEHOLDER.search(word) for word in words):
                    yield str(page.relative_to(ROOT)), words


def overrides_of(words: list[str]) -> tuple[list[str], str | None] | None:
    """(overrides, config dir) of a call that composes a configuration; None for any other."""
    if words and words[0] in TAKE_OVERRIDES:
        words = [*TAKE_OVERRIDES[words[0]], *words[1:]]
    if not any(word.startswith("+experiment=") for word in words):
        return None
    config_dir = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    return [word for word in words if not word.startswith("-") and word != config_dir], config_dir


GPT = "workload=stdlib_text_gpt_short"


def answered() -> Iterator[str]:
    """Arguments of every result in the tables of experiments/README.md; those of the language model name it above."""
    digits, model = (ROOT / "experiments" / "README.md").read_text().split("## On the language model")
    yield from re.findall(r"^\| .*?`(\+experiment=[^`]+)`", digits, re.MULTILINE)
    for arguments in re.findall(r"^\| `(\+experiment=[^`]+)`", model, re.MULTILINE):
        yield f"{arguments} {GPT}"


def own_files(page: Path) -> Iterator[tuple[str, str]]:
    """Files that a page shows as ```language file=NAME."""
    yield from re.findall(r"```\w+ file=(\S+)\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_resolves(page):
    assert not [str(path) for path, _ in links(page) if not path.exists()]
    assert not [f"{path}#{anchor}" for path, anchor in links(page) if anchor and anchor not in anchors(path)]


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            waiting += [path for path, _ in links(page)]
    assert {page.resolve() for page in PAGES} <= reached


COMPOSED = [(page, *composed) for page, words in commands() if (composed := overrides_of(words))]
OTHERS = [(page, words) for page, words in commands() if words[:1] and words[0] in {*COMMANDS} - {*TAKE_OVERRIDES}]


def test_the_pages_quote_commands():
    assert len(COMPOSED) >= 20  # else the tests below look at nothing
    assert {words[0] for _, words in OTHERS} == {*COMMANDS} - {*TAKE_OVERRIDES}


def test_every_quoted_call_begins_with_a_command_a_flag_or_an_override():
    first = {words[0] for _, words in commands() if words}
    assert not [word for word in first if word not in COMMANDS and word[0] not in "+-" and "=" not in word]


@pytest.mark.parametrize(("page", "overrides", "config_dir"), COMPOSED)
def test_every_quoted_sweep_composes(page, overrides, config_dir, tmp_path, monkeypatch):
    for name, text in own_files(ROOT / page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("a") as file:
            file.write(text + "\n")
    monkeypatch.chdir(tmp_path)
    assert compose_config(overrides, config_dir).experiment_name


@pytest.mark.parametrize(("page", "words"), OTHERS)
def test_every_quoted_flag_is_one_of_its_command(page, words, capsys):
    with pytest.raises(SystemExit) as end:
        main([words[0], "--help"])
    assert end.value.code == 0
    known = re.findall(r"--[\w-]+", capsys.readouterr().out)
    assert not [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    table = re.search(r"\n((?:\|.*\n)+)", page.read_text().split(f"{heading}\n", 1)[1])
    assert table is not None
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.group(1).splitlines()[2:]]


def test_the_page_of_commands_lists_every_command_and_every_exit_code():
    page = ROOT / "docs" / "commands.md"
    assert [row[0].strip("`") for row in rows(page, "# Commands")] == [*COMMANDS]
    assert [int(row[0]) for row in rows(page, "## Exit codes")] == [int(code) for code in ExitCode]


@pytest.mark.parametrize(("column", "choice"), [("cluster.", "local"), ("cluster.slurm.", "slurm")])
def test_the_page_of_clusters_lists_every_option_with_its_default(column, choice):
    table = (ROOT / "docs" / "clusters.md").read_text().split(f"\n| `{column}` |", 1)[1].split("\n\n", 1)[0]
    cells = [row.split("|") for row in table.splitlines()[2:]]
    composed = compose_plain(["+experiment=tbs_sweep", f"cluster={choice}"])["cluster"]
    options = composed["slurm"] if choice == "slurm" else composed
    assert {name.strip(): yaml.safe_load(default) for _, name, default, *_ in cells} == options


def test_no_page_and_no_configuration_uses_a_phrase_that_has_a_standard_wording():
    texts = [*PAGES, *CONF.rglob("*.yaml")]
    named = {
        (str(path.relative_to(ROOT)), phrase) for path in texts for phrase in AVOIDED if phrase in path.read_text()
    }
    assert not named


@pytest.mark.parametrize("arguments", list(answered()))
def test_every_result_names_a_command_that_plans(arguments):
    config = command_line([*shlex.split(arguments), "dry_run=true"])
    assert config is not None
    assert config.experiment_name in arguments


def test_every_question_has_a_result_on_both_workloads():
    of_digits, of_model = (
        {overrides[0].partition("=")[2] for overrides in map(str.split, answered()) if (GPT in overrides) is model}
        for model in (False, True)
    )
    questions = {path.stem for path in EXPERIMENTS} - {"doctor", "step_time"}  # measurements: docs/advise.md has these
    assert of_digits == questions - {"beta2_scaling"}  # for AdamW; SGD has beta_scaling
    assert of_model == questions - {"base_lr", "beta_scaling", "bn_span", "bn_statistics"}


def test_no_page_or_source_names_a_folder_of_one_machine():
    names = ("README.md", "Makefile", ".ci", "benchmarks", "conf", "docs", "experiments", "harness", "slurm")
    places = [ROOT / name for name in names]
    files = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    texts = [path for path in files if path.is_file() and any(path.match(pattern) for pattern in TEXT)]
    assert len(texts) > 100
    named = {
        str(path.relative_to(ROOT)): match.group()
        for path in texts
        for line in path.read_text().splitlines()
        if (match := MACHINE_PATH.search(line))
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
    assert command.startswith("# harness ")
    words = shlex.split(command.removeprefix("# harness "))
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
        # A pair's own workload if there is one; the file must compose even if there is none.
        pairs = [path.stem for path in sorted((CONF / "workload").glob("*.yaml")) if name in path.stem.split("_")]
        arguments.append(f"workload={[*pairs, 'digits_bn_cnn'][0]}")
    config = compose_config(arguments)
    assert config.choices[group] == name


def test_a_group_choice_that_leaves_a_value_to_the_user_says_which():
    with pytest.raises(UserError, match=r"dataset\.folder must be given, e\.g\. dataset\.folder=\.\.\."):
        compose_config(["+experiment=tbs_sweep", "dataset=image_folder", "workload=digits_bn_cnn"])
