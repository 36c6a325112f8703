"""LR-scaling rules: what the peak LR becomes when the total batch size grows by k = TBS / base batch size (P12)."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from harness.plan.errors import UserError
from harness.plan.imports import import_named, user_code

NAME = re.compile(r"[^\W\d][\w.()+-]*")  # no space, comma, slash or bar: names are used in columns, labels and tags
POWER = re.compile(r"power\((.*)\)")
# Labels of arms whose LR does not come from a rule, and names of the columns next to those of the rules.
RESERVED = frozenset({"grid", "tuned", "random", "sobol", "bayesian", "imported", "exponent", "low", "high", "points"})
CHECKED_RATIOS = (2.0, 1024.0)  # where a rule must grow as its exponent says


def check_ratio(batch_ratio: float) -> None:
    """Raises UserError unless k is a number > 0."""
    if not (math.isfinite(batch_ratio) and batch_ratio > 0):
        raise UserError(f"batch ratio k = TBS / base batch size must be > 0, not {batch_ratio}")


@dataclass(frozen=True)
class Rule:
    """An LR-scaling rule. Your own rule is one of these in a module of yours, named by its dotted path.

    Raises UserError for a name that does not work in tables and for an exponent that the function does not follow.
    """

    name: str  # in tables, columns and figures
    function: Callable[[float], float] = field(compare=False, repr=False)  # batch ratio k > 0 -> factor on the base LR
    exponent: float | None = None  # p where the factor is proportional to k**p
    source: str = ""  # paper, or dotted path
    adaptive: bool = False  # True: AdaScale's gain, measured at every update, multiplies the LR

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"the name of an LR rule must be letters, digits and _ . ( ) + -, like cube_root, not {self.name!r}"
            )
        if self.name in RESERVED:
            raise UserError(f"an LR rule cannot be named {self.name!r}: tables use that name for something else")
        if self.exponent is None:
            return
        if not math.isfinite(self.exponent):
            raise UserError(f"LR rule {self.name}: the exponent must be a finite number or None, not {self.exponent}")
        for ratio in CHECKED_RATIOS:
            grown = self.factor(ratio) / self.factor(1.0)
            if not math.isclose(grown, ratio**self.exponent, rel_tol=0.01):
                raise UserError(
                    f"LR rule {self.name} has exponent {self.exponent:g}, but its function grows as "
                    f"k**{math.log(grown, ratio):.3g} from k = 1 to {ratio:g}: correct one, or leave out the exponent"
                )

    def factor(self, batch_ratio: float) -> float:
        """Factor on the base LR. Raises UserError for a ratio <= 0 and if the function does not return a number > 0."""
        check_ratio(batch_ratio)
        with user_code(f"LR rule {self.name} fails at k = {batch_ratio:g}"):
            given: Any = self.function(batch_ratio)
            factor = math.nan if isinstance(given, str | bool) else float(given)
        if not (math.isfinite(factor) and factor > 0):
            shown = repr(given) if isinstance(given, str | bool) else f"{factor:g}"
            raise UserError(
                f"LR rule {self.name} gives {shown} at k = {batch_ratio:g}: "
                "a factor on the base LR must be a finite number > 0"
            )
        return factor


UNSCALED = "none"
CLASSIC = (
    Rule(UNSCALED, lambda k: 1.0, 0.0, "the base LR at every TBS"),
    Rule("sqrt", math.sqrt, 0.5, "Krizhevsky 2014 (1404.5997), p. 5; for Adam: Malladi et al. 2022 (2205.10287)"),
    Rule("linear", lambda k: k, 1.0, "Goyal et al. 2017 (1706.02677), section 2.1"),
)
ADASCALE = Rule("adascale", lambda k: 1.0, None, "Johnson et al. 2020 (2007.05105): a gain in [1, k]", adaptive=True)
BUILT_IN = {rule.name: rule for rule in (*CLASSIC, ADASCALE)}
RULE_NAMES = (*BUILT_IN, "power")  # names of rules in conf, in addition to power(p) and dotted paths


def rule_named(name: str, power: float | None = None) -> Rule:
    """The rule called `name` in conf: a built-in one, `power` with its exponent or `power(0.75)`, or a dotted path.

    Raises UserError for an unknown rule.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name == "power":
        return power_rule(power)
    if match := POWER.fullmatch(name):
        try:
            exponent = float(match[1])
        except ValueError as error:
            raise UserError(f"lr_scaling rule {name!r} needs a number, like power(0.75)") from error
        return power_rule(exponent)
    if is_own_rule(name):
        return _imported(name)
    raise UserError(
        f"unknown lr_scaling rule {name!r}: choose one of {', '.join(RULE_NAMES)}, "
        "or give the dotted path of your own rule"
    )


def is_own_rule(name: str) -> bool:
    """Whether `name`, as in conf, is the dotted path of a user's own rule."""
    return "." in name and name not in BUILT_IN and not POWER.fullmatch(name)


def power_rule(power: float | None) -> Rule:
    """LR proportional to k**power. Raises UserError without a power."""
    if power is None or not math.isfinite(power):
        raise UserError(f"lr_scaling rule 'power' needs lr_scaling.power, the exponent p of k**p, not {power}")
    return Rule(f"power({power:g})", lambda k: k**power, power)


def reference_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The classic rules, then those of `rules` that are not among them: what a measured LR is compared with."""
    return tuple({rule.name: rule for rule in (*CLASSIC, *rules)}.values())


def exponents_of(rules: Iterable[Rule]) -> dict[str, float]:
    """The exponents of the rules that have one, by name."""
    return {rule.name: rule.exponent for rule in rules if rule.exponent is not None}


def _imported(path: str) -> Rule:
    """The user's own Rule, or function of k, e.g. `mine.logarithmic`."""
    module, _, name = path.rpartition(".")
    try:
        rule: Any = getattr(import_named(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"lr_scaling rule {path!r} cannot be imported: {error}") from error
    if isinstance(rule, Rule):
        if rule.name in RULE_NAMES or POWER.fullmatch(rule.name):
            raise UserError(f"lr_scaling rule {path!r} has the name of a built-in rule, {rule.name!r}: choose another")
        return rule if rule.source else replace(rule, source=path)
    if not callable(rule):
        raise UserError(f"lr_scaling rule {path!r} is not a Rule or a function of k")
    return Rule(path, cast(Callable[[float], float], rule), source=path)
