"""The columns that a table of published numbers may have, and what a user says about a source.

Columns are found by their usual names, or as given by `--column ROLE=NAME`; docs/published.md lists them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.curves import UNITS, Meaning
from harness.published.replicates import RUN_NAMES

ROLES: dict[str, tuple[str, ...]] = {
    "total_batch_size": ("total_batch_size", "tbs", "global_batch_size", "batch_size", "minibatch", "bs"),
    "value": ("value", "olympic_mean", "mean", "median"),  # or a unit's name, see VALUE
    "unit": ("unit",),
    "meaning": ("meaning",),
    "curve": ("curve", "benchmark", "scaling_rule", "rule", "setting"),
    "runs": ("runs", "n_runs", "n"),
    "sd": ("sd", "std", "stdev", "pstdev_trimmed"),
    "lr": ("lr", "peak_lr", "base_lr", "learning_rate"),
    "outcome": ("outcome",),
    "target": ("target",),
    "train_examples": ("train_examples",),
    "run": RUN_NAMES,
    "position": (),  # of an evaluation: see PLACES
}
REPEATED = ("curve", "ignore")  # roles that more than one column may have; `ignore`: no setting, e.g. a measurement
VALUE = re.compile(rf"({'|'.join(UNITS)})(_to_target|_published|_mean|_median)?")
PLACES = ("epochs", "examples", "tokens", "steps", "seconds")  # units of an evaluation's position, preferred first


@dataclass(frozen=True)
class ReadingOptions:
    """What the command line says about a file that does not say it itself."""

    unit: str | None = None
    meaning: Meaning | None = None
    target: Target | None = None
    batch_size: int | None = None
    train_examples: int | None = None
    label: str | None = None
    columns: Mapping[str, str | Sequence[str]] | None = None  # role -> header, or headers for `curve` and `ignore`

    def __post_init__(self) -> None:
        for role, given in (self.columns or {}).items():
            if role not in ROLES and role not in REPEATED:
                raise UserError(
                    f"--column must be ROLE=NAME with ROLE one of {', '.join([*ROLES, 'ignore'])}, not {role!r}"
                )
            if role not in REPEATED and not isinstance(given, str) and len(given) > 1:
                raise UserError(f"--column {role}=NAME can be given once, not for {' and '.join(given)}")

    def given(self) -> list[str]:
        """The names of the options that were given; `column ROLE` for each role."""
        names = ("unit", "meaning", "target", "batch_size", "train_examples", "label")
        return [name for name in names if getattr(self, name) is not None] + [f"column {r}" for r in self.columns or ()]

    def headers(self, role: str) -> tuple[str, ...]:
        """The columns given for a role."""
        given = (self.columns or {}).get(role, ())
        return (given,) if isinstance(given, str) else tuple(given)
