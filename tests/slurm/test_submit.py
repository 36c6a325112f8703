"""What `harness submit` asks Slurm for, and what it refuses before Slurm is asked."""

import shlex

import pytest

from harness.commands.submit import main

SLURM = ["+experiment=tbs_sweep", "cluster=slurm"]


def printed(capsys, *arguments: str) -> list[str]:
    assert main([*SLURM, *arguments, "dry_run=true"]) == 0
    return shlex.split(capsys.readouterr().out)


def test_the_command_carries_the_allocation_and_the_arguments_but_not_dry_run(capsys, tmp_path):
    arguments = ["cluster.slurm.nodes=4", "cluster.slurm.gpus_per_node=8", "seeds=[0,1]", f"output_dir={tmp_path}"]
    command = printed(capsys, *arguments)
    assert command[0] == "sbatch"
    assert {"--nodes=4", "--gpus-per-node=8", "--ntasks-per-node=1", "--requeue", "--open-mode=append"} <= {*command}
    script = next(index for index, word in enumerate(command) if word.endswith(".sbatch"))
    assert command[script].endswith("slurm/many_nodes.sbatch")
    assert command[script + 1 :] == [*SLURM, *arguments]
    assert not (tmp_path / "tbs_sweep").exists()


def test_one_node_needs_no_cluster_over_nodes(capsys):
    assert any(word.endswith("slurm/one_node.sbatch") for word in printed(capsys))


def test_an_array_shares_the_study_and_keeps_a_log_for_each_of_its_jobs(capsys):
    command = printed(capsys, "cluster.slurm.array=3")
    assert "--array=0-2" in command
    assert next(word for word in command if word.startswith("--output=")).endswith("slurm-%A_%a.out")
    assert command[-1] == "cluster.share_study=true"


def test_the_warning_leaves_the_grace_time_and_the_minute_that_slurm_may_be_early(capsys):
    assert "--signal=B:USR1@260" in printed(capsys, "cluster.grace_s=200")


def test_further_options_and_no_kill_are_handed_on(capsys):
    command = printed(capsys, "cluster.slurm.no_kill=true", "cluster.slurm.options=['--constraint=a100']")
    assert {"--no-kill", "--constraint=a100"} <= {*command}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cluster.slurm.nodes=2", "cluster.workers_per_trial=3"], "2 node(s) of 1 CPUs and 0 GPUs hold 2"),
        (["cluster.slurm.gpus_per_node=2", "cluster.workers_per_trial=4"], "hold 1"),  # one CPU a node
        (["cluster.slurm.array=2", "cluster.slurm.nodes=2"], "use cluster.slurm.nodes=1 or cluster.slurm.array=1"),
        (["cluster.slurm.nodes=0"], "cluster.slurm.nodes must be >= 1, not 0"),
        (["cluster.slurm.nods=2"], "did you mean 'cluster.slurm.nodes'?"),
        (["cluster=local"], "harness submit needs cluster=slurm"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(capsys, arguments, words):
    kept = [word for word in SLURM if not any(a.startswith(word.split("=")[0] + "=") for a in arguments)]
    assert main([*kept, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_machine_without_slurm_says_where_to_run_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*SLURM, f"output_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: sbatch is not on PATH")
