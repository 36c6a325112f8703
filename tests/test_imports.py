"""Packages import each other in one direction only, none is too large, and a library is known only where it belongs."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"

# Bottom to top. A package imports from lower layers, and from its own layer as far as ALSO says.
LAYERS = (
    ("plan",),
    ("models", "datasets", "optimizers", "objectives", "statistics", "config", "record"),
    ("train", "scripts", "analyse", "record.tracking"),
    ("launch", "questions", "published"),
    ("experiments", "report"),
    ("commands",),
)
# Package -> the packages it may import. Its own modules go without saying; `commands` joins them all.
ALLOWED = {
    "plan": (),
    "models": ("plan.errors",),
    "datasets": ("plan.errors",),
    "optimizers": ("plan.errors", "plan.parameter_groups"),
    "objectives": ("plan",),
    "statistics": ("plan",),
    "record": ("plan",),
    "record.tracking": ("plan", "record"),
    "config": ("plan",),
    "train": (
        "plan",
        "record.journal",
        "record.files",
        "record.drain_flag",
        "record.limit",
        "record.provenance",
        "models",
        "datasets",
        "optimizers",
        "objectives",
    ),
    "scripts": ("plan",),
    "launch": ("plan", "train", "record", "datasets.progress"),
    "analyse": (
        "plan",
        "statistics",
        "config",
        "record.journal",
        "record.study",
        "record.files",
        "record.code_fingerprint",
    ),
    "questions": ("plan", "statistics", "analyse", "record.study"),
    "published": ("plan", "statistics", "analyse", "record.study"),
    "report": ("plan", "statistics", "analyse", "record.files", "record.study", "record.tracking.runs"),
    "experiments": ("plan", "analyse.results", "analyse.findings", "questions"),
}
# Older spellings of commands: one import of harness.commands each.
ENTRY_POINTS = (
    "__main__",
    "doctor",
    "status",
    "submit",
    "track",
    "report.__main__",
    "published.__main__",
    "train.__main__",
)
# Library -> the only packages that know it.
KNOWN_TO = {
    "hydra": ("config",),
    "omegaconf": ("config",),
    "ray": ("launch",),
    "wandb": ("record", "record.tracking"),
    "wandb_workspaces": ("record.tracking",),
    "torch": ("models", "datasets", "optimizers", "objectives", "train", "launch"),
    "matplotlib": ("report",),
    "jinja2": ("report",),
}
LARGEST_SHARE = 0.15


def package_of(name: str) -> str:
    """The package of a dotted name below harness."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if f"{name}.".startswith("record.tracking.") else first


def modules() -> Iterator[tuple[str, str, str]]:
    """(package, dotted name below harness, source) of every module that is not an entry point."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name not in (*ENTRY_POINTS, "__init__"):
            yield package_of(name), name, path.read_text()
    for path in sorted((ROOT / "experiments").glob("*.py")):
        yield "experiments", path.stem, path.read_text()


def imported(source: str) -> Iterator[str]:
    """Dotted names of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from harness import x` and `from harness.plan import x` name a module only with x.
            packages = node.module in ("harness", *(f"harness.{package}" for package in ALLOWED))
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if packages else [node.module]


def test_every_package_has_its_layer():
    found = {package for package, _, _ in modules()}
    assert found == {package for layer in LAYERS for package in layer} == {*ALLOWED, "commands"}


def test_packages_import_only_what_their_direction_allows():
    wrong = []
    for package, name, source in modules():
        for target in imported(source):
            ours = target.removeprefix("harness.")
            if package == "commands" or ours in (target, "__version__"):
                continue
            if not any(f"{ours}.".startswith(f"{prefix}.") for prefix in (package, *ALLOWED[package])):
                wrong.append(f"{package}: {name} imports {ours}")
    assert not wrong


def test_every_experiment_concludes_by_the_question_of_its_name():
    experiments = {name: set(imported(source)) for package, name, source in modules() if package == "experiments"}
    questions = {name for package, name, _ in modules() if package == "questions"}
    assert experiments
    assert {name for name in experiments if f"questions.{name}" not in questions} == set()
    assert {name for name, targets in experiments.items() if f"harness.questions.{name}" not in targets} == set()


def test_no_package_imports_from_its_own_layer_or_a_higher_one():
    layer_of = {package: number for number, layer in enumerate(LAYERS) for package in layer}
    upward = [
        f"{package} imports {other}"
        for package, others in ALLOWED.items()
        for other in others
        if layer_of[package_of(other)] >= layer_of[package]
    ]
    assert not upward


def test_no_package_holds_too_large_a_share_of_the_lines():
    lines = Counter[str]()
    for package, _, source in modules():
        lines[package] += source.count("\n")
    shares = {package: count / lines.total() for package, count in lines.items()}
    assert {package: share for package, share in shares.items() if share > LARGEST_SHARE} == {}


def test_a_library_is_known_only_to_its_packages():
    wrong = []
    for package, name, source in modules():
        for target in imported(source):
            library = target.partition(".")[0]
            if package != "commands" and library in KNOWN_TO and package not in KNOWN_TO[library]:
                wrong.append(f"{package}: {name} imports {library}")
    assert not wrong


def test_no_command_imports_wandb_itself():
    targets = {t.partition(".")[0] for package, _, text in modules() if package == "commands" for t in imported(text)}
    assert "harness" in targets
    assert not {"wandb", "wandb_workspaces"} & targets


def test_an_older_spelling_only_calls_its_command():
    for name in ENTRY_POINTS:
        path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
        ours = [target for target in imported(path.read_text()) if target.startswith("harness.")]
        assert len(ours) == 1, name
        assert ours[0].startswith("harness.commands."), name
