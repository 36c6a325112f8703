"""The configuration of a study that was imported: what its runs say, and a sweep's values for the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.compose import compose_plain
from harness.plan.settings import Spec


def imported_configuration(workload: Mapping[str, Any], spec: Spec, seeds: Sequence[int]) -> dict[str, Any]:
    """What study.json keeps, so that the experiment `imported` can be rebuilt like any other; `spec` stands for the
    classes that the runs do not name."""
    plain = compose_plain(["+experiment=tbs_sweep"])
    return {
        **plain,
        "workload": {**plain["workload"], **workload},
        **dict.fromkeys(("dataset", "model", "optimizer", "schedule"), spec),
        "parameter_groups": {},
        "lr_scaling": {**plain["lr_scaling"], "rules": ["none"], "co_scaling": {}},
        "question": {"_target_": "experiments.imported.Imported"},
        "seeds": [*seeds],
        "choices": {**plain["choices"], "experiment": "imported", "optimizer": "imported"},
        "output_dir": None,
    }
