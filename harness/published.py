"""python -m harness.published SOURCE ...: published sweeps through the harness's own fits, onto its own page.

    python -m harness.published                                       # tables that come with the harness
    python -m harness.published mlperf_resnet --train-examples 1281167
    python -m harness.published rcps_bert.json                        # as mlcommons/logging publishes it
    python -m harness.published dawn-bench-entries/CIFAR10/train      # DAWNBench: *.tsv with their *.json
    python -m harness.published batch_science/cifar_10/resnet_8/sgd   # Shallue et al.: measurements.csv trees
    python -m harness.published costs.csv --meaning to_target --column total_batch_size=B
    python -m harness.published outputs/imported/mine                 # a study, e.g. one imported from W&B

Formats, columns and what the page says: docs/published.md. Needs neither torch nor ray.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.analyse.published.csv_table import Told
from harness.analyse.published.curves import Meaning
from harness.analyse.published.findings import published_findings, slug
from harness.analyse.published.read import read
from harness.analyse.published.shipped import SHIPPED
from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.report.table import print_findings
from harness.report.write import write_files

BAD_INPUT = 2
LOG_WIDTH = 140


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.published", description="Fit and report published sweeps.")
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="shipped table, file or folder; none: list tables")
    parser.add_argument("--out", type=Path, help="folder of the report; default: outputs/published/NAME")
    add_reading_options(parser)
    given = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    try:
        if not given.sources:
            for name, shipped in SHIPPED.items():
                console.print(f"{name:18} {shipped.what}. {shipped.source}", markup=False, highlight=False)
            return 0
        told = told_by(given)
        findings = published_findings([read(source, told) for source in given.sources])
        names = "_".join(slug(Path(source).stem) for source in given.sources)
        place = given.out or Path("outputs") / "published" / names
        place.mkdir(parents=True, exist_ok=True)
        page = write_files(place, findings)
        print_findings(console, findings)
        console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    except UserError as error:
        print("error:", *str(error).split("\n"), file=sys.stderr)
        return BAD_INPUT
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
