"""What `harness --help` prints: one line per command, the experiments and groups of conf/, the exit codes."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise

from harness.config.places import available
from harness.plan.exit_codes import ExitCode

WIDTH, INDENT = 120, 14  # columns

COMMANDS = {
    "sweep": "run an experiment's trials and write its report (the default command)",
    "report": "rewrite a study's report, also for another target or budget, or compare two studies",
    "advise": "say which TBS and LR to train with on N devices, in how many hours and at what cost",
    "status": "show a study's progress and its running trials",
    "track": "upload a study to W&B, or import one from W&B",
    "submit": "submit a sweep as a Slurm job",
    "published": "fit published sweeps and report on them",
    "doctor": "check that a workload trains the same however its batch is split",
    "train": "run one trial.json without Ray, Hydra or W&B, also under torchrun",
    "new": "write a workload of your own into one file, from a template or from another workload",
}

HELP = """usage: harness +experiment=NAME [group=choice ...] [key=value ...] [dry_run=true]
       harness COMMAND ...          (see harness COMMAND --help)

Measures how many epochs, steps and seconds each total batch size needs to reach a target under each LR-scaling rule.

commands:
{commands}

experiments:  {experiments}
groups:       {groups}
preview:      dry_run=true prints every arm, its LR, warm-up and cost, and stops; --cfg job prints the configuration
resume:       run the same command again; finished trials are skipped; --take-over if the driver's machine is dead
extend:       --config-dir DIR adds your own config groups; _target_ takes any importable class
exit codes:   {exit_codes}
other flags:  --version, --shell-completion install=bash|zsh|fish
"""

EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "trials or checks failed",
    ExitCode.BAD_INPUT: "bad input",
    ExitCode.SLOWER: "slower (report --fail-if-slower)",
    ExitCode.UNWRITABLE: "study folder not writable",
    ExitCode.PREEMPTED: "preempted",
    ExitCode.INTERRUPTED: "Ctrl-C",
}


def print_help_if_asked(arguments: Sequence[str]) -> bool:
    """Print the help, with the experiments of a --config-dir, if --help is among a sweep's arguments; returns whether
    it was."""
    if not {"--help", "-h"} & set(arguments):
        return False
    places = [value for flag, value in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    print(help_text(places[-1] if places else None), end="")
    return True


def help_text(config_dir: str | None = None) -> str:
    """The text of --help; names come from the conf/ files and the tables above."""
    groups = [f"{g} ({'|'.join(available(g, config_dir))})" for g in ("workload", "lr_scaling", "cluster")]
    return HELP.format(
        commands="\n".join(f"  {name:<11} {what}" for name, what in COMMANDS.items()),
        experiments=_wrapped(available("experiment", config_dir)),
        groups=_wrapped(groups),
        exit_codes=_wrapped(f"{code:d} {what}" for code, what in EXIT_CODES.items()),
    )


def _wrapped(words: Iterable[str]) -> str:
    """A comma-separated list, wrapped to follow a title of INDENT columns."""
    text = ", ".join(words)
    lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * INDENT}".join(lines)
