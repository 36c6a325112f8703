"""A study's own LR rules without importing them: their factors are those of the arms in plan.jsonl (P29)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.plan.errors import UserError
from harness.plan.scaling import RESERVED, Rule, is_own_rule
from harness.plan.trial import Arm
from harness.record.study import StudyFolder

Factors = Mapping[float, float]  # batch ratio k -> factor on the base LR
NEIGHBOURS = 4  # floating-point numbers on either side of peak LR / base LR among which the rule's own factor is


def described_rules(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """What study.json keeps of the rules, in the order of the configuration."""
    return [
        {"name": rule.name, "exponent": rule.exponent, "source": rule.source, "adaptive": rule.adaptive}
        for rule in rules
    ]


def planned_rules(folder: StudyFolder, listed: Sequence[str]) -> dict[str, Rule]:
    """The user's own among the rules that a study's configuration lists, by their dotted paths."""
    if not any(map(is_own_rule, listed)):
        return {}
    arms = [planned.trial.arm for planned in folder.plan()]
    kept = folder.description().get("lr_rules")
    if not (isinstance(kept, list) and len(kept) == len(listed) and all(isinstance(rule, Mapping) for rule in kept)):
        kept = [{"name": name} for name in _labels(listed, arms)]
    return {path: _rule(path, rule, arms) for path, rule in zip(listed, kept, strict=True) if is_own_rule(path)}


def _labels(listed: Sequence[str], arms: Iterable[Arm]) -> list[str]:
    """The labels of the rules `listed` in a study that does not name them: an own rule's is its path or, in the order
    of the plan, one that no other rule has."""
    labels = dict.fromkeys(arm.scaling_rule for arm in arms)
    free = iter([label for label in labels if label not in listed and label not in RESERVED])
    return [next(free, path) if is_own_rule(path) and path not in labels else path for path in listed]


def _rule(path: str, kept: Mapping[str, Any], arms: Iterable[Arm]) -> Rule:
    name, exponent = str(kept.get("name")), kept.get("exponent")
    exponent = float(exponent) if isinstance(exponent, int | float) else None
    factors = _factors(arm for arm in arms if arm.scaling_rule == name)
    function = _lookup(factors, exponent)
    return Rule(name, function, exponent, str(kept.get("source") or path), kept.get("adaptive") is True)


def _factors(arms: Iterable[Arm]) -> Factors:
    pairs: dict[float, set[tuple[float, float]]] = {}
    for arm in arms:
        pairs.setdefault(arm.batch_ratio, set()).add((arm.base_lr, arm.settings.peak_lr))
    return {ratio: factor_of(known) for ratio, known in pairs.items()}


def factor_of(pairs: Iterable[tuple[float, float]]) -> float:
    """The factor that gives the peak LR of every (base LR, peak LR) to the bit, as a trial is identified by it."""
    known = sorted(pairs)
    base, peak = known[0]
    up = down = peak / base
    candidates = [up]
    for _ in range(NEIGHBOURS):
        up, down = math.nextafter(up, math.inf), math.nextafter(down, 0.0)
        candidates += [up, down]
    return next((f for f in candidates if all(b * f == p for b, p in known)), candidates[0])


def _lookup(factors: Factors, exponent: float | None) -> Callable[[float], float]:
    """The rule's function: what was planned and, where it follows a power of k, that power."""

    def factor(batch_ratio: float) -> float:
        if batch_ratio in factors:
            return factors[batch_ratio]
        if exponent is None:
            raise UserError("the plan has no arm there, and only --trust imports the rule")
        near = min(factors, key=lambda ratio: abs(math.log(ratio / batch_ratio)), default=1.0)
        return factors.get(near, 1.0) * (batch_ratio / near) ** exponent

    return factor
