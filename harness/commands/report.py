"""harness report STUDY: rewrite a study's report, also for another target or budget, or compare two studies.

    harness report outputs/tbs_sweep/a
    harness report outputs/tbs_sweep/a --target 0.95 --budget-epochs 20
    harness report outputs/tbs_sweep/a --metric loss --target 0.3
    harness report outputs/tbs_sweep/a outputs/tbs_sweep/b --fail-if-slower 5%
    harness report outputs/tbs_sweep/a --overlay mlperf_resnet --overlay smith2018
    harness report outputs/tbs_sweep/a --devices 1,2,4 --price 2.5

Without options, report.html and its companions are rewritten in the study's folder. With another target or budget, the
report goes to STUDY/read_as/NAME; no trial is run, because the journals have every evaluation. Two studies A B are
compared, B against A, in B/compared_with/A; with --fail-if-slower the exit code is 3 if B is established to be slower
by more than the given share. --output DIR writes into DIR instead, e.g. for a study that is read-only. Needs neither
torch nor ray.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from harness.analyse.advice import Asked
from harness.analyse.advice_section import advice_section
from harness.analyse.experiment import concluded, reopen
from harness.analyse.results import Records
from harness.analyse.two_studies import compare_studies
from harness.analyse.two_studies_findings import comparison_findings
from harness.commands.advice import StudyRead, add_advice_options, advice_of, asked_of, given_advice_options
from harness.commands.entry import Parser, add_trust_option, command, make_console, trusting
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.target import Target, direction_of
from harness.plan.workload import Workload
from harness.published.columns import ReadingOptions
from harness.published.curves import PublishedCurve
from harness.published.options import add_reading_options, given_reading_options, reading_options
from harness.published.overlay import overlay_sections
from harness.published.read import check_used, read
from harness.record.study import StudyFolder
from harness.report.write import write_reports
from harness.statistics import words


@command
def main(arguments: Sequence[str]) -> int:
    """Report on one study, or compare two."""
    parser = Parser(prog="harness report", description="Report on a study on disk.")
    parser.add_argument("study", type=Path, help="study folder, e.g. outputs/tbs_sweep/a")
    parser.add_argument("other", type=Path, nargs="?", help="a second study to compare with the first")
    parser.add_argument("--fail-if-slower", metavar="5%", help="exit code 3 if the second is slower by more than this")
    parser.add_argument("--target", type=float, help="another target value, easier than the study's own")
    parser.add_argument("--metric", help="another metric for the target, e.g. loss")
    parser.add_argument("--mode", choices=("max", "min"), help="direction of a metric of your own")
    parser.add_argument("--budget-epochs", type=float, help="analyse as if every trial had ended after these epochs")
    parser.add_argument(
        "--overlay",
        action="append",
        default=[],
        metavar="SOURCE",
        help="published curves to show next to the study's, see docs/published.md",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write into instead of the study's own")
    add_advice_options(parser)
    parser.add_argument("--step-times", type=Path, metavar="STUDY", help="seconds per update for --devices")
    add_reading_options(parser, "--published-target")
    add_trust_option(parser)
    given = parser.parse_args(arguments)
    return trusting("report", arguments, given, lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    _check_combination(given)
    if given.other is not None:
        margin = asked_margin(given.fail_if_slower)
        slower, whole = compare(
            given.study,
            given.other,
            given.target,
            given.metric,
            margin or 0.0,
            given.output,
            mode=given.mode,
            trust=given.trust,
        )
        if slower and margin is not None:
            return ExitCode.SLOWER
        return ExitCode.DONE if whole else ExitCode.FAILED
    if given.fail_if_slower is not None:
        raise UserError("--fail-if-slower compares two studies: harness report A B --fail-if-slower 5%")
    overlays = overlay_curves(given.overlay, reading_options(given))
    whole = report(
        given.study,
        given.target,
        given.metric,
        given.budget_epochs,
        overlays,
        given.output,
        mode=given.mode,
        trust=given.trust,
        asked=None if given.devices is None else asked_of(given),
        step_times=given.step_times,
    )
    return ExitCode.DONE if whole else ExitCode.FAILED


def report(
    study: Path,
    value: float | None,
    metric: str | None,
    budget_epochs: float | None,
    overlays: Sequence[PublishedCurve] = (),
    output: Path | None = None,
    *,
    mode: str | None = None,
    trust: bool = False,
    asked: Asked | None = None,
    step_times: Path | None = None,
) -> bool:
    """Write the report that was asked for and print it; False if a section failed. Raises UserError."""
    folder = StudyFolder(study)
    folder.check_planned()
    experiment, design = reopen(folder, trust)
    records = Records(folder)
    check_measured(records, metric)
    target = asked_target(design.workload, value, metric, mode)
    budget = asked_budget(design.workload, budget_epochs)
    name = "-".join(
        [*([f"{target.metric}-{target.value:g}"] if target else []), *([f"{budget_epochs:g}-epochs"] if budget else [])]
    )
    findings = concluded(experiment, design, records.read_for(target, budget))
    if overlays:
        findings = replace(findings, sections=[*findings.sections, *overlay_sections(findings, overlays)])
    if asked is not None:
        read = StudyRead(folder, experiment, design, records)
        advice = advice_section(*advice_of(read, step_times, asked))
        findings = replace(findings, sections=[*findings.sections, advice])
    own = study / "read_as" / re.sub(r"[^\w.-]+", "_", name) if name else study
    out = report_folder(output or own)
    return write_reports(make_console(), out, findings)


def report_folder(path: Path) -> Path:
    """`path`, created if need be; UserError in one line where nothing can be written to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(
            f"no report can be written to {path} ({error.strerror}): give a folder that can be written, --output DIR"
        ) from error


def compare(
    first: Path,
    second: Path,
    value: float | None,
    metric: str | None,
    margin: float,
    output: Path | None = None,
    *,
    mode: str | None = None,
    trust: bool = False,
) -> tuple[bool, bool]:
    """Write and print B against A: whether anything is established to be slower by more than `margin`, and whether no
    section failed."""
    records = []
    for path in (first, second):
        folder = StudyFolder(path)
        folder.check_planned()
        _, design = reopen(folder, trust)
        found = Records(folder)
        check_measured(found, metric)
        records.append(found.read_for(asked_target(design.workload, value, metric, mode)))
    comparison = compare_studies(*records, margin=margin)
    out = report_folder(output or second / "compared_with" / f"{first.parent.name}_{first.name}")
    return bool(comparison.slower), write_reports(make_console(), out, comparison_findings(comparison))


def asked_margin(text: str | None) -> float | None:
    """`5%` or `0.05` as 0.05; UserError for anything but a share of at least 0 and below 1000 %."""
    if text is None:
        return None
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 10:
        raise UserError(f"--fail-if-slower must be a share like 5% or 0.05, not {text!r}")
    return share


def _check_combination(given: argparse.Namespace) -> None:
    """UserError for options that would have no effect, and for a study compared with itself."""
    if given.other is not None:
        if given.other.resolve() == given.study.resolve():
            raise UserError(f"{given.other} is the same study as {given.study}: give two studies to compare")
        alone = {"--overlay": given.overlay, "--budget-epochs": given.budget_epochs, "--devices": given.devices}
        if ignored := next((option for option, value in alone.items() if value not in (None, [])), None):
            raise UserError(f"{ignored} is for a report on one study: leave out {given.other} or {ignored}")
    if given.devices is None and (extra := given_advice_options(given)):
        raise UserError(f"{extra[0]} is for time and cost on N devices: add --devices, e.g. --devices 8,16,64")
    reading = given_reading_options(given)
    if reading and not given.overlay:
        raise UserError(f"{reading[0]} is for published sources: add --overlay SOURCE, or leave it out")


def overlay_curves(sources: Sequence[str], options: ReadingOptions) -> list[PublishedCurve]:
    """The curves of published sources; UserError if one has none, or if an option has no effect."""
    publications = [read(source, options) for source in sources]
    for source, publication in zip(sources, publications, strict=True):
        if not publication.curves:
            raise UserError(f"--overlay {source} has no costs over total batch sizes")
    if publications:
        check_used(options, publications)
    return [curve for publication in publications for curve in publication.curves]


def check_measured(records: Records, metric: str | None) -> None:
    """UserError for a metric that no finished trial of the study has."""
    measured = records.metrics()
    if metric is not None and measured and metric not in measured:
        raise UserError(f"--metric {metric} is {words.NOT_MEASURED}: choose one of {', '.join(measured)}")


def asked_target(workload: Workload, value: float | None, metric: str | None, mode: str | None = None) -> Target | None:
    """The target that was asked for, confirmed like the study's own; None for the study's own target."""
    own, second = workload.target, workload.read_beside
    if metric is None or metric == own.metric:
        return None if value is None or value == own.value else replace(own, value=value)
    if second is not None and metric == second.metric:
        return second if value is None else replace(second, value=value)
    if value is None:
        raise UserError(f"--metric {metric} needs --target: give the value to reach")
    mode = mode or direction_of(metric)
    if mode is None:
        raise UserError(f"--metric {metric} has no known direction: add --mode max or --mode min")
    return Target(metric, value, mode, own.confirm)


def asked_budget(workload: Workload, epochs: float | None) -> int | None:
    """The budget in examples; UserError unless it is between one evaluation and the study's own budget."""
    if epochs is None:
        return None
    examples = epochs * workload.train_examples
    if not workload.evaluate_every_examples <= examples <= workload.budget_examples:
        least = workload.evaluate_every_examples / workload.train_examples
        most = workload.budget_examples / workload.train_examples
        raise UserError(f"--budget-epochs must be between {least:g} and {most:g} (the study's own), not {epochs:g}")
    return int(examples)
