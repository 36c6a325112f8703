"""Command line beats experiment beats workload beats the other groups; a folder of one's own adds groups to ours."""

from pathlib import Path

import pytest

from harness.config.arguments import command_line
from harness.plan.duration import Duration
from harness.plan.errors import UserError

FILES = {
    "dataset/dots.yaml": "_target_: harness.datasets.digits.Digits\ntrain: 512\nvalidation: 300\ntest: 300\n",
    "model/tiny.yaml": "_target_: harness.models.mlp.MLP\nfeatures: 64\nwidths: [8]\nclasses: 10\n",
    "workload/dots_tiny.yaml": """# @package _global_
defaults:
  - override /dataset: dots
  - override /model: tiny
workload:
  name: dots_tiny
  loss: cross_entropy
  target: {metric: accuracy, value: 0.5, mode: max}
  budget: {epochs: 2}
  base_batch_size: 32
  base_lr: 0.25
  evaluate_every_examples: 256
optimizer:
  momentum: 0.5
""",
    "workload/by_another_name.yaml": """# @package _global_
defaults:
  - dots_tiny
  - override /dataset: dots
  - override /model: tiny
  - _self_
workload:
  name: by_another_name
""",
    "experiment/mine.yaml": """# @package _global_
# python -m harness --config-dir own +experiment=mine
defaults:
  - override /workload: dots_tiny
  - override /optimizer: nesterov
  - override /lr_scaling: linear
question:
  _target_: experiments.tbs_sweep.TbsSweep
  total_batch_sizes: [64, 128]
workload:
  base_lr: 0.125
seeds: [7]
""",
    "experiment/half_a_pair.yaml": """# @package _global_
# python -m harness --config-dir own +experiment=half_a_pair
defaults:
  - override /model: tiny
question:
  _target_: experiments.tbs_sweep.TbsSweep
  total_batch_sizes: [64]
""",
}


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """A --config-dir whose path needs quoting."""
    folder = tmp_path / "my own, 'conf'"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return str(folder)


def composed(*arguments: str):
    config = command_line(arguments)
    assert config is not None
    return config


def test_a_workload_beats_the_other_groups(own):
    config = composed(
        "--config-dir", own, "+experiment=tbs_sweep", "workload=dots_tiny", "question.total_batch_sizes=[64]"
    )
    assert config.model["_target_"] == "harness.models.mlp.MLP"
    assert config.dataset["train"] == 512
    assert config.optimizer["momentum"] == 0.5  # sgd.yaml says 0.9


def test_an_experiment_beats_its_workload_and_groups(own):
    config = composed("--config-dir", own, "+experiment=mine")
    assert config.workload.name == "dots_tiny"
    assert config.workload.base_lr == 0.125  # dots_tiny.yaml says 0.25
    assert config.optimizer["nesterov"] is True
    assert config.optimizer["momentum"] == 0.5
    assert config.lr_scaling.rules == ["linear"]
    assert config.seeds == [7]
    assert config.choices["optimizer"] == "nesterov"


def test_the_command_line_beats_all(own):
    arguments = ["workload.base_lr=0.5", "optimizer=sgd", "optimizer.momentum=0.75", "lr_scaling=sqrt", "seeds=[1,2]"]
    config = composed("--config-dir", own, "+experiment=mine", *arguments)
    assert config.workload.base_lr == 0.5
    assert config.optimizer["nesterov"] is False
    assert config.optimizer["momentum"] == 0.75
    assert config.lr_scaling.rules == ["sqrt"]
    assert config.seeds == [1, 2]
    assert composed("--config-dir", own, "+experiment=mine", "workload=digits_bn_cnn").dataset["train"] == 1024


def test_the_order_of_arguments_does_not_matter(own):
    arguments = ["--config-dir", own, "+experiment=mine", "workload.base_lr=0.5", "lr_scaling=sqrt", "seeds=[1,2]"]
    first, second = composed(*arguments), composed(*arguments[:2], *reversed(arguments[2:]))
    assert [first.overrides, second.overrides] == [arguments[2:], arguments[:1:-1]]  # kept as they were given
    values = [{key: value for key, value in config.raw.items() if key != "overrides"} for config in (first, second)]
    assert values[0] == values[1]


@pytest.mark.parametrize("pair", [("dataset=dots", "model=tiny"), ("model=tiny", "dataset=dots")])
def test_choosing_dataset_and_model_brings_the_workload_of_the_pair(own, pair):
    config = composed("--config-dir", own, "+experiment=tbs_sweep", *pair)
    assert config.choices["workload"] == "dots_tiny"
    assert config.workload.base_batch_size == 32


def test_a_workload_is_known_by_the_pair_it_chooses_whatever_its_name(own):
    config = composed("--config-dir", own, "+experiment=tbs_sweep", "workload=by_another_name")
    assert (config.choices["dataset"], config.workload.name) == ("dots", "by_another_name")


def test_an_experiment_that_changes_half_of_a_pair_is_refused_until_a_workload_is_chosen(own):
    arguments = ["--config-dir", own, "+experiment=half_a_pair"]
    with pytest.raises(UserError, match="no workload for dataset digits with model tiny"):
        composed(*arguments)
    assert composed(*arguments, "workload=digits_bn_cnn").model["widths"] == [8]


def test_a_duration_on_the_command_line_replaces_one_in_another_unit(own):
    config = composed("--config-dir", own, "+experiment=mine", "workload.budget={steps: 40}")
    assert config.workload.budget == Duration(40, "steps")


def test_own_names_are_offered_and_hinted_at_like_ours(own):
    with pytest.raises(UserError, match=r"did you mean 'tiny'\?"):
        composed("--config-dir", own, "+experiment=mine", "model=tinny")
    with pytest.raises(UserError, match=r"with one of: .*half_a_pair.*mine"):
        composed("--config-dir", own)


GLOBAL = "# @package _global_\n"
MISTAKES = {
    "model/bn_cnn.yaml": (
        "_target_: a.B\n",
        "model/bn_cnn.yaml in --config-dir .* has the name of a file of the harness",
    ),
    "experiment/torn.yaml": ("seeds: [1, 2\n", r"torn.yaml.*, line \d"),
    "experiment/misspelt.yaml": (
        GLOBAL + "sedes: [1]\n",
        "misspelt.yaml: unknown key 'sedes': did you mean 'seeds'",
    ),
    "experiment/wrong.yaml": (
        "# @package _global_\nworkload: {base_lr: abc}\n",
        "experiment/wrong.yaml: workload.base_lr must be a number, not abc",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_ones_own_file_is_told_in_one_line(own, name):
    text, words = MISTAKES[name]
    (Path(own) / name).write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        composed("--config-dir", own, f"+experiment={Path(name).stem if name.startswith('experiment') else 'mine'}")
    assert "\n" not in str(refused.value)


def test_a_config_dir_that_is_none_is_refused(own):
    with pytest.raises(UserError, match="--config-dir nowhere does not exist"):
        composed("--config-dir", "nowhere", "+experiment=tbs_sweep")
