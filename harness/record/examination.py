"""What the doctor found of a workload, kept beside the studies, so that their reports can say so."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plan.settings import PATHS, fingerprint
from harness.plan.workload import Workload
from harness.record.files import read_json, write_json

NAME = "doctor.json"
EXAMINED = ("model", "loss", "optimizer", "schedule", "batch_norm", "averaging", "parameter_groups", "clip_norm")


def workload_fingerprint(workload: Workload) -> str:
    """Equal for workloads that the doctor would examine alike: data, model, loss, optimizer, schedule, batch norm."""
    dataset = {key: value for key, value in workload.dataset.items() if key not in PATHS}
    values = {name: getattr(workload, name) for name in EXAMINED}
    values |= {name: vars(values[name]) for name in ("batch_norm", "averaging")}
    return fingerprint({"dataset": dataset, **values}, 16)


def write_examination(folder: Path, workload: Workload, code: str, where: str, checks: Sequence[Any]) -> None:
    """Keep `checks` (each with `name`, `passed` and `detail`) in `folder`; `code`: fingerprint of what ran, `where`:
    in which arithmetic and on which device."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "workload": workload.name,
        "workload_fingerprint": workload_fingerprint(workload),
        "code_fingerprint": code,
        "where": where,
        "at": time.time(),
        "checks": [vars(check) for check in checks],
    }
    write_json(folder / NAME, found)


def find_examination(outputs: Path, workload: Workload, code: str) -> dict[str, Any] | None:
    """The newest examination of a workload under `outputs`, as study.json keeps it; None where there is none."""
    wanted = workload_fingerprint(workload)
    found = [read_json(path) for path in outputs.glob(f"doctor/*/{NAME}")]
    fitting = [one for one in found if isinstance(one, Mapping) and one.get("workload_fingerprint") == wanted]
    if not fitting:
        return None
    newest = max(fitting, key=lambda one: one["at"])
    failed = [check["name"] for check in newest["checks"] if not check["passed"]]
    count = len(newest["checks"])
    verdict = f"{len(failed)} of {count} checks failed: {', '.join(failed)}" if failed else f"all {count} checks passed"
    day = time.strftime("%Y-%m-%d", time.gmtime(newest["at"]))
    code_note = "" if newest["code_fingerprint"] == code else ", with other code than this study's"
    return {**newest, "failed": failed, "summary": f"{verdict} on {day}, {newest['where']}{code_note}"}
