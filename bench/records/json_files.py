"""JSON files that others may have written, read within bounds; errors show no content of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bench.records.one_read import read_whole
from bench.schema.errors import InvalidInput, visible

LARGEST = 2**20  # bytes of what is neither a record nor weights: cards, studies, gaps
# Values of one file: commas, colons and brackets. Ours have at most 2,300; an unknown field costs
# pydantic 2.7 kB, so that a file of nothing else takes 150 MB.
MOST_MARKS = 50_000
_MARKS = (b",", b":", b"[", b"{")
_MOST_DIGITS = 18  # so that every whole number fits 64 bits

Content = TypeVar("Content")


def read(
    path: Path, validate: Callable[[bytes], Content], what: str, *,
    largest: int = LARGEST, follow: bool = False,
) -> Content:  # fmt: skip
    """What `validate`, such as a model's model_validate_json, makes of a file that is a `what`.

    Raises InvalidInput naming the file where it cannot be read or is none; it is left in place.
    """
    raw = read_whole(path, largest=largest, follow=follow)
    parsed(raw, path)
    return validated(raw, validate, f"{path} is not a valid {what}")


def validated(raw: bytes, validate: Callable[[bytes], Content], wrong: str) -> Content:
    """What validate makes of JSON; InvalidInput begins with `wrong` and says the first mistake."""
    try:
        return validate(raw)
    except ValidationError as error:
        raise InvalidInput(f"{wrong}: {first_mistake(error)}; it is left in place") from None
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{wrong} ({type(error).__name__}); it is left in place") from None


def first_mistake(error: ValidationError, whole: str = "") -> str:
    """`columns.cw.broken: Input should be ...`: where and what, never the value that was there."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(_short(str(step), 60) for step in first["loc"][:8])
    return ": ".join(filter(None, (where or whole, _short(first["msg"], 300))))


def _short(text: str, limit: int) -> str:
    return visible(text if len(text) <= limit else text[: limit - 1] + "…")


def parsed(raw: bytes, where: object) -> Any:
    """The content of JSON in UTF-8: each key once, plain finite numbers, bounded in count.

    Depth is bounded by the parsers.

    Raises InvalidInput that begins with `where`.
    """
    marks = sum(raw.count(mark) for mark in _MARKS)
    if marks > MOST_MARKS:
        raise InvalidInput(
            f"{where} holds about {marks:,} values, at most {MOST_MARKS:,} are read; left in place"
        )
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once_each, parse_int=_whole,
            parse_float=_finite, parse_constant=_finite,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        why = f"byte {error.start:,} is no UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:  # of the parser, and of the checks below
        why = str(error)
    raise InvalidInput(f"{where} is not JSON that is read ({why}); it is left in place")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a whole number has more than {_MOST_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is infinite or none")
    return number
