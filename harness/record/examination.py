"""The doctor's results for a workload, kept next to the studies, whose reports state them."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plan.settings import PATHS, fingerprint
from harness.plan.stored import NewerFormatError, check_schema
from harness.plan.workload import Workload
from harness.record.code_fingerprint import Fingerprint, gives_the_same_numbers
from harness.record.files import read_json, write_json

NAME = "doctor.json"
EXAMINED = ("model", "loss", "optimizer", "schedule", "batch_norm", "averaging", "parameter_groups", "clip_norm")


# Fields of the first version, always part of the fingerprint; those added later are part of it unless they have their
# default value, so that an examination made before a field existed is still found.
FIRST_FIELDS = {
    "batch_norm": ("span", "span_examples", "statistics", "statistics_examples", "half_life_examples"),
    "averaging": ("half_life_examples", "decide_on"),
}
WRITTEN = ("workload_fingerprint", "code_fingerprint", "where", "at", "checks")


def workload_fingerprint(workload: Workload) -> str:
    """Equal for workloads that are the same to the doctor: data, model, loss, optimizer, schedule, batch norm."""
    dataset = {key: value for key, value in workload.dataset.items() if key not in PATHS}
    values = {name: getattr(workload, name) for name in EXAMINED}
    for name, first in FIRST_FIELDS.items():
        usual = vars(type(values[name])())
        values[name] = {k: v for k, v in vars(values[name]).items() if k in first or v != usual[k]}
    return fingerprint({"dataset": dataset, **values}, 16)


def write_examination(folder: Path, workload: Workload, code: Fingerprint, where: str, checks: Sequence[Any]) -> None:
    """Write `checks` (each with `name`, `passed` and `detail`) to `folder`; `code`: fingerprint of the code that ran,
    `where`: the precision and the device."""
    folder.mkdir(parents=True, exist_ok=True)
    examination = {
        "workload": workload.name,
        "workload_fingerprint": workload_fingerprint(workload),
        "code_fingerprint": code,
        "where": where,
        "at": time.time(),
        "checks": [vars(check) for check in checks],
    }
    write_json(folder / NAME, examination)


def find_examination(outputs: Path, workload: Workload, code: Fingerprint) -> dict[str, Any] | None:
    """The newest examination of a workload under `outputs`, as stored in study.json; None if there is none.

    One that a newer version wrote in another form does not stop a study: its summary says that it was not read.
    """
    same_workload = workload_fingerprint(workload)
    stored = {path: read_json(path) for path in sorted(outputs.glob(f"doctor/*/{NAME}"))}
    fitting = [
        (path, value)
        for path, value in stored.items()
        if isinstance(value, Mapping) and value.get("workload_fingerprint") == same_workload
    ]
    readable = [value for _, value in fitting if _is_readable(value)]
    if not readable:
        names = [path.parent.name for path, _ in fitting]
        unread = f"doctor/{names[0]}/{NAME} was written by a newer version of harness and was not read" if names else ""
        return {"failed": [], "summary": unread} if unread else None
    newest = max(readable, key=lambda value: value["at"])
    failed = [check["name"] for check in newest["checks"] if not check["passed"]]
    count = len(newest["checks"])
    verdict = f"{len(failed)} of {count} checks failed: {', '.join(failed)}" if failed else f"all {count} checks passed"
    day = time.strftime("%Y-%m-%d", time.gmtime(newest["at"]))
    same_code = gives_the_same_numbers(newest["code_fingerprint"], code)
    code_note = "" if same_code else ", with different code from this study's"
    return {**newest, "failed": failed, "summary": f"{verdict} on {day}, {newest['where']}{code_note}"}


def _is_readable(examination: Mapping[str, Any]) -> bool:
    try:
        check_schema(examination, NAME)
    except NewerFormatError:
        return False
    checks = examination.get("checks")
    if not isinstance(checks, list) or not all(
        isinstance(c, Mapping) and {"name", "passed"} <= c.keys() for c in checks
    ):
        return False
    return all(key in examination for key in WRITTEN)
