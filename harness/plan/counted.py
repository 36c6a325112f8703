"""A number with its noun: `1 update`, `12 updates`."""


def count(amount: float | str, noun: str, plural: str | None = None) -> str:
    """`amount` as a number, or as it is already written; whether the noun is singular follows from what is read."""
    text = amount if isinstance(amount, str) else f"{amount:,}" if isinstance(amount, int) else f"{amount:,g}"
    return f"{text} {noun if text == '1' else plural or f'{noun}s'}"
