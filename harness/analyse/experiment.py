"""What a file of experiments/ offers, and how a configuration or a study on disk becomes one."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from harness.analyse.arms import arm_findings
from harness.analyse.attempts import Attempts
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.planned_rules import planned_rules
from harness.analyse.results import Records
from harness.config.build import build_design
from harness.config.configuration import Configuration, stored_configuration
from harness.config.experiments import check_methods, question_class
from harness.config.fitting import check_question
from harness.config.own_classes import refuse_own_classes
from harness.plan.design import Design
from harness.plan.errors import UserError, one_line
from harness.plan.imports import user_code
from harness.plan.trial import Trial
from harness.record.study import StudyFolder


@runtime_checkable
class Experiment(Protocol):
    """Which trials answer a question, and what they answered."""

    def trials(self, records: Records) -> Sequence[Trial]:
        """Every trial planned given the records so far; a search returns more once earlier ones are in."""
        ...

    def conclude(self, records: Records) -> Findings:
        """What the finished trials answer, also where some are missing."""
        ...


@runtime_checkable
class Racing(Experiment, Protocol):
    """An experiment whose trials may stop before their target because their arm can no longer win (plan.racing)."""

    def limits(self, records: Records) -> Mapping[str, float]:
        """By trial_id, the examples from which on a trial that races stops at its next miss; 0: it need not begin."""
        ...


@runtime_checkable
class Sequential(Experiment, Protocol):
    """An experiment that asks for more once its first trials are in."""

    @property
    def follows(self) -> str:
        """What the first round may lead to, for the plan that dry_run prints."""
        ...


def concluded(experiment: Experiment, design: Design, records: Records) -> Findings:
    """What the experiment concludes; if that fails, the table of its arms and what can be said of any, with the failure
    named. Raises UserError."""
    attempts = Attempts()
    answer = attempts.of("The answer to this question", lambda: experiment.conclude(records), None)
    if answer is not None:
        return answer
    arms = list({str(trial.arm.settings.to_json()): trial.arm for trial in experiment.trials(records)}.values())
    question = "What did each arm need to reach the target?"
    measured = arm_findings(design, arms, records)
    return findings(question, design, arms, records, measured, verdict=[], attempts=attempts)


def build_question(config: Configuration, design: Design) -> object:
    """What a configuration's question._target_ names, constructed with the question's own parameters: an Experiment, or
    what harness.commands.measurement runs; UserError for anything else, or if it does not take them."""
    parameters = dict(config.question)
    target = str(parameters.pop("_target_", ""))
    make = question_class(target)
    check_question(make, parameters)
    with user_code(f"question {target} fails"):
        question = make(design, **parameters)
    check_methods(target, question)  # a function may have made it
    return question


def as_experiment(question: object) -> Experiment:
    """UserError for a question that is answered without trials."""
    if isinstance(question, Experiment):
        return question
    raise UserError(f"{type(question).__name__} measures and plans no trials, so it has no records to read")


def build_experiment(config: Configuration, design: Design) -> Experiment:
    """The experiment that a configuration names; see build_question."""
    return as_experiment(build_question(config, design))


def reopen(folder: StudyFolder, trust: bool = False) -> tuple[Experiment, Design]:
    """The experiment of a study on disk and what it was planned with: what reports and exports start from.

    Nothing that study.json names is imported, unless `trust`: rules are read from the plan (P29). Raises UntrustedError
    for a study that cannot be read without, UserError where the folder is not a study, or one whose configuration this
    version does not know.
    """
    config = stored_configuration(folder)
    if not trust:
        refuse_own_classes(config, folder.path.name)
    try:
        rules = {} if trust else planned_rules(folder, config.lr_scaling.rules)
        design = build_design(config, folder.description()["train_examples"], rules)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"study.json of study {folder.path.name} is damaged: {one_line(error)}") from error
    try:
        return build_experiment(config, design), design
    except UserError as error:
        version = (folder.description().get("versions") or {}).get("harness", "an unknown version")
        raise UserError(
            f"study {folder.path.name}, written by harness {version}, cannot be read here: {error}"
        ) from error
