"""A number with its noun: `1 update`, `12 updates`."""


def count(amount: float | str, noun: str, plural: str | None = None) -> str:
    """`amount` as a number, or as it is already written; whether the noun is singular follows from what is read."""
    text = amount if isinstance(amount, str) else f"{amount:,}" if isinstance(amount, int) else f"{amount:,g}"
    is_one = text == "1" or text.endswith(" 1")  # `more than 1`
    return f"{text} {noun if is_one else plural or f'{noun}s'}"
