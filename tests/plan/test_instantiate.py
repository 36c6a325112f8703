"""Own classes plug in by `_target_`; what does not fit is told in one line, with the nearest name, before a start."""

import collections
import datetime
import fractions

import pytest
from torch import nn

from harness.plan.errors import UserError
from harness.plan.instantiate import check_arguments, instantiate, resolve


class Point:
    def __init__(self, x: float, y: float = 0.0, *, colour: str = "black") -> None:
        self.x, self.y, self.colour = x, y, colour

    @classmethod
    def origin(cls) -> "Point":
        return cls(0.0)


class Figure:
    def __init__(self, points: list[Point], marks: dict[str, Point] | None = None) -> None:
        self.points, self.marks = points, marks


class Anything:
    def __init__(self, **options: object) -> None:
        self.options = options


HERE = __name__
POINT, FIGURE = f"{HERE}.Point", f"{HERE}.Figure"
NOT_CALLABLE = 3


def test_a_spec_becomes_an_object_with_its_keyword_arguments():
    point = instantiate({"_target_": POINT, "x": 2, "colour": "red"})
    assert (point.x, point.y, point.colour) == (2, 0.0, "red")


def test_what_the_caller_adds_comes_beside_the_spec():
    point = instantiate({"_target_": POINT, "y": 5}, 2, colour="blue")
    assert (point.x, point.y, point.colour) == (2, 5, "blue")


def test_specs_nest_in_lists_and_mappings():
    spec = {"_target_": POINT, "x": 1}
    figure = instantiate({"_target_": FIGURE, "points": [spec, {**spec, "x": 2}], "marks": {"a": {**spec, "x": 3}}})
    assert [point.x for point in figure.points] == [1, 2]
    assert figure.marks["a"].x == 3


def test_class_methods_nested_names_and_installed_packages_are_reached():
    assert instantiate({"_target_": f"{POINT}.origin"}).x == 0.0
    assert instantiate({"_target_": "fractions.Fraction", "numerator": 3}) == fractions.Fraction(3)
    assert isinstance(instantiate({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 2}), nn.Linear)


def test_a_callable_that_takes_anything_is_given_anything():
    assert instantiate({"_target_": f"{HERE}.Anything", "colour": 1}).options == {"colour": 1}


def test_a_callable_without_a_signature_is_called_as_asked():
    assert instantiate({"_target_": "builtins.dict", "a": 1}) == {"a": 1}


def test_a_spec_is_not_changed_by_its_use():
    spec = {"_target_": FIGURE, "points": [{"_target_": POINT, "x": 1}]}
    instantiate(spec)
    assert spec == {"_target_": FIGURE, "points": [{"_target_": POINT, "x": 1}]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": POINT, "x": 1, "color": "red"}, rf"{POINT} has no argument 'color': did you mean 'colour'\?"),
        ({"_target_": POINT, "x": 1, "weight": 3}, rf"{POINT} has no argument 'weight': choose one of x, y, colour"),
        ({"_target_": f"{POINT}.origin", "x": 1}, r"has no argument 'x': it takes no arguments"),
        ({"_target_": POINT}, rf"{POINT}: missing a required argument: 'x'"),
        ({"_target_": FIGURE, "points": [{"_target_": POINT, "x": 1, "colur": 0}]}, r"did you mean 'colour'\?"),
        ({"_target_": FIGURE, "points": [], "marks": {"a": {"_target_": POINT}}}, "missing a required argument: 'x'"),
        ({"_target_": f"{HERE}.Pont"}, rf"_target_ {HERE}.Pont: {HERE} has no 'Pont': did you mean 'Point'\?"),
        ({"_target_": "torch.optm.SGD"}, r"torch has no 'optm': did you mean 'optim'\?"),
        ({"_target_": "torchh.optim.SGD"}, "no module named 'torchh' can be imported"),
        ({"_target_": "Point"}, "must be a dotted path like package.module.Class, not 'Point'"),
        ({"x": 1}, "must be a dotted path like package.module.Class, not None"),
        ({"_target_": f"{HERE}.NOT_CALLABLE"}, "must be a class or a function"),
    ],
)
def test_what_does_not_fit_is_rejected_in_one_line_with_the_nearest_name(spec, message):
    for function in (check_arguments, instantiate):
        with pytest.raises(UserError, match=message) as error:
            function(spec)
        assert "\n" not in str(error.value)


def test_arguments_given_twice_or_too_many_are_told():
    with pytest.raises(UserError, match=rf"{POINT}: multiple values for argument 'x'"):
        check_arguments({"_target_": POINT, "x": 1}, 2)
    with pytest.raises(UserError, match=f"{POINT}: too many positional arguments"):
        check_arguments({"_target_": POINT}, 1, 2, 3)


def test_a_check_constructs_nothing(monkeypatch):
    built = []
    monkeypatch.setattr(Point, "__init__", lambda self, x: built.append(x))
    check_arguments({"_target_": FIGURE, "points": [{"_target_": POINT, "x": 1}]})
    assert not built


def test_a_package_that_the_target_needs_and_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_model.py").write_text("import a_package_nobody_has\n\nclass Model: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"my_own_model\.py, line 1: No module named 'a_package_nobody_has'"):
        resolve({"_target_": "my_own_model.Model"})


def test_errors_raised_inside_the_constructor_are_its_own():
    with pytest.raises(ValueError, match="month must be in"):
        instantiate({"_target_": "datetime.date", "year": 2000, "month": 13, "day": 1})
    assert instantiate({"_target_": "datetime.date", "year": 2000, "month": 12, "day": 1}) == datetime.date(2000, 12, 1)
    assert resolve({"_target_": "collections.Counter"}) is collections.Counter
