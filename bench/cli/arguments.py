"""How arguments are read and times are said on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from bench.schema import InvalidInput, Scalar


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def pairs(texts: Sequence[str]) -> dict[str, Scalar]:
    """{name: number} from texts such as `width=16`."""
    found: dict[str, Scalar] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InvalidInput(f"--arch-arg is written name=number, got {text!r}")
        found[key] = int(number) if number.is_integer() else number
    return found


def floats(text: str | None, flag: str) -> tuple[float, ...] | None:
    """The numbers of a text such as `0.5,0.5,0.5`; flag names it in the error."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"{flag} is written as numbers with commas, got {text!r}") from None
