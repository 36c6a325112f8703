"""harness published SOURCE ...: fit published sweeps like a study's own, and write a report.

    harness published                                       # tables that come with the harness
    harness published mlperf_resnet --train-examples 1281167
    harness published rcps_bert.json                        # as mlcommons/logging publishes it
    harness published dawn-bench-entries/CIFAR10/train      # DAWNBench: *.tsv with their *.json
    harness published batch_science/cifar_10/resnet_8/sgd   # Shallue et al.: measurements.csv trees
    harness published costs.csv --meaning to_target --column total_batch_size=B
    harness published mlperf_bert --overhead 0.2 --reference-batch-size 1536
    harness published outputs/imported/mine                 # a study, e.g. one imported from W&B

Formats, columns and the content of the report: docs/published.md. Needs neither torch nor ray.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.commands.entry import Parser, command, make_console
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.published.findings import published_findings
from harness.published.options import add_overhead_options, add_reading_options, given_reading_options, reading_options
from harness.published.overhead import Overhead
from harness.published.plots import slug
from harness.published.read import check_used, read
from harness.published.shipped import SHIPPED
from harness.report.write import write_reports


@command
def main(arguments: Sequence[str]) -> int:
    """Fit the named sources and write their report; without a source, list the shipped tables."""
    parser = Parser(prog="harness published", description="Fit published sweeps and report on them.")
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="shipped table, file or folder; without any, list the shipped tables",
    )
    parser.add_argument("--out", type=Path, help="folder of the report; default: outputs/published/NAME")
    add_reading_options(parser)
    add_overhead_options(parser)
    given = parser.parse_args(arguments)
    console = make_console()
    if not given.sources:
        options = [*given_reading_options(given), *_given_elsewhere(given)]
        if options:
            raise UserError(f"{options[0].replace('published-', '')} needs a SOURCE; without any, tables are listed")
        for name, shipped in SHIPPED.items():
            console.print(f"{name:18} {shipped.what}. {shipped.source}", markup=False, highlight=False)
        return ExitCode.DONE
    options, overhead = reading_options(given), Overhead(given.overhead, given.reference_batch_size)
    publications = [read(source, options) for source in given.sources]
    check_used(options, publications)
    findings = published_findings(publications, overhead)
    names = "_".join(slug(Path(source).stem) for source in given.sources)
    folder = given.out or Path("outputs") / "published" / names
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a directory: give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created ({error.strerror}): give another --out") from error
    return ExitCode.DONE if write_reports(console, folder, findings) else ExitCode.FAILED


def _given_elsewhere(given: argparse.Namespace) -> list[str]:
    names = ("overhead", "reference_batch_size", "out")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(given, name) is not None]
