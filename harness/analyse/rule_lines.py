"""A measured LR compared with the rules: the LR that each would give at a study's batch sizes, and their exponents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.plan.errors import UserError
from harness.plan.scaling import Rule, exponents_of


@dataclass(frozen=True)
class RuleLine:
    """One rule from a base point; without points where training measures the LR."""

    rule: str
    exponent: float | None
    source: str
    total_batch_sizes: list[float]  # ascending, those at which the rule is defined
    lrs: list[float]


def rule_lines(rules: Iterable[Rule], total_batch_sizes: Sequence[float], base: tuple[float, float]) -> list[RuleLine]:
    """The lines of `rules` through `base` (batch size, LR)."""
    return [_line(rule, sorted(set(total_batch_sizes)), *base) for rule in rules]


def rules_compared(rules: Sequence[Rule]) -> str:
    """The rules with their exponents, and those that have none, in words."""
    known = ", ".join(f"{name} {exponent:.3g}" for name, exponent in exponents_of(rules).items())
    return f"rules: {known}" + "".join(f"; {rule.name} has no exponent" for rule in rules if rule.exponent is None)


def rules_admitted(admits: Sequence[str]) -> str:
    """Which of the rules compared have an exponent in the interval, in words."""
    if not admits:
        return "excludes every exponent of these rules"
    return f"is compatible with {'the rule' if len(admits) == 1 else 'the rules'} {', '.join(admits)}"


def _line(rule: Rule, sizes: Sequence[float], base_size: float, base_lr: float) -> RuleLine:
    points = [] if rule.adaptive else [(size, _lr(rule, size / base_size, base_lr)) for size in sizes]
    defined = [(float(size), lr) for size, lr in points if lr is not None]
    return RuleLine(rule.name, rule.exponent, rule.source, [x for x, _ in defined], [lr for _, lr in defined])


def _lr(rule: Rule, batch_ratio: float, base_lr: float) -> float | None:
    """None where the rule gives no LR: only its own arms need one."""
    try:
        return base_lr * rule.factor(batch_ratio)
    except UserError:
        return None
