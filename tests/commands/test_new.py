"""`harness new workload` writes files that plan and train as they are, and never overwrites one."""

import sys
from pathlib import Path

import pytest

from harness.commands.main import main
from harness.config.build import build_workload
from harness.config.compose import compose_config
from harness.config.places import available, conf_folder
from harness.plan.trial import Trial
from harness.plan.workload import Workload

TEMPLATE_FILES = {"mine.py", "myconf/workload/mine.yaml"}
SMALL = ["question.total_batch_sizes=[16,64]", "seeds=[0]", "cluster=inline", "tracking=disabled"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # commands add the current folder
    for name in [name for name in sys.modules if name == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_command_that_it_prints_plans_with_the_template(folder, capsys):
    assert main(["new", "workload", "mine"]) == 0
    wrote, then = capsys.readouterr().out.splitlines()
    assert wrote == "wrote myconf/workload/mine.yaml and mine.py"
    assert files(folder) == TEMPLATE_FILES
    assert then.startswith("next: harness +experiment=tbs_sweep workload=mine --config-dir myconf")
    assert main(then.split()[2:]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "workload      mine: 1,024 training examples, loss cross_entropy" in printed.out
    assert "80 distinct of 90 planned" in printed.out
    assert files(folder) == TEMPLATE_FILES


@pytest.mark.long
def test_the_template_is_trained_and_its_own_parts_are_reported(folder):
    assert main(["new", "workload", "mine", "--config-dir", "own"]) == 0
    sweep = ["+experiment=tbs_sweep", "workload=mine", "--config-dir", "own", *SMALL]
    assert main([*sweep, "cluster.timing_min_s=0", "cluster.timing_min_steps=2"]) == 0
    study = folder / "outputs" / "tbs_sweep" / "default"
    assert len(list(study.rglob("record.json"))) == 4  # TBS 16 once, TBS 64 under three rules
    head, *rows = (study / "results.csv").read_text().splitlines()
    assert [row.split(",")[head.split(",").index("optimizer")] for row in rows] == ["SGD"] * len(rows)
    assert "mine.Net" in (study / "study.json").read_text()


@pytest.mark.long
def test_the_doctor_passes_the_template(folder, capsys):
    assert main(["new", "workload", "mine"]) == 0
    place = f"output_dir={folder / 'outputs'}"
    assert main(["doctor", "workload=mine", "--config-dir", "myconf", "cluster=inline", place]) == 0
    assert "FAIL" not in capsys.readouterr().out


def trial_ids(workload: Workload) -> set[str]:
    sizes = [workload.base_batch_size, workload.base_batch_size * 4]
    arms = [workload.arm(rule, size) for rule in ("none", "sqrt", "linear") for size in sizes]
    return {Trial(arm, seed).trial_id for arm in arms for seed in (0, 1)}


def composed(name: str, config_dir: str | None = None) -> Workload:
    return build_workload(compose_config(["+experiment=tbs_sweep", f"workload={name}"], config_dir), 8192)


FAST = ("cifar10_resnet20",)


@pytest.mark.parametrize(
    "origin", [pytest.param(w, marks=[pytest.mark.long] * (w not in FAST)) for w in available("workload")]
)
def test_a_workload_written_out_plans_the_same_trials(folder, origin):
    assert main(["new", "workload", "whole", "--from", origin, "--config-dir", "own"]) == 0
    assert files(folder) == {"own/workload/whole.yaml"}
    written = composed("whole", "own")
    assert written.name == "whole"
    assert trial_ids(written) == trial_ids(composed(origin))


def test_an_own_workload_is_written_out_with_its_parameter_groups_and_interpolations(folder):
    (folder / "own" / "workload").mkdir(parents=True)
    (folder / "own" / "workload" / "first.yaml").write_text(
        "defaults: [digits_bn_cnn]\nparameter_groups: {lr_factors: {'*.bias': 2}}\nmodel: {classes: '${seeds.0}'}\n"
        "lr_scaling: {co_scaling: {momentum: half_life}}\nworkload: {loss: {_target_: mine.Loss, weights: [1, 2]}}\n"
    )
    assert main(["new", "workload", "whole", "--from", "first", "--config-dir", "own"]) == 0
    text = (folder / "own" / "workload" / "whole.yaml").read_text()
    assert "classes: ${seeds.0}" in text
    assert "# images; " in text or "# examples; stratified" in text  # comments of the files that it was made of
    assert trial_ids(composed("whole", "own")) == trial_ids(composed("first", "own"))


REFUSED = {
    "mine": "myconf/workload/mine.yaml exists: choose another name, or remove it",
    "torch": "there is a Python module 'torch' already, which torch.py would hide: choose another name",
    "digits_bn_cnn": "digits_bn_cnn is a workload of the harness: choose another name",
    **{
        name: f"NAME must be a word of letters, digits and _ that means nothing else, not {name!r}"
        for name in ("my-own", "class", "null", "a/b", "", "9x")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_taken_or_none_is_refused(folder, capsys, name):
    (folder / "myconf" / "workload").mkdir(parents=True)
    (folder / "myconf" / "workload" / "mine.yaml").write_text("seeds: [0]\n")
    before = files(folder)
    assert main(["new", "workload", name]) == 2
    assert capsys.readouterr().err == f"error: {REFUSED[name]}\n"
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["workload"], "the following arguments are required: NAME; see harness new --help"),
        (["worklod", "mine"], "invalid choice: 'worklod'"),
        (
            ["workload", "mine", "--from", "digits_bn_cn"],
            "unknown workload 'digits_bn_cn': did you mean 'digits_bn_cnn'?",
        ),
        (["workload", "mine", "--config-dir", str(conf_folder())], "is the harness's own: give a folder of your own"),
        (["workload", "mine", "--config-dir", "file"], "--config-dir file is not a directory"),
        (["workload", "theirs"], "theirs.py exists: choose another name, or remove it"),
    ],
)
def test_a_bad_call_writes_nothing(folder, capsys, arguments, words):
    (folder / "file").touch()
    (folder / "theirs.py").touch()
    assert main(["new", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert files(folder) == {"file", "theirs.py"}
