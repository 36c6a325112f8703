"""Shell completion offers commands, folders, and what Hydra knows, also behind a command or a --config-dir.

Each line is asked as a shell asks it: `harness -sc query=SHELL` with the line so far in COMP_LINE.
"""

import pytest

from harness.commands.main import main


@pytest.fixture
def complete(monkeypatch, capsys):
    def ask(line: str, shell: str = "bash") -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        assert main(["-sc", f"query={shell}"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""  # it would be written over the prompt
        return printed.out.split()

    return ask


LINES = {
    "harness re": "report",
    "harness ": "doctor",
    "harness +experiment=tu": "+experiment=tuned",
    "harness sweep +experiment=tbs_sweep lr_scaling=lin": "lr_scaling=linear",
    "harness submit +experiment=tbs": "+experiment=tbs_sweep",
    "harness doctor workload=dig": "workload=digits_bn_cnn",
    "harness --cfg job +experiment=tbs": "+experiment=tbs_sweep",
    "harness +experiment=tbs_sweep question.total": "question.total_batch_sizes=",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_completed_with_or_without_a_command_in_front(complete, line):
    assert LINES[line] in complete(line)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_answered(complete, shell):
    assert complete("harness +experiment=tu", shell) == ["+experiment=tuned"]


@pytest.mark.parametrize("command", ["report", "status", "track", "published", "train"])
def test_commands_that_take_a_folder_are_offered_folders(complete, tmp_path, monkeypatch, command):
    (tmp_path / "outputs" / "tbs_sweep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert complete(f"harness {command} ") == ["outputs/"]
    assert complete(f"harness {command} outputs/tb") == ["outputs/tbs_sweep/"]


def test_a_users_own_config_dir_is_completed_and_looked_into(complete, tmp_path, monkeypatch):
    (tmp_path / "myconf" / "experiment").mkdir(parents=True)
    (tmp_path / "myconf" / "experiment" / "mine.yaml").write_text("# @package _global_\nstudy: mine\n")
    monkeypatch.chdir(tmp_path)
    assert complete("harness --config-dir my") == ["myconf/"]
    assert complete("harness --config-dir myconf +experiment=mi") == ["+experiment=mine"]


def test_an_unfinished_or_impossible_line_is_answered_without_an_error(complete):
    assert complete("harness --cfg ") == []
    assert complete("harness +experiment=nonsense work") is not None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_install_script_names_the_command(monkeypatch, capsys, shell):
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert main(["--shell-completion", f"install={shell}"]) == 0
    assert "harness" in capsys.readouterr().out.rsplit("complete", 1)[-1]
