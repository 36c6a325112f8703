"""What made a study's numbers besides its code: commit, versions, machine."""

from harness.record.provenance import cpu_model, git_state, usable_cpus, versions


def test_versions_name_python_and_the_packages_that_shape_a_run():
    named = versions()
    assert {"python", "torch", "numpy", "scikit-learn"} <= set(named)
    assert "no-such-package" not in named


def test_a_folder_that_is_not_a_checkout_has_no_git_state(tmp_path):
    assert git_state(tmp_path) == {}


def test_the_machine_is_named():
    assert cpu_model()
    assert usable_cpus() >= 1
