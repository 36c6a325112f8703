"""The wheel holds all it needs and is the same program as the checkout, wherever conf/ or experiments/ are decoys."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

from harness import __version__

long = pytest.mark.long

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ARGUMENTS = ["+experiment=tbs_sweep", "cluster=inline", "seeds=[0]", "question.total_batch_sizes=[256,512]"]
DECOY = "raise RuntimeError('the decoy was imported')\n"
DECOYS = {
    "conf/config.yaml": "seeds: [99]\n",
    "conf/experiment/tbs_sweep.yaml": "# @package _global_\nseeds: [99]\n",
    "experiments/__init__.py": DECOY,
    "experiments/ablation.py": DECOY,
    "experiments/tbs_sweep.py": DECOY,
}
# One more file of experiments/, which imports another one ...
EXTENDED = """
from experiments.ablation import Ablation

class Extended(Ablation):
    pass
"""
# ... and a user's file with a model, which workers import, and a question.
MINE = """
import sys

from experiments.ablation import Ablation
from experiments.extended import Extended
from harness.models.mlp import MLP

assert issubclass(Extended, Ablation)
assert Ablation is sys.modules["experiments.ablation"].Ablation

class Model(MLP):
    pass

class Question(Extended):
    def conclude(self, records):
        from experiments.ablation import Ablation as again

        assert again is Ablation
        return super().conclude(records)
"""
QUESTION = """# @package _global_
defaults:
  - override /model: of_mine
  - override /workload: digits_of_mine
  - override /lr_scaling: linear
question:
  _target_: mine.Question
  asks: Does the averaging of the weights matter?
  total_batch_sizes: [512]
  baseline: averaged
  choices:
    averaged: {averaging: {half_life_examples: 256, decide_on: averaged}}
    raw: {averaging: {half_life_examples: 0, decide_on: raw}}
seeds: [0]
"""
WORKLOAD = """# @package _global_
defaults:
  - override /dataset: digits
  - override /model: of_mine
workload:
  name: digits_of_mine
  loss: cross_entropy
  target: {metric: accuracy, value: 0.5, mode: max}
  budget: {epochs: 2}
  base_batch_size: 512
  base_lr: 0.1
  evaluate_every_examples: 512
"""
OWN_FILES = {
    "mine.py": MINE,
    "own/model/of_mine.yaml": "_target_: mine.Model\nfeatures: 64\nwidths: [16]\nclasses: 10\n",
    "own/workload/digits_of_mine.yaml": WORKLOAD,
    "own/experiment/question_of_mine.yaml": QUESTION,
}


@dataclass(frozen=True)
class Program:
    """One way to have the harness: a command that starts it, and where its experiments are."""

    command: list[str]
    experiments: Path
    python_path: str | None = None

    def run(self, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if self.python_path is not None:
            environment["PYTHONPATH"] = self.python_path
        command = [*self.command, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, text=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """bin/ of an environment that has the wheel and, behind it, the packages of this one; not this checkout."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, text=True, timeout=120)
    # A path line, unlike a site folder, brings no .pth file of its own along: an editable install stays behind.
    (site,) = home.glob("lib/python*/site-packages")
    (site / "packages_of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python.parent


@pytest.fixture(scope="module", params=["checkout", "wheel"])
def program(request, tmp_path_factory) -> Program:
    """The harness with one more file in experiments/."""
    if request.param == "wheel":
        bin_folder = request.getfixturevalue("installed")
        (package,) = bin_folder.parent.glob("lib/python*/site-packages/harness")
        found = Program([str(bin_folder / "harness")], package / "_experiments")
    else:
        copy = tmp_path_factory.mktemp("checkout")
        for name in ("harness", "conf", "experiments", "slurm"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        found = Program([sys.executable, "-m", "harness"], copy / "experiments", str(copy))
    (found.experiments / "extended.py").write_text(EXTENDED)
    return found


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@long
def test_the_wheel_carries_configuration_and_experiments_inside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"harness"}
    for place, inside in (("conf", "harness/_conf"), ("experiments", "harness/_experiments")):
        files = [
            path.relative_to(ROOT / place) for path in (ROOT / place).rglob("*") if path.suffix in (".yaml", ".py")
        ]
        assert files
        assert not [path for path in files if f"{inside}/{path}" not in names]
    code = [path.relative_to(ROOT) for path in (ROOT / "harness").rglob("*") if path.is_file()]
    assert not [path for path in code if path.suffix != ".pyc" and str(path) not in names]


@long
def test_wheel_and_source_distribution_carry_the_licence_and_the_notice(built, wheel):
    info = f"harness-{__version__}.dist-info"
    archive = zipfile.ZipFile(wheel)
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        names = tar.getnames()
    for name in ("LICENSE", "NOTICE"):
        assert archive.read(f"{info}/licenses/{name}") == (ROOT / name).read_bytes()
    for name in ("LICENSE", "NOTICE", "CITATION.cff", "README.md", "pyproject.toml"):
        assert f"harness-{__version__}/{name}" in names
    described = message_from_bytes(archive.read(f"{info}/METADATA"))
    assert (described["Version"], described["License-Expression"]) == (__version__, "Apache-2.0")


@long
def test_a_type_checker_reads_the_installed_packages_annotations(installed, tmp_path):
    command = [str(Path(sys.executable).with_name("pyright")), "--ignoreexternal", "--verifytypes", "harness.plan"]
    environment = {**os.environ, "PATH": os.pathsep.join([str(installed), os.environ["PATH"]])}
    checked = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    (marker,) = re.findall(r'Path of py\.typed file: "(.*)"', checked.stdout)
    assert Path(marker).is_relative_to(installed.parent)


def test_the_version_is_written_once_and_the_citation_agrees():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_the_notice_names_every_table_that_is_shipped():
    notice = (ROOT / "NOTICE").read_text()
    tables = [path.name for path in (ROOT / "harness" / "published" / "tables").iterdir() if path.suffix != ".md"]
    assert tables
    assert not [name for name in tables if name not in notice]


@long
@pytest.mark.parametrize("entry", ["module", "script"])
def test_an_installed_wheel_runs_its_own_sweep_among_decoys(installed, tmp_path, entry):
    write(tmp_path, DECOYS)
    command = [str(installed / "python"), "-m", "harness"] if entry == "module" else [str(installed / "harness")]
    done = Program(command, Path()).run(tmp_path, *ARGUMENTS, "tracking=disabled")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    study = tmp_path / "outputs" / "tbs_sweep" / "default"
    assert (study / "results.csv").is_file()
    assert json.loads((study / "study.json").read_text())["config"]["seeds"] == [0]
    where = Program([str(installed / "python")], Path()).run(tmp_path, "-c", "import harness; print(harness.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)


@long
def test_experiments_import_each_other_and_own_questions_import_them_among_decoys(program, tmp_path):
    write(tmp_path, {**DECOYS, **OWN_FILES})
    chosen = ["--config-dir", "own", "+experiment=question_of_mine", "tracking=disabled", "cluster.timing_min_s=0"]
    for study, cluster in {
        "inline": ["cluster=inline"],
        "ray": ["cluster.cpus=2", "cluster.workers_per_trial=2"],
    }.items():
        done = program.run(tmp_path, *chosen, *cluster, f"study={study}")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert len(list((tmp_path / "outputs" / "question_of_mine" / study).rglob("record.json"))) == 2
    folder = tmp_path / "outputs" / "question_of_mine" / "ray"
    refused = program.run(tmp_path, "report", str(folder))
    assert refused.returncode == 2
    assert "--trust" in refused.stderr
    report = program.run(tmp_path, "report", "--trust", str(folder))
    assert (report.returncode, report.stderr) == (0, ""), report.stdout + report.stderr
    plain = program.run(tmp_path, "+experiment=ema", "question._target_=experiments.extended.Extended", "dry_run=true")
    assert (plain.returncode, plain.stderr) == (0, ""), plain.stdout + plain.stderr
