"""harness track STUDY: a study's W&B runs and report from its journals, at any time and as often as needed."""

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.commands.entry import Parser, add_trust_option, command, make_console, trusting
from harness.config.configuration import stored_configuration
from harness.config.own_classes import refuse_own_classes
from harness.plan.errors import UserError, one_line
from harness.plan.exit_codes import ExitCode
from harness.record.scratch import scratch_folder
from harness.record.study import StudyFolder
from harness.record.tracking.runs import next_generation, study_label
from harness.record.tracking.settings import SCRATCH, decide, environment, import_wandb

FINISH_S = 300.0  # time limit for one run's last rows; long, because no sweep is waiting


@command
def main(arguments: Sequence[str]) -> int:
    """Upload or import; exit code 1 if anything is missing on the server."""
    given = _parser().parse_args(arguments)
    return trusting("track", arguments, given, lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    folder = StudyFolder(Path(given.study))
    _check_combination(given)
    if not given.from_wandb:
        return track(folder, given.mode, given.project, given.entity, given.new_ids, trust=given.trust)
    from harness.config.imported import imported_configuration
    from harness.record.tracking.import_runs import Columns, import_runs

    columns, path = Columns.parse(given.column), folder.path
    done = import_runs(given.from_wandb, path, columns, given.target, given.train_examples, imported_configuration)
    print(f"{done.runs} runs of {given.from_wandb} in {folder.path}: {done.how}")
    for run in done.left_out:
        print(f"left out: {run}")
    return _conclude(folder)


def _check_combination(given: argparse.Namespace) -> None:
    """UserError for options that would have no effect."""
    importing = {"--column": given.column, "--target": given.target, "--train-examples": given.train_examples}
    sending = {"--project": given.project, "--entity": given.entity, "--new-ids": given.new_ids or None}
    sending["--mode"] = None if given.mode == "auto" else given.mode
    if given.from_wandb is None and (option := next((name for name, value in importing.items() if value), None)):
        raise UserError(f"{option} is for importing runs: add --from-wandb SOURCE, or leave it out")
    if given.from_wandb is not None and (option := next((name for name, value in sending.items() if value), None)):
        raise UserError(f"{option} is for sending a study to W&B: it has no effect with --from-wandb")
    if given.train_examples is not None and given.train_examples < 1:
        raise UserError(f"--train-examples must be >= 1, not {given.train_examples}")


def track(
    folder: StudyFolder, mode: str, project: str | None, entity: str | None, new_ids: bool, *, trust: bool = False
) -> int:
    """Upload the study, or write what an upload would send; then its report. Raises UntrustedError before anything is
    sent."""
    folder.check_planned()
    config = stored_configuration(folder)
    if not trust:
        refuse_own_classes(config, folder.path.name)
    own = config.tracking
    tracking = replace(own, mode=mode, project=project or own.project, entity=entity or own.entity)
    running = folder.is_being_run
    if running and (own.mode in ("online", "auto") or mode == "offline"):
        raise UserError(f"study {folder.path.name} is running and tracked ({own.mode}): wait until it has ended")
    decision = decide(mode)
    if decision.why:
        print(f"W&B offline: {decision.why}")
    if decision.mode == "offline" and running:
        raise UserError(f"study {folder.path.name} is running and no W&B server answers: wait until it has ended")
    label = next_generation(folder) if new_ids else study_label(folder)
    with scratch_folder(SCRATCH) as scratch:
        os.environ.update(_cleaned(environment(decision.mode, scratch, os.environ)))
        import_wandb(scratch)
        from harness.record.tracking.project import RunDestination, WandbProject

        online = decision.mode == "online"
        out = scratch if online else folder.path
        entity = tracking.entity or decision.entity
        destination = RunDestination(decision.mode, tracking.project, entity, out, FINISH_S)
        runs, document = WandbProject(folder.path, label, destination), _document(folder, trust)
        try:
            return (
                _online(folder, runs, document, scratch, finished_only=running, trust=trust)
                if online
                else _offline(folder, runs, document)
            )
        finally:
            runs.wandb.teardown()


def _online(
    folder: StudyFolder, runs: Any, document: Mapping[str, Any], scratch: Path, *, finished_only: bool, trust: bool
) -> int:
    from harness.record.tracking.publish import publish
    from harness.record.tracking.upload import upload

    try:
        done = upload(folder, runs, finished_only)
    except (runs.wandb.errors.Error, OSError, TimeoutError) as error:
        raise UserError(f"W&B failed ({one_line(error)}): run the same command again to resume") from error
    total = done.sent + done.there + len(done.left)
    print(f"W&B: {total - len(done.left)} of {total} trials at {runs.address()} ({done.sent} sent now)")
    if done.left:
        print(f"incomplete on the server: {', '.join(done.left)}; run the same command again to resume")
        return ExitCode.FAILED
    try:
        print(f"report: {publish(runs, document, lambda: _results(folder, scratch / 'results', trust))}")
    except UserError as error:
        print(f"no report: {error}")
    except Exception as error:  # from two packages and a server; the runs are uploaded even without a report
        print(f"no report: {one_line(error)}; run the same command again to retry")
        return ExitCode.FAILED
    return 0


def _offline(folder: StudyFolder, runs: Any, document: Mapping[str, Any]) -> int:
    from harness.record.tracking.publish import write_spec
    from harness.record.tracking.upload import rebuild_offline

    done = rebuild_offline(folder, runs)
    offline = folder.path / "wandb"
    study, run_folders = shlex.quote(str(folder.path)), f"{shlex.quote(str(offline))}/offline-run-*"
    print(f"W&B: {done.sent + done.there} offline runs in {offline} ({done.sent} written now)")
    try:
        print(f"report: {write_spec(folder.path, document, runs.label.group)} (published by an upload)")
    except UserError as error:
        print(f"no report: {error}")
    print(f"upload: harness track {study} --mode online")
    print(f"    or: wandb sync {run_folders}  (without the report; also sends the path of wandb on this machine)")
    return 0


def _document(folder: StudyFolder, trust: bool) -> dict[str, Any]:
    """The report of what the study has found so far."""
    from harness.report.wandb_report import report_document

    findings, design = _findings(folder, trust)
    return report_document(findings, design.workload.target.metric)


def _results(folder: StudyFolder, path: Path, trust: bool) -> Path:
    """The study's files and figures as they are now, in `path`: those in its folder may be of an earlier report."""
    from harness.report.write import write_files

    write_files(path, _findings(folder, trust)[0])
    return path


def _findings(folder: StudyFolder, trust: bool = False) -> tuple[Any, Any]:
    from harness.analyse.experiment import concluded, reopen
    from harness.analyse.results import Records

    experiment, design = reopen(folder, trust)
    return concluded(experiment, design, Records(folder)), design


def _conclude(folder: StudyFolder) -> int:
    """The local report of an imported study."""
    from harness.report.write import write_reports

    whole = write_reports(make_console(), folder.path, _findings(folder)[0])
    return ExitCode.DONE if whole else ExitCode.FAILED


def _cleaned(variables: Mapping[str, str]) -> Mapping[str, str]:
    """`variables`, after removing every other WANDB_ variable from our environment."""
    for key in [key for key in os.environ if key.startswith("WANDB_") and key not in variables]:
        del os.environ[key]
    return variables


def _parser() -> Parser:
    parser = Parser(
        prog="harness track",
        description="Write a study's W&B runs and report from its journals. It can be repeated safely, also after a "
        "crash and from a login node. The key comes from WANDB_API_KEY or `wandb login`.",
    )
    parser.add_argument("study", help="study folder, e.g. outputs/tbs_sweep/default")
    parser.add_argument("--mode", choices=["auto", "online", "offline"], default="auto", help="default: %(default)s")
    parser.add_argument("--project", help="W&B project; default: the study's own")
    parser.add_argument("--entity", help="W&B user or team; default: the study's own, then the key's")
    parser.add_argument("--new-ids", action="store_true", help="send everything again under new run ids")
    parser.add_argument(
        "--from-wandb",
        metavar="SOURCE",
        help="fill STUDY with runs from a folder of offline runs, or from entity/project, then report on it",
    )
    parser.add_argument("--column", action="append", default=[], metavar="NAME=KEY", help="see docs/tracking.md")
    parser.add_argument("--target", metavar="METRIC>=VALUE", help="e.g. 'accuracy>=0.97'; default: the runs' own")
    parser.add_argument("--train-examples", type=int, help="training-set size, for epochs; default: the runs' own")
    add_trust_option(parser)
    return parser
