"""What made a study's numbers besides its code: commit, versions, machine."""

from harness import __version__
from harness.plan.stored import remedy
from harness.record.provenance import PACKAGE, cpu_model, git_state, usable_cpus, versions


def test_versions_name_python_and_the_packages_that_shape_a_run():
    named = versions()
    assert {"python", "torch", "numpy", "scikit-learn"} <= set(named)
    assert "no-such-package" not in named


def test_the_version_that_studies_name_does_not_hang_on_the_name_of_the_distribution():
    """Messages about older studies read versions["harness"], and a distribution may be renamed."""
    assert versions()["harness"] == __version__
    lookups = [path for path in PACKAGE.rglob("*.py") if 'version("harness")' in path.read_text(encoding="utf-8")]
    assert lookups == []
    assert remedy({"versions": {"harness": "99.0"}}) == "use harness >= 99.0"


def test_a_folder_that_is_not_a_checkout_has_no_git_state(tmp_path):
    assert git_state(tmp_path) == {}


def test_the_machine_is_named():
    assert cpu_model()
    assert usable_cpus() >= 1
