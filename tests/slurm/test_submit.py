"""What `harness submit` asks Slurm for, and what it refuses before Slurm is asked."""

import os
import shlex

import pytest

from harness.commands.main import main as command_line
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
        (
            ["cluster.slurm.nodes=2", "cluster.workers_per_trial=4", "question.total_batch_sizes=[64]"],
            "the cluster has 2 CPUs and 0 GPUs on 2 node(s): at most 2 workers fit",
        ),
        (
            ["cluster.slurm.gpus_per_node=2", "cluster.workers_per_trial=4", "question.total_batch_sizes=[64]"],
            "at most 1 workers fit; lower cluster.workers_per_trial, cluster.cpus_per_worker or cluster.gpus_per_worker"
            ", or raise cluster.slurm.nodes",  # one CPU a node
        ),
        (["cluster.workers_per_trial=2", "question.total_batch_sizes=[16]"], "the nearest valid values are 32 and 64"),
        (["question.total_batch_sizes=[0]"], "total batch sizes must be integers >= 1, not 0"),
        (["model._target_=harness.models.bn_cnn.Nope"], "has no 'Nope'"),
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


def fake(tmp_path, monkeypatch, script: str) -> None:
    """An `sbatch` that does what `script` says."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def test_a_job_that_slurm_rejects_leaves_no_folder(capsys, monkeypatch, tmp_path):
    fake(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition' >&2; exit 1")
    assert main([*SLURM, f"output_dir={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.startswith("error: Slurm rejected the job: error: invalid partition; ")
    assert not (tmp_path / "out").exists()


def test_the_watch_command_works_while_the_job_is_queued(capsys, monkeypatch, tmp_path):
    fake(tmp_path, monkeypatch, "echo 42")
    assert main([*SLURM, f"output_dir={tmp_path / 'out'}"]) == 0
    watch = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("watch:"))
    _, harness, *arguments = shlex.split(watch)
    assert harness == "harness"
    assert command_line(arguments) == 0
    assert "tbs_sweep default: " in (out := capsys.readouterr().out)
    assert "Slurm job 42" in out
