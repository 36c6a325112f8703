"""The composed configuration as typed values; what study.json keeps becomes the same values again.

Fields and defaults are those of plan's dataclasses wherever plan has them. The schema that composition is checked
against is derived from these classes (harness.config.schema).
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from harness.plan.cluster import ClusterConfig
from harness.plan.coscaling import CoScaling
from harness.plan.duration import Duration
from harness.plan.errors import UserError, one_line
from harness.plan.parameter_groups import ParameterGroups
from harness.plan.settings import Spec
from harness.plan.stored import NewerFormatError, remedy
from harness.plan.tracking import Tracking
from harness.plan.workload import WorkloadConfig

T = TypeVar("T")


class FieldError(UserError):
    """A configuration without a key that this version needs."""


@dataclass(frozen=True)
class LrScaling:
    """The LR rules to compare, and what else is scaled with the total batch size."""

    rules: Sequence[str]
    power: float | None = None  # the exponent of rule `power`
    co_scaling: CoScaling = field(default_factory=CoScaling)


@dataclass(frozen=True, kw_only=True)
class ConfigurationValues:
    """Everything that conf/ and a command line may say."""

    dataset: Spec
    model: Spec
    optimizer: Spec  # without lr
    schedule: Spec  # durations in units
    parameter_groups: ParameterGroups = field(default_factory=ParameterGroups)
    lr_scaling: LrScaling
    workload: WorkloadConfig
    cluster: ClusterConfig
    tracking: Tracking
    question: Spec
    arm_columns: Sequence[str] = ()  # dotted paths of the user's own columns of the table of arms
    seeds: Sequence[int]
    study: str  # name of the study's folder
    output_dir: str  # studies are in output_dir/<experiment>/<study>
    dry_run: bool
    allow_mixed_code: bool


@dataclass(frozen=True, kw_only=True)
class Configuration(ConfigurationValues):
    """A composed configuration."""

    choices: Mapping[str, str]  # config group -> the file chosen
    overrides: Sequence[str] = ()  # as they were given
    raw: Mapping[str, Any] = field(repr=False)  # all of the above as JSON-able data: what study.json keeps

    @staticmethod
    def of(raw: Mapping[str, Any]) -> "Configuration":
        """The typed values of composed data, or of what a study.json keeps: what is younger gets its default.

        Raises NewerFormatError for keys that this version does not know, FieldError for keys that it needs and cannot
        find, UserError for values that no trial could be run with.
        """
        return to_object(Configuration, {**raw, "raw": raw})

    @property
    def experiment_name(self) -> str:
        return self.choices["experiment"]

    @property
    def optimizer_name(self) -> str:
        return self.choices["optimizer"]

    @property
    def folder(self) -> Path:
        """The study's folder, whether it exists or not."""
        return Path(self.output_dir).expanduser().resolve() / self.experiment_name / self.study

    @property
    def trial_specs(self) -> list[Spec]:
        """The specs of everything that runs inside a trial, the data set first."""
        return [self.dataset, self.model, self.optimizer, self.schedule]

    @property
    def specs(self) -> list[Spec]:
        """`trial_specs` and the question."""
        return [*self.trial_specs, self.question]

    def with_micro_batch(self, per_device_batch_size: int | None) -> "Configuration":
        """The same, as if this cap on the micro-batch had been given."""
        found = {"per_device_batch_size": per_device_batch_size}
        raw = {**self.raw, "cluster": {**self.raw["cluster"], **found}}
        return replace(self, cluster=replace(self.cluster, **found), raw=raw)


class OnDisk(Protocol):
    """A study's folder, as far as its configuration is concerned."""

    @property
    def path(self) -> Path: ...

    def description(self) -> dict[str, Any]:
        """study.json; UserError where there is none."""
        ...


def stored_configuration(folder: OnDisk) -> Configuration:
    """The configuration that a study keeps; UserError where there is none or this version cannot read it."""
    description = folder.description()
    try:
        return Configuration.of(description["config"])
    except NewerFormatError as error:
        raise error.of(f"study {folder.path.name}", remedy(description)) from error
    except (KeyError, FieldError) as error:
        reason = "study.json has no configuration" if isinstance(error, KeyError) else error
        raise UserError(
            f"study {folder.path.name} cannot be read by this version of harness: {reason}; {remedy(description)}"
        ) from error
    except UserError:
        raise
    except (TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise UserError(
            f"study.json of study {folder.path.name} is damaged: its configuration cannot be read ({one_line(error)})"
        ) from error


def stored_micro_batch(folder: OnDisk) -> int | None:
    """The cap on the micro-batch that a study keeps, found or given when it was started."""
    return folder.description()["config"]["cluster"]["per_device_batch_size"]


def to_object(cls: type[T], values: Mapping[str, Any], key: str = "") -> T:
    """A dataclass from plain data, nested ones alike; `key` is the dotted key of `values`, with a dot at its end."""
    names = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    if unknown := [name for name in values if name not in names]:
        raise NewerFormatError(f"it has {key + unknown[0]!r} in its configuration, which this version does not know")
    required = [name for name, f in names.items() if f.default is f.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise FieldError(f"the configuration has no {key}{missing[0]}")
    hints = resolved_hints(cls)
    return cls(**{name: _typed(hints[name], value, f"{key}{name}") for name, value in values.items()})


def _typed(hint: Any, value: Any, key: str) -> Any:
    """A value as its annotation says; numbers, texts and specs are what they are."""
    if get_origin(hint) in (Union, UnionType):
        classes = [arg for arg in get_args(hint) if is_dataclass(arg)]
        if value is None or not classes:
            return value
        hint = classes[0]
    if hint is Duration:
        return Duration.parse(value)
    return to_object(hint, value, f"{key}.") if isinstance(hint, type) and is_dataclass(hint) else value


@cache
def resolved_hints(cls: type) -> Mapping[str, Any]:
    """Field name -> annotation of a dataclass."""
    return get_type_hints(cls)
