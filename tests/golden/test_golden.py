"""The numbers of training stay what they are, or the change is meant and older studies are not continued with it.

Each test compares a short trial in float64 with the numbers kept in values.json, which hold on any machine.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from compare_commits import COMPATIBLE, ROOT, compare, is_available
from golden_trials import OPTIMIZERS, run_golden_trials
from golden_values import golden_digest, kept_values, numbers_kept

KEPT = kept_values()
ENTRIES = json.loads(COMPATIBLE.read_text())["entries"]
# torch's Muon orthogonalises in bfloat16, which another processor may round differently.
TOLERANCE = {"optimizer_muon": 1e-3}
MEANING = """
The numbers of training have changed. If that was not meant, the change is a mistake. If it was meant:
  1. python tests/golden/golden_values.py
  2. empty "entries" in harness/record/compatible.json, so that no older study is continued with other numbers
  3. say in the commit what changed and why"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Any]:
    torch.set_num_threads(1)  # the trials are small, and tests share the machine
    return numbers_kept(run_golden_trials(tmp_path_factory.mktemp("golden") / "runs", "float64"))


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Dotted place -> number or text."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{place}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{place}.{i}").items()}
    return {place: value}


def is_close(now: Any, kept: Any, tolerance: float) -> bool:
    numbers = isinstance(now, int | float) and isinstance(kept, int | float)
    return math.isclose(now, kept, rel_tol=tolerance, abs_tol=1e-12) if numbers else now == kept


@pytest.mark.parametrize("name", KEPT)
def test_a_golden_trial_gives_the_numbers_that_were_kept(runs, name):
    assert runs[name]["trial_id"] == KEPT[name]["trial_id"], "trials have other ids: every study would run again"
    expected, now = leaves(KEPT[name]["rows"]), leaves(runs[name]["rows"])
    assert expected.keys() <= now.keys()
    tolerance = TOLERANCE.get(name, 1e-9)
    wrong = [place for place, value in expected.items() if not is_close(now[place], value, tolerance)]
    assert not wrong, f"{wrong[0]}: {now[wrong[0]]!r}, kept {expected[wrong[0]]!r}{MEANING}"


def test_every_golden_trial_is_kept(runs):
    assert runs.keys() == KEPT.keys()


def test_every_optimizer_of_conf_has_a_golden_trial():
    assert {path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml")} == OPTIMIZERS.keys()


def test_every_listed_fingerprint_was_compared_under_the_numbers_kept_now():
    old = [entry["fingerprint"] for entry in ENTRIES if entry["golden"] != golden_digest()]
    assert not old, (
        f"compatible.json lists {', '.join(old)}, compared before values.json changed: remove the entries, or compare "
        "again with python tests/golden/compare_commits.py COMMIT --list"
    )


@pytest.mark.long
@pytest.mark.parametrize("commit", [entry["commit"] for entry in ENTRIES])
def test_a_listed_commit_still_gives_the_same_bits(commit):
    if not is_available(commit):
        pytest.skip(f"the history of this checkout has no commit {commit}")
    fingerprint, differences = compare(commit)
    assert fingerprint in [entry["fingerprint"] for entry in ENTRIES if entry["commit"] == commit]
    assert not differences, (
        f"{len(differences)} values are others than at {commit[:12]}, e.g. {differences[0]}: remove the entry from "
        "compatible.json, or find out what rounds differently"
    )


def test_a_changed_number_is_seen(tmp_path: Path):
    from compare_commits import differences

    old = {"float32": {"digits": {"rows": [{"train_loss": 1.0}]}}}
    assert list(differences(old, old)) == []
    more = {"float32": {"digits": {"rows": [{"train_loss": 1.0, "measured_since": 2.0}]}}}
    assert list(differences(old, more)) == []
    other = {"float32": {"digits": {"rows": [{"train_loss": 1.0 + 2**-52}]}}}
    assert list(differences(old, other)) == ["float32 digits rows 0 train_loss: 1.0, now 1.0000000000000002"]
    assert list(differences(old, {"float32": {}})) == [
        "float32 digits: {'rows': [{'train_loss': 1.0}]}, now None",
    ]
