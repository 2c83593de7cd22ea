"""How numbers and foreign text are written, the same in every table and on every page."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from bench.stats.intervals import Interval


def plain(text: object, limit: int = 200) -> str:
    """Text from outside on one line: no control or direction characters, at most `limit` long.

    It may still hold markup: escape it for where it is shown.
    """
    kept = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in unicodedata.normalize("NFC", str(text)[: 20 * limit])
        if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn")
    )
    kept = re.sub(r"\s+", " ", kept).strip()
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def harmless(text: str) -> str:
    """A spreadsheet runs a cell that begins like a formula; an apostrophe keeps it text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def web_address(text: str) -> str | None:
    """Text from outside where it plainly is an address of the web, else None: never javascript:."""
    address = plain(text, 500)
    try:
        parts = urlsplit(address)
        safe = parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in address
    except ValueError:
        return None
    return address if safe else None


def percent(rate: float, n: int) -> str:
    """A rate in percent, without the sign: one decimal up to 1,000 images, then two."""
    return f"{100 * rate:.{1 if n <= 1000 else 2}f}"


def percent_interval(interval: Interval, n: int) -> str:
    """The two ends in percent: `60.1 – 66.0`."""
    return f"{percent(interval.low, n)} – {percent(interval.high, n)}"


def points(difference: float) -> str:
    """A difference of two rates as signed percentage points: `+2.3`."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # adding 0.0 turns -0.0 into +0.0


def points_interval(difference: Interval, unit: str = " points") -> str:
    """`+2.3 points [+0.9, +3.7]`; one seed has no interval and says so."""
    if math.isinf(difference.low):
        return f"{points(difference.estimate)}{unit} [no interval]"
    return f"{points(difference.estimate)}{unit} {ends(difference)}"


def ends(interval: Interval) -> str:
    """`[+0.9, +3.7]`, in points."""
    return f"[{points(interval.low)}, {points(interval.high)}]"


def p_value_text(p: float) -> str:
    """`0.031`; never a bare zero."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def short_label(label: str) -> str:
    """A column's label without what stands in parentheses: `CW-inf`."""
    return label.split(" (")[0]


def aligned(lines: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """Lines of a table for the terminal; the columns of numbers are read from the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
