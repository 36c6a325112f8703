"""Each field and default is in one place: the schema is derived from the classes, and study.json becomes them again."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from made_up import description
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.analyse.experiment import reopen
from harness.config.build import build_design
from harness.config.compose import compose_config
from harness.config.configuration import (
    Configuration,
    ConfigurationValues,
    FieldError,
    resolved_hints,
    stored_configuration,
    to_object,
)
from harness.config.places import conf_folder
from harness.config.schema import twin
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.stored import NewerFormatError
from harness.plan.trial import Trial
from harness.record.files import write_json
from harness.record.study import StudyFolder

SWEEP = ["+experiment=tbs_sweep"]


# -- the schema ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    given: int
    usual: str = "as always"


@dataclass(frozen=True)
class Outer:
    """One field of every kind that a configuration has."""

    inner: Inner
    spec: Mapping[str, Any]
    names: Sequence[str]
    length: Duration
    number: float | None = None
    either: int | str | None = 3
    extra: Inner | None = None
    patterns: Sequence[str] = ()
    factors: Mapping[str, float] = field(default_factory=dict)


GIVEN = {"inner": {"given": 1}, "spec": {"_target_": "a.B"}, "names": ["x"], "length": {"epochs": 2}}


def merged(values: Mapping[str, Any]) -> Any:
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(twin(Outer)), values), throw_on_missing=True)


def test_what_omegaconf_checks_becomes_the_frozen_class_with_its_own_defaults():
    built = to_object(Outer, merged(GIVEN))
    assert built == Outer(Inner(1), {"_target_": "a.B"}, ["x"], Duration(2, "epochs"), patterns=[])
    full = {**GIVEN, "extra": {"given": 2}, "either": "auto", "patterns": ["a.*"], "factors": {"a": 2.0}}
    assert to_object(Outer, merged(full)).extra == Inner(2)


@pytest.mark.parametrize("key", GIVEN)
def test_a_field_without_a_default_is_missing_until_it_is_given(key):
    with pytest.raises(OmegaConfBaseException, match=r"(?i)missing"):
        merged({name: value for name, value in GIVEN.items() if name != key})


@pytest.mark.parametrize(
    "wrong", [{"inner": {"given": "many"}}, {"factors": {"a": "fast"}}, {"patterns": [None]}, {"unknown": 1}]
)
def test_the_twin_refuses_wrong_types_and_unknown_keys(wrong):
    with pytest.raises(OmegaConfBaseException):
        merged({**GIVEN, **wrong})


def test_a_default_that_a_twin_could_not_repeat_is_noticed():
    @dataclass(frozen=True)
    class Unusual:
        inner: Inner = field(default_factory=lambda: Inner(7))

    with pytest.raises(AssertionError):
        twin(Unusual)


# -- conf/ -----------------------------------------------------------------------------------------------------------


def with_defaults(cls: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything that has a default in the classes."""
    for f in fields(cls):
        hint = resolved_hints(cls)[f.name]
        nested = next((arg for arg in (hint, *get_args(hint)) if is_dataclass(arg) and arg is not Duration), None)
        if nested is not None:
            yield from with_defaults(nested, f"{prefix}{f.name}.")
        elif not f.default is f.default_factory is MISSING:
            yield f"{prefix}{f.name}"


DEFAULTS = sorted(with_defaults(ConfigurationValues))


def keys_of(value: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, item in value.items():
        if key == "defaults":
            continue
        if isinstance(item, Mapping):
            yield from keys_of(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_no_file_of_the_harness_repeats_a_default():
    assert len(DEFAULTS) > 50
    files = {
        path: f"{path.parent.name}." for group in ("cluster", "tracking") for path in (conf_folder() / group).glob("*")
    }
    for path, prefix in {conf_folder() / "config.yaml": "", **files}.items():
        value = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(value, dict)
        given = set(keys_of({str(key): item for key, item in value.items()}, prefix))
        assert given, path
        assert not given & set(DEFAULTS), path


# -- study.json ------------------------------------------------------------------------------------------------------


def without(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy that lacks one dotted key; the same where it is not there."""
    changed = copy.deepcopy(dict(values))
    part: Any = changed
    *parents, name = key.split(".")
    for parent in parents:
        part = part.get(parent)
        if part is None:
            return changed
    part.pop(name, None)
    return changed


def trial_ids(config: Configuration) -> list[str]:
    workload = build_design(config, 1024).workload
    return [Trial(workload.arm(rule, tbs), 0).trial_id for rule in ("none", "linear") for tbs in (16, 512)]


@pytest.fixture(scope="module")
def raw():
    """What a study keeps whose workload can do without any single value that has a default."""
    averaging = ["workload.averaging.half_life_examples=0", "workload.averaging.decide_on=raw"]
    return compose_config([*SWEEP, "cluster=slurm", "workload.batch_norm.span=none", *averaging]).raw


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_field_younger_than_a_study_gets_its_default(raw, key):
    older = Configuration.of(without(raw, key))
    value: Any = older
    cls: Any = ConfigurationValues
    *parents, name = key.split(".")
    for parent in parents:
        hint = resolved_hints(cls)[parent]
        cls = next(arg for arg in (hint, *get_args(hint)) if is_dataclass(arg))
        value = getattr(value, parent)
    f = next(f for f in fields(cls) if f.name == name)
    default = f.default if f.default is not MISSING else f.default_factory()  # pyright: ignore[reportCallIssue]
    assert getattr(value, name) == default


@pytest.mark.parametrize("part", ["workload.noise_scale", "workload.read_beside", "lr_scaling.co_scaling"])
def test_a_whole_part_younger_than_a_study_gets_its_defaults(raw, part):
    older, now = Configuration.of(without(raw, part)), Configuration.of(raw)
    assert older.workload == (replace(now.workload, read_beside=None) if "beside" in part else now.workload)
    assert older.lr_scaling == now.lr_scaling


def test_a_stored_configuration_is_the_composed_one_and_plans_the_same_trials():
    composed = compose_config([*SWEEP, "workload.clip_norm=1.0", "lr_scaling.co_scaling.momentum=half_life"])
    stored = Configuration.of(json.loads(json.dumps(composed.raw)))
    assert stored == composed
    assert trial_ids(stored) == trial_ids(composed)


def study(folder: Path, config: Mapping[str, Any]) -> StudyFolder:
    folder.mkdir()
    write_json(folder / "study.json", {**description(folder.name, SWEEP), "config": config})
    return StudyFolder(folder)


def test_a_field_of_a_newer_version_is_reported_in_one_line(tmp_path):
    raw = compose_config(SWEEP).raw
    newer = {**raw, "workload": {**raw["workload"], "target": {**raw["workload"]["target"], "patience": 3}}}
    with pytest.raises(UserError) as refused:
        reopen(study(tmp_path / "newer", newer))
    assert str(refused.value) == (
        "study newer was written by a newer version of harness (it has 'workload.target.patience' in its "
        "configuration, which this version does not know): use the version that wrote it"
    )


def test_a_study_without_a_field_that_has_no_default_is_reported_in_one_line(tmp_path):
    raw = without(compose_config(SWEEP).raw, "workload.base_lr")
    with pytest.raises(UserError, match=r"study torn cannot be read .*: the configuration has no workload\.base_lr;"):
        reopen(study(tmp_path / "torn", raw))
    (tmp_path / "none").mkdir()
    write_json(tmp_path / "none" / "study.json", {"experiment": "tbs_sweep"})
    with pytest.raises(UserError, match=r"study none cannot be read .*: study\.json has no configuration"):
        stored_configuration(StudyFolder(tmp_path / "none"))


def test_only_unknown_and_missing_keys_are_errors_of_the_format():
    raw = compose_config(SWEEP).raw
    with pytest.raises(NewerFormatError):
        Configuration.of({**raw, "colour": "red"})
    with pytest.raises(FieldError):
        Configuration.of(without(raw, "workload.base_lr"))
    with pytest.raises(UserError, match="cpus must be >= 1, not 0") as refused:
        Configuration.of({**raw, "cluster": {**raw["cluster"], "cpus": 0}})
    assert not isinstance(refused.value, FieldError | NewerFormatError)


def test_a_micro_batch_that_was_found_is_kept_as_if_it_had_been_given():
    found = compose_config([*SWEEP, "cluster.per_device_batch_size=auto"]).with_micro_batch(64)
    given = compose_config([*SWEEP, "cluster.per_device_batch_size=64"])
    assert found.cluster == given.cluster
    assert found.raw["cluster"] == given.raw["cluster"]
