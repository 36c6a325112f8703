"""The doctor's results for a workload, kept next to the studies, whose reports state them."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError
from harness.plan.settings import UNIDENTIFIED, fingerprint
from harness.plan.stored import NewerFormatError, check_schema
from harness.plan.workload import Workload
from harness.record.accounts import is_finite
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
LATEST = 4e9  # seconds since 1970 that a clock may show


def workload_fingerprint(workload: Workload) -> str:
    """Equal for workloads that are the same to the doctor: data, model, loss, optimizer, schedule, batch norm."""
    dataset = {key: value for key, value in workload.dataset.items() if key not in UNIDENTIFIED}
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
    stored = {path: _read(path) for path in sorted(outputs.glob(f"doctor/*/{NAME}"))}
    fitting = [
        (path, value)
        for path, value in stored.items()
        if isinstance(value, Mapping) and value.get("workload_fingerprint") == same_workload
    ]
    readable = [value for _, value in fitting if _is_readable(value)]
    if not readable:
        if not fitting:
            return None
        name = f"doctor/{fitting[0][0].parent.name}/{NAME}"
        return {"failed": [], "summary": f"{name} is damaged or of a newer version of harness, and was not read"}
    newest = max(readable, key=lambda value: value["at"])
    failed = [check["name"] for check in newest["checks"] if not check["passed"]]
    count = len(newest["checks"])
    verdict = f"{len(failed)} of {count} checks failed: {', '.join(failed)}" if failed else f"all {count} checks passed"
    day = time.strftime("%Y-%m-%d", time.gmtime(newest["at"]))
    same_code = gives_the_same_numbers(newest["code_fingerprint"], code)
    code_note = "" if same_code else ", with different code from this study's"
    return {**newest, "failed": failed, "summary": f"{verdict} on {day}, {newest['where']}{code_note}"}


def _read(path: Path) -> Any:
    """What another study's examination holds, None if that cannot be read: it is no reason to stop this study."""
    try:
        return read_json(path)
    except (UserError, OSError):
        return None


def _is_readable(examination: Mapping[str, Any]) -> bool:
    try:
        check_schema(examination, NAME)
    except NewerFormatError:
        return False
    checks = examination.get("checks")
    if not isinstance(checks, list) or not all(
        isinstance(c, Mapping) and isinstance(c.get("name"), str) and isinstance(c.get("passed"), bool) for c in checks
    ):
        return False
    code, at = examination.get("code_fingerprint"), examination.get("at", math.nan)
    is_fingerprint = isinstance(code, str) or (isinstance(code, Mapping) and isinstance(code.get("harness"), str))
    is_time = is_finite(at) and 0 <= at < LATEST
    return is_fingerprint and is_time and isinstance(examination.get("where"), str)
