"""harness track STUDY: a study's W&B runs and report from its journals, at any time, as often as you like."""

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.commands.entry import Parser, command, make_console
from harness.config.configuration import stored_configuration
from harness.plan.errors import UserError, one_line
from harness.plan.exit_codes import ExitCode
from harness.record.study import StudyFolder
from harness.record.tracking.runs import next_generation, study_label
from harness.record.tracking.settings import decide, environment

FINISH_S = 300.0  # how long one run's last rows may take; a sweep is not waiting here


@command
def main(arguments: Sequence[str]) -> int:
    """Upload or import; exit code 1 where something is not on the server."""
    given = _parser().parse_args(arguments)
    folder = StudyFolder(Path(given.study))
    if not given.from_wandb:
        return track(folder, given.mode, given.project, given.entity, given.new_ids)
    from harness.config.imported import imported_configuration
    from harness.record.tracking.import_runs import Columns, import_runs

    columns, path = Columns.parse(given.column), folder.path
    count = import_runs(given.from_wandb, path, columns, given.target, given.train_examples, imported_configuration)
    print(f"{count} runs of {given.from_wandb} in {folder.path}")
    return _conclude(folder)


def track(folder: StudyFolder, mode: str, project: str | None, entity: str | None, new_ids: bool) -> int:
    """Upload the study, or write what an upload would send; then its report."""
    own = stored_configuration(folder).tracking
    live, wanted = own.mode, replace(own, mode=mode, project=project or own.project, entity=entity or own.entity)
    running = folder.is_being_run
    if running and (live in ("online", "auto") or mode == "offline"):
        raise UserError(f"study {folder.path.name} is being run and tracked ({live}): wait for it")
    found = decide(mode)
    if found.why:
        print(f"W&B offline: {found.why}")
    if found.mode == "offline" and running:
        raise UserError(f"study {folder.path.name} is being run: nothing is written beside it without a server")
    label = next_generation(folder) if new_ids else study_label(folder)
    with tempfile.TemporaryDirectory(prefix="harness-wandb-") as scratch:
        os.environ.update(_cleaned(environment(found.mode, Path(scratch), os.environ)))
        from harness.record.tracking.project import Place, WandbProject

        online = found.mode == "online"
        where = Path(scratch) if online else folder.path
        place = Place(found.mode, wanted.project, wanted.entity or found.entity, where, FINISH_S)
        runs, document = WandbProject(folder.path, label, place), _document(folder)
        try:
            return (
                _online(folder, runs, document, finished_only=running) if online else _offline(folder, runs, document)
            )
        finally:
            runs.wandb.teardown()


def _online(folder: StudyFolder, runs: Any, document: Mapping[str, Any], finished_only: bool) -> int:
    from harness.record.tracking.publish import publish
    from harness.record.tracking.upload import upload

    try:
        done = upload(folder, runs, finished_only)
    except (runs.wandb.errors.Error, OSError, TimeoutError) as error:
        raise UserError(f"W&B failed ({one_line(error)}): the same command goes on from there") from error
    total = done.sent + done.there + len(done.left)
    print(f"W&B: {total - len(done.left)} of {total} trials at {runs.address()} ({done.sent} sent now)")
    if done.left:
        print(f"not whole on the server: {', '.join(done.left)}; the same command goes on from there")
        return ExitCode.FAILED
    try:
        print(f"report: {publish(runs, document)}")
    except UserError as error:
        print(f"no report: {error}")
    except Exception as error:  # of two packages and a server; the runs are there whatever becomes of the report
        print(f"no report: {one_line(error)}; the same command tries again")
        return ExitCode.FAILED
    return 0


def _offline(folder: StudyFolder, runs: Any, document: Mapping[str, Any]) -> int:
    from harness.record.tracking.publish import write_spec
    from harness.record.tracking.upload import rebuild_offline

    done = rebuild_offline(folder, runs)
    place = folder.path / "wandb"
    study, runs_there = shlex.quote(str(folder.path)), f"{shlex.quote(str(place))}/offline-run-*"
    print(f"W&B: {done.sent + done.there} offline runs in {place} ({done.sent} written now)")
    try:
        print(f"report: {write_spec(folder.path, document, runs.label.group)}, published by an upload")
    except UserError as error:
        print(f"no report: {error}")
    print(f"upload: harness track {study} --mode online")
    print(f"    or: wandb sync {runs_there}  (no report; sends this machine's path of wandb)")
    return 0


def _document(folder: StudyFolder) -> dict[str, Any]:
    """The report of what the study has found so far."""
    from harness.analyse.experiment import reopen
    from harness.analyse.results import Records
    from harness.report.wandb_report import report_document

    experiment, design = reopen(folder)
    return report_document(experiment.conclude(Records(folder)), design.workload.target.metric)


def _conclude(folder: StudyFolder) -> int:
    """The local report of an imported study."""
    from harness.analyse.experiment import reopen
    from harness.analyse.results import Records
    from harness.report.write import write_reports

    experiment, _ = reopen(folder)
    write_reports(make_console(), folder, experiment.conclude(Records(folder)))
    return 0


def _cleaned(wanted: Mapping[str, str]) -> Mapping[str, str]:
    """`wanted`, after everything of W&B's that it leaves out has been removed from our environment."""
    for key in [key for key in os.environ if key.startswith("WANDB_") and key not in wanted]:
        del os.environ[key]
    return wanted


def _parser() -> Parser:
    parser = Parser(
        prog="harness track",
        description="A study's W&B runs and report from its journals: idempotent, also after a crash or from a login "
        "node. The key comes from WANDB_API_KEY or `wandb login`.",
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
    return parser
