"""Options for reading a published source, shared by `harness published` and `harness report --overlay`."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.columns import ReadingOptions
from harness.published.curves import Meaning


def add_reading_options(parser: argparse.ArgumentParser, target_option: str = "--target") -> None:
    """Add the options for what a source does not say itself."""
    group = parser.add_argument_group("reading published sources")
    group.add_argument("--unit", help="unit of the costs: epochs, examples, tokens, steps or seconds")
    group.add_argument(
        "--meaning", help="to_target (cost to reach a target) or in_time_budget (what fits into a fixed time)"
    )
    group.add_argument(
        target_option, dest="published_target", metavar="METRIC>=VALUE", help="target of published evaluations"
    )
    group.add_argument("--confirm", type=int, help="consecutive evaluations that must meet it (default: 1)")
    group.add_argument("--batch-size", type=int, help="total batch size, if the source does not give it")
    group.add_argument("--train-examples", type=int, help="training-set size: converts epochs into updates")
    group.add_argument("--label", help="name of the curve")
    group.add_argument("--column", action="append", default=[], metavar="ROLE=NAME", help="the CSV column for a role")


def add_overhead_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for where a bigger batch stops paying."""
    group = parser.add_argument_group("where a bigger batch stops paying")
    group.add_argument(
        "--overhead",
        type=float,
        metavar="SHARE",
        help="more data than the reference needs, e.g. 0.2 for 20 %% (default: both 1 and 0.2, twice and 1.2 times)",
    )
    group.add_argument(
        "--reference-batch-size",
        type=int,
        metavar="TBS",
        help="total batch size that others are compared with (default: the cheapest of each curve)",
    )


def reading_options(given: argparse.Namespace) -> ReadingOptions:
    """The options as the readers need them; UserError for invalid values."""
    wrong = [word for word in given.column if not all(part.strip() for part in word.partition("="))]
    if wrong:
        raise UserError(f"--column must be ROLE=NAME, not {wrong[0]!r}")
    for option in ("batch_size", "train_examples"):
        if getattr(given, option) is not None and getattr(given, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} must be >= 1, not {getattr(given, option)}")
    target = Target.parse(given.published_target) if given.published_target else None
    if given.confirm is not None and target is None:
        raise UserError("--confirm counts evaluations that meet a target: give the target as well")
    return ReadingOptions(
        unit=given.unit,
        meaning=Meaning.parse(given.meaning) if given.meaning else None,
        target=replace(target, confirm=1 if given.confirm is None else given.confirm) if target else None,
        batch_size=given.batch_size,
        train_examples=given.train_examples,
        label=given.label,
        columns=_by_role(given.column),
    )


def given_reading_options(given: argparse.Namespace) -> list[str]:
    """The options for published sources that were given, as typed."""
    names = ("unit", "meaning", "published_target", "confirm", "batch_size", "train_examples", "label", "column")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(given, name) not in (None, [])]


def _by_role(given: Sequence[str]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for role, _, name in (word.partition("=") for word in given):
        columns.setdefault(role, []).append(name)
    return columns
