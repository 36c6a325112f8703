"""The result of one of the doctor's checks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`detail` gives the numbers, or cause, place and what to do. A note is worth knowing, but no fault."""

    name: str
    passed: bool
    detail: str
    is_note: bool = False

    def __str__(self) -> str:
        return f"{'NOTE' if self.is_note else 'PASS' if self.passed else 'FAIL'}  {self.name}: {self.detail}"


def fault(name: str, detail: str) -> Check:
    return Check(name, False, detail)


def note(name: str, detail: str) -> Check:
    return Check(name, True, detail, is_note=True)
