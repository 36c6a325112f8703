"""The wheel holds all it needs: installed elsewhere, it runs from a folder whose conf/ and experiments/ are decoys."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
ARGUMENTS = ["+experiment=tbs_sweep", "cluster=inline", "seeds=[0]", "question.total_batch_sizes=[256,512]"]
DECOYS = {
    "conf/config.yaml": "seeds: [99]\n",
    "conf/experiment/tbs_sweep.yaml": "# @package _global_\nseeds: [99]\n",
    "experiments/__init__.py": "raise RuntimeError('the decoy was imported')\n",
    "experiments/tbs_sweep.py": "raise RuntimeError('the decoy was imported')\n",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([*command, "--skip-dependency-check"], check=True, capture_output=True, text=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


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


@pytest.mark.parametrize("door", ["module", "script"])
def test_an_installed_wheel_runs_its_own_sweep_among_decoys(installed, tmp_path, door):
    for name, text in DECOYS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [str(installed / "python"), "-m", "harness"] if door == "module" else [str(installed / "harness")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *ARGUMENTS, "tracking=disabled"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    study = tmp_path / "outputs" / "tbs_sweep" / "default"
    assert (study / "results.csv").is_file()
    assert json.loads((study / "study.json").read_text())["config"]["seeds"] == [0]
    where = "import harness; print(harness.__file__)"
    command = [str(installed / "python"), "-c", where]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(installed.parent)
