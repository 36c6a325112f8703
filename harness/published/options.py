"""The options that a published source may need to be read; shared by `harness published` and `report --overlay`."""

import argparse
from dataclasses import replace

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.csv_table import Told
from harness.published.curves import Meaning


def add_reading_options(parser: argparse.ArgumentParser, target_option: str = "--target") -> None:
    """What a source may have to be told; shared with `python -m harness.report --overlay`."""
    group = parser.add_argument_group("reading published sources")
    group.add_argument("--unit", help="what costs are counted in: epochs, examples, tokens, steps or seconds")
    group.add_argument("--meaning", help="to_target (what a target takes) or in_time_budget (what fits one fixed time)")
    group.add_argument(
        target_option, dest="published_target", metavar="METRIC>=VALUE", help="target of published evaluations"
    )
    group.add_argument("--confirm", type=int, default=1, help="evaluations in a row that must meet it (default: 1)")
    group.add_argument("--batch-size", type=int, help="total batch size, where the source names none")
    group.add_argument("--train-examples", type=int, help="training-set size: turns epochs into updates")
    group.add_argument("--label", help="name of the curve")
    group.add_argument("--column", action="append", default=[], metavar="ROLE=NAME", help="where a CSV keeps what")


def told_by(given: argparse.Namespace) -> Told:
    """The options as the readers take them; UserError for what cannot be."""
    wrong = [word for word in given.column if word.count("=") != 1]
    if wrong:
        raise UserError(f"--column takes ROLE=NAME, not {wrong[0]!r}")
    for option in ("batch_size", "train_examples"):
        if getattr(given, option) is not None and getattr(given, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} must be >= 1, not {getattr(given, option)}")
    target = Target.parse(given.published_target) if given.published_target else None
    return Told(
        unit=given.unit,
        meaning=Meaning.parse(given.meaning) if given.meaning else None,
        target=replace(target, confirm=given.confirm) if target else None,
        batch_size=given.batch_size,
        train_examples=given.train_examples,
        label=given.label,
        columns=dict(word.split("=") for word in given.column),
    )
