"""A workload's file may hold its dataset, model, optimizer and schedule, in place of the groups' defaults."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.config.arguments import command_line
from harness.config.build import build_workload
from harness.config.compose import compose_config
from harness.config.configuration import Configuration
from harness.config.places import available
from harness.plan.errors import UserError

WORKLOAD = """
workload:
  name: one
  loss: cross_entropy
  target: {metric: accuracy, value: 0.9, mode: max}
  budget: {epochs: 10}
  base_batch_size: 16
  base_lr: 0.02
  evaluate_every_examples: 512
"""
PARTS = """
dataset:
  _target_: mine.Rings
  train: 1024
model:
  _target_: mine.Net
  width: ${dataset.train}
optimizer: {_target_: torch.optim.AdamW, eps: 1.0e-6}
schedule: {_target_: harness.plan.schedules.Constant, warmup: {steps: 5}}
"""
FILES = {
    "workload/one.yaml": PARTS + WORKLOAD,
    "workload/child.yaml": "defaults: [one]\nmodel: {width: 8}\noptimizer: {_target_: torch.optim.SGD}\n",
    "model/tiny.yaml": "_target_: mine.Tiny\n",
    "experiment/delta.yaml": """
defaults: [override /workload: one]
question: {_target_: experiments.tbs_sweep.TbsSweep, total_batch_sizes: [16]}
model: {width: 5}
optimizer: {weight_decay: 0.1}
""".replace("[override /workload: one]", "\n  - override /workload: one"),
}

Compose = Callable[..., Configuration]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, **FILES)
    return tmp_path


@pytest.fixture
def compose(folder) -> Compose:
    def composed(*overrides: str) -> Configuration:
        question = () if any(word.startswith("+experiment=") for word in overrides) else ("+experiment=tbs_sweep",)
        config = command_line(["--config-dir", "own", *question, *overrides])
        assert config is not None
        return config

    return composed


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_parts_of_a_workloads_file_are_exactly_what_it_gives(compose):
    config = compose("workload=one")
    assert config.dataset == {"_target_": "mine.Rings", "train": 1024}
    assert config.model == {"_target_": "mine.Net", "width": 1024}  # from the data set, in the same file
    assert config.optimizer == {"_target_": "torch.optim.AdamW", "eps": 1e-6}
    assert config.schedule == {"_target_": "harness.plan.schedules.Constant", "warmup": {"steps": 5}}
    assert config.workload.name == "one"


def test_a_part_is_called_after_its_class(compose):
    config = compose("workload=one")
    assert [config.choices[part] for part in ("dataset", "model", "optimizer", "schedule", "workload")] == [
        *("Rings", "Net", "AdamW", "Constant", "one")
    ]
    assert config.optimizer_name == "AdamW"


def test_the_command_line_changes_one_key_or_chooses_a_file(compose):
    assert compose("workload=one", "model.width=3").model == {"_target_": "mine.Net", "width": 3}
    assert compose("workload=one", "+model.depth=2").model["depth"] == 2
    chosen = compose("workload=one", "model=tiny", "optimizer=adam")
    assert chosen.model == {"_target_": "mine.Tiny"}
    assert set(chosen.optimizer) == {"_target_", "betas", "eps", "weight_decay"}
    assert (chosen.choices["model"], chosen.optimizer_name) == ("tiny", "adam")
    assert chosen.workload.base_lr == 0.02


def test_an_experiments_file_changes_single_keys(compose):
    config = compose("+experiment=delta")
    assert config.model == {"_target_": "mine.Net", "width": 5}
    assert config.optimizer == {"_target_": "torch.optim.AdamW", "eps": 1e-6, "weight_decay": 0.1}


def test_a_workload_that_builds_on_another_changes_its_keys_and_replaces_what_it_gives_itself(compose):
    config = compose("workload=child")
    assert config.model == {"_target_": "mine.Net", "width": 8}
    assert config.optimizer == {"_target_": "torch.optim.SGD"}
    assert config.choices["dataset"] == "Rings"


@pytest.mark.parametrize(("part", "other"), [("model=tiny", "dataset"), ("dataset=digits", "model")])
def test_half_of_its_pair_is_refused_with_what_to_do(compose, part, other):
    with pytest.raises(UserError, match=f"^{other} is that of workload one, so .* by workload=one, or choose another"):
        compose("+experiment=delta", part)
    assert compose("+experiment=delta", part, "workload=one").workload.name == "one"


def test_a_loss_by_target_replaces_another_one_in_a_file_and_on_the_command_line(compose, folder):
    first = WORKLOAD.replace("loss: cross_entropy", "loss: {_target_: mine.Loss, weight: 2}")
    second = (
        "defaults: [first]\nworkload: {loss: {_target_: mine.Other, beta: 1}, metrics: [mse, {_target_: mine.M}]}\n"
    )
    third = "defaults: [second]\nworkload: {loss: {beta: 3}}\n"
    write(
        folder,
        **{f"workload/{name}.yaml": text for name, text in {"first": first, "second": second, "third": third}.items()},
    )
    assert compose("workload=first").workload.loss == {"_target_": "mine.Loss", "weight": 2}
    config = compose("workload=second")
    assert config.workload.loss == {"_target_": "mine.Other", "beta": 1}
    assert config.workload.metrics == ["mse", {"_target_": "mine.M"}]
    assert compose("workload=third").workload.loss == {"_target_": "mine.Other", "beta": 3}
    given = compose("workload=second", "workload.loss={_target_: mine.Third, gamma: 1}")
    assert given.workload.loss == {"_target_": "mine.Third", "gamma": 1}
    assert compose("workload=second", "workload.loss=mse").workload.loss == "mse"


def test_a_duration_in_a_file_replaces_one_in_another_unit(compose, folder):
    text = "defaults: [digits_bn_cnn]\nschedule: {warmup: {epochs: 1}}\nworkload: {budget: {steps: 300}}\n"
    write(folder, **{"workload/short.yaml": text})
    config = compose("workload=short")
    assert config.schedule["warmup"] == {"epochs": 1}
    assert config.raw["workload"]["budget"] == {"steps": 300}
    with pytest.raises(UserError, match=r"^workload\.budget has the units epochs and steps: write the whole duration"):
        compose("workload=short", "workload.budget.epochs=2")


@pytest.mark.parametrize("name", available("workload"))
def test_every_shipped_workload_has_durations_in_one_unit(name):
    workload = build_workload(compose_config(["+experiment=tbs_sweep", f"workload={name}"]), 8192)
    assert workload.resolved_schedule(workload.base_batch_size)["warmup"] >= 0
    assert workload.budget_examples > 0


@pytest.mark.parametrize("head", ["", "# mine\n\n", "# @package _global_\n", "# mine\n# @package _global_\n"])
def test_the_package_line_may_be_left_out(compose, folder, head):
    write(folder, **{"workload/two.yaml": head + PARTS + WORKLOAD})
    assert compose("workload=two").model["_target_"] == "mine.Net"


def test_a_file_that_begins_below_workload_means_what_it_meant(compose, folder):
    write(folder, **{"workload/old.yaml": "defaults: [digits_bn_cnn]\nbase_lr: 0.5\n"})
    assert compose("workload=old").workload.base_lr == 0.5


BAD: dict[str, tuple[str, str]] = {
    "twice": ("defaults:\n  - override /model: mlp\n" + PARTS, "workload/twice.yaml gives the model twice, in its"),
    "nested": ("workload: {model: {_target_: mine.Net}}\n", "'workload.model': it belongs at the top level, as model"),
    "top": (PARTS + "loss: mse\n", "unknown key 'loss': it belongs below workload, as workload.loss"),
    "dotted": ("model._target_: mine.Net\n", r"write model: \{_target_: \.\.\.\} instead of model\._target_: \.\.\."),
    "number": ("model: {_target_: 3}\n", r"model\._target_ must be a dotted path like package\.module\.Class, not 3"),
    "no_name": ("model: {_target_: null}\n", r"model\._target_ must be a dotted path .*, not null"),
    "word": ("model: {_target_: Net}\n", r"model\._target_ must be a dotted path .*, not 'Net'"),
    "list": ("model: [mine.Net]\n", r"workload/list.yaml: model must be a mapping, not \['mine.Net'\]"),
    "text": ("model: mine.Net\n", r"text.yaml: model must be a mapping, not 'mine.Net': write \{_target_: mine.Net\}"),
    "nothing": ("model: null\n", "nothing.yaml: model must be a mapping, not null"),
    "empty": ("", "workload/empty.yaml must hold keys and values, such as .*, not an empty file"),
    "items": ("- model\n- dataset\n", "workload/items.yaml must hold keys and values, such as .*, not a list"),
    "forgot": ("dataset: {folder: x}\n", "dataset has no _target_, so it changes dataset=digits, .* add its _target_"),
    "near": ("dataset: {tran: 5}\n", r"so it changes dataset=digits, .* did you mean 'dataset\.train'\?"),
    "misspelt": ("datset: {_target_: mine.Rings}\n", "misspelt.yaml: unknown key 'datset': did you mean 'dataset'"),
    "tabs": ("model:\n\t_target_: mine.Net\n", "tabs.yaml, line 2: there is a tab: indent with spaces"),
    "again": (PARTS + "model: {_target_: mine.Net}\n", "again.yaml, line 10: found duplicate key model"),
    "braces": (
        "model: {_target_: mine.Net, width: ${seeds}}\n",
        r"line 1: .* an interpolation \$\{\.\.\.\} needs quote",
    ),
    "nowhere": ("model:\n  _target_: mine.Net\n  width: ${dataset.tran}\n", "model.width: .*'dataset.tran' not found"),
    "missing": ("model:\n  _target_: mine.Net\n  width: ???\n", r"model\.width must be given"),
    "star": ("parameter_groups: {lr_factors: {*.bias: 2}}\n", r"line 1: a name that begins with \* needs quotes"),
    "lr": ("optimizer: {_target_: torch.optim.SGD, lr: 1}\n", r"optimizer\.lr is set by the LR rule"),
    **{
        key: (f"model: {{_target_: mine.Net, {key}: 1}}\n", rf"model\.{key} is an option of Hydra's instantiate")
        for key in ("_partial_", "_args_", "_convert_", "_recursive_")
    },
}


FAST = ("twice", "nested", "top", "text", "empty", "tabs", "_partial_")


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.long) for name in BAD])
def test_what_a_file_gets_wrong_is_told_in_one_line(compose, folder, name):
    text, words = BAD[name]
    both = not text or text.startswith(("workload:", "-"))
    write(folder, **{f"workload/{name}.yaml": text if both else text + WORKLOAD})
    with pytest.raises(UserError, match=words) as refused:
        compose(f"workload={name}")
    assert "\n" not in str(refused.value)


def test_an_argument_that_a_class_takes_and_its_file_does_not_give_is_added_with_a_plus(compose, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "plain.py").write_text("def net(width=1, depth=2): pass\n")
    write(folder, **{"workload/plain.yaml": "model: {_target_: plain.net, width: 3}\n" + WORKLOAD})
    with pytest.raises(
        UserError, match=r"model\.depth is not set here: to add that argument, write \+model\.depth=\.\.\."
    ):
        compose("workload=plain", "model.depth=5")
    with pytest.raises(UserError, match=r"unknown key 'model\.widht': did you mean 'model\.width'\?"):
        compose("workload=plain", "model.widht=5")


def test_cfg_prints_the_parts_of_the_file(compose, capsys):
    assert command_line(["--config-dir", "own", "+experiment=tbs_sweep", "workload=one", "--cfg", "job"]) is None
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"] == {"_target_": "mine.Net", "width": "${dataset.train}"}
    assert printed["workload"]["budget"] == {"epochs": 10}
