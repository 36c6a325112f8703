"""The rooms import each other in one direction only, and a package is known only to the rooms it belongs to."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"

# Room -> what it may import of ours, as prefixes (DESIGN, section 2). Its own modules go without saying.
ALLOWED = {
    "plan": (),
    "models": ("plan.errors",),
    "datasets": ("plan.errors",),
    "optimizers": ("plan.errors",),
    "record": ("plan",),
    "config": ("plan",),
    "train": (
        "plan",
        "record.journal",
        "record.files",
        "record.drain_flag",
        "record.limit",
        "models",
        "datasets",
        "optimizers",
    ),
    "launch": ("plan", "train", "record"),
    "analyse": ("plan", "record.journal", "record.study", "record.files"),
    "report": ("plan", "analyse", "record.files", "record.study", "record.tracking.runs"),
    "experiments": ("plan", "analyse"),
}
# What a person calls joins the rooms and may import all of them; no room imports it.
DOORS = ("__main__", "session", "doctor", "published", "status", "submit", "track", "report.__main__")
# Package -> the only rooms that know it.
KNOWN_TO = {
    "hydra": ("config",),
    "omegaconf": ("config",),
    "ray": ("launch",),
    "wandb": ("record",),
    "wandb_workspaces": ("record",),
    "torch": ("models", "datasets", "optimizers", "train", "launch"),
    "matplotlib": ("report",),
    "jinja2": ("report",),
}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """(room, dotted name below harness, syntax tree) of every module that is not a door."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name not in (*DOORS, "__init__"):
            yield name.partition(".")[0], name, ast.parse(path.read_text())
    for path in sorted((ROOT / "experiments").glob("*.py")):
        yield "experiments", path.stem, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from harness import x` and `from harness.plan import x` name a module only with x.
            packages = node.module in ("harness", *(f"harness.{room}" for room in ALLOWED))
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if packages else [node.module]


def test_every_module_belongs_to_a_room():
    assert {room for room, _, _ in modules()} == set(ALLOWED)


def test_rooms_import_only_what_their_direction_allows():
    wrong = []
    for room, name, tree in modules():
        for target in imported(tree):
            if not target.startswith("harness."):
                continue
            ours = target.removeprefix("harness.")
            if not any(f"{ours}.".startswith(f"{prefix}.") for prefix in (room, *ALLOWED[room])):
                wrong.append(f"{room}: {name} imports {ours}")
    assert not wrong


def test_the_directions_make_no_circle():
    rooms = {room: {prefix.partition(".")[0] for prefix in prefixes} for room, prefixes in ALLOWED.items()}
    while rooms:
        leaves = {room for room, others in rooms.items() if not others & set(rooms)}
        assert leaves, f"a circle among {', '.join(rooms)}"
        rooms = {room: others for room, others in rooms.items() if room not in leaves}


def test_a_package_is_known_only_to_its_rooms():
    wrong = []
    for room, name, tree in modules():
        for target in imported(tree):
            package = target.partition(".")[0]
            if package in KNOWN_TO and room not in KNOWN_TO[package]:
                wrong.append(f"{room}: {name} imports {package}")
    assert not wrong


def test_no_door_imports_wandb_itself():
    doors = [PACKAGE.joinpath(*door.split(".")).with_suffix(".py") for door in DOORS]
    targets = {target.partition(".")[0] for path in doors for target in imported(ast.parse(path.read_text()))}
    assert "harness" in targets
    assert not {"wandb", "wandb_workspaces"} & targets
