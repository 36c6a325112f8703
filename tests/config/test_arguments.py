"""The flags that make sense here work and end with 0; the others are refused with what to use instead."""

import pytest
from omegaconf import OmegaConf


def test_help_names_experiments_groups_and_exit_codes(harness):
    said = harness("--help")
    assert (said.code, said.err) == (0, "")
    for words in ("+experiment=NAME", "tbs_sweep", "digits_bn_cnn", "dry_run=true", "--config-dir DIR", "2 bad input"):
        assert words in said.out
    assert harness("-h").out == said.out


@pytest.mark.parametrize("flag", ["--multirun", "-m"])
def test_multirun_is_refused_with_lists_to_use_instead(harness, flag):
    refusal = harness("+experiment=tbs_sweep", flag, "seeds=0,1").refusal()
    assert "question.total_batch_sizes=[16,64,256] seeds=[0,1,2]" in refusal


@pytest.mark.parametrize("flag", ["--nonsense", "--config-name=x", "--config-path=x", "--cfg=x", "--config-dir"])
def test_an_unknown_flag_is_refused_with_where_to_look(harness, flag):
    assert "see harness --help" in harness("+experiment=tbs_sweep", flag).refusal()


def test_cfg_job_prints_the_configuration_that_would_run(harness):
    said = harness("+experiment=tbs_sweep", "--cfg", "job", "seeds=[3]", "dataset=quadratic", "model=quadratic")
    assert (said.code, said.err) == (0, "")
    config = OmegaConf.create(said.out)
    assert config.seeds == [3]
    assert config.workload.name == "noisy_quadratic"  # the pair brings its workload, printed as it would run
    assert not list(said.folder.iterdir())


def test_cfg_job_resolves_interpolations_when_asked(harness):
    arguments = ["+experiment=tbs_sweep", "--cfg", "job", "dataset=cifar10", "workload=digits_bn_cnn"]
    assert "${..classes}" in harness(*arguments).out
    resolved = harness(*arguments, "--resolve")
    assert resolved.code == 0
    assert OmegaConf.create(resolved.out).dataset.augment.classes == 10


def test_cfg_refuses_what_a_run_would_refuse_in_composition(harness):
    refusal = harness("+experiment=tbs_sweep", "--cfg=job", "workload.bse_lr=1").refusal()
    assert "did you mean 'workload.base_lr'?" in refusal


def test_flags_may_stand_anywhere_among_the_overrides(harness):
    first = harness("--cfg", "job", "+experiment=tbs_sweep", "seeds=[3]", "dry_run=true")
    assert first.code == 0
    assert harness("+experiment=tbs_sweep", "--cfg", "job", "seeds=[3]", "dry_run=true").out == first.out
    assert harness("+experiment=tbs_sweep", "seeds=[3]", "dry_run=true", "--cfg", "job").out == first.out


def test_shell_completion_is_installed_for_the_harness_command(harness):
    said = harness("-sc", "install=bash")
    assert (said.code, said.err) == (0, "")
    assert "complete -o nospace -o default -F hydra_bash_completion harness" in said.out


LINES = {
    "harness +experiment=tbs": "+experiment=tbs_sweep",
    "harness lr_scaling=lin": "lr_scaling=linear",
    "harness cluster.workers": "cluster.workers_per_trial=",
}


@pytest.mark.parametrize("line", LINES)
def test_shell_completion_knows_groups_and_keys(harness, monkeypatch, line):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    said = harness("-sc", "query=bash")
    assert said.code == 0
    assert LINES[line] in said.out.split()
