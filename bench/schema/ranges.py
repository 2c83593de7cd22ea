"""Places in the fixed order of a data set as text: `0:1017,10000:11017`, each end left out."""

from __future__ import annotations

import re

from bench.schema.errors import InvalidInput

Ranges = tuple[tuple[int, int], ...]  # ascending, none empty, none touching the next

_TEXT = re.compile(r"\d{1,9}:\d{1,9}(,\d{1,9}:\d{1,9})*")


def ranges_of(text: str) -> Ranges:
    """The places that a text names. There is one text for the same places.

    Raises InvalidInput where it is none, a range is empty, or one does not lie beyond the one before.
    """
    if not _TEXT.fullmatch(text):
        raise InvalidInput(f"expected ranges such as 0:1017,10000:11017, got {text[:100]!r}")
    ends = [tuple(map(int, part.split(":"))) for part in text.split(",")]
    found = tuple((first, last) for first, last in ends)
    before = -1
    for first, last in found:
        if not before < first < last:
            raise InvalidInput(
                f"expected ascending ranges that neither overlap nor touch, got {first}:{last}"
                + (f" after one that ends at {before}" if before >= 0 else "")
            )
        before = last
    if ranges_text(found) != text:
        raise InvalidInput(f"expected {ranges_text(found)}, got {text[:100]!r}")
    return found


def ranges_text(ranges: Ranges) -> str:
    """`0:1017,10000:11017`."""
    return ",".join(f"{first}:{last}" for first, last in ranges)


def count(ranges: Ranges) -> int:
    """How many places there are."""
    return sum(last - first for first, last in ranges)


def first_of(ranges: Ranges, n: int) -> Ranges:
    """The first n places, of no more than there are."""
    kept = []
    for first, last in ranges:
        if n > 0:
            kept.append((first, min(last, first + n)))
            n -= last - first
    return tuple(kept)
