"""What was tried on validation images, read from its list, and what is chosen of it.

What is tried is declared: draws from the spaces of arms (spaces.py), and the grids that the presets
were chosen in (grids.py). `results/choices/<name>.csv` holds a line a run; run_choice.py writes it.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from awp_train.flags import number
from awp_train.grids import GRIDS, Grid, Setting
from awp_train.spaces import ARMS, Changed, Drawn
from bench.catalogue import unknown_name
from bench.records.one_read import read_whole
from bench.schema import InvalidInput

Line = dict[str, Any]  # column -> what is written there; a collapsed run has no counts
FOLDER = Path("results/choices")
_LARGEST = 2**20  # bytes of a choice
COUNTS = (
    "validation_n", "validation_robust_correct", "validation_clean_correct", "train_n",
    "train_robust_correct", "collapsed",
)  # fmt: skip


def declared(name: str) -> Grid | Drawn:
    """The arm or grid of a name; InvalidInput suggests the nearest."""
    every: dict[str, Grid | Drawn] = {**GRIDS, **ARMS}
    if name not in every:
        raise unknown_name("arm or grid of settings", name, every)
    return every[name]


def read(path: Path) -> list[Line]:
    """The lines of `<name>.csv`, as numbers where they are; none where there is no such file.

    A collapsed run has no counts. Raises InvalidInput where it is no list of that name's tries; it is
    left in place.
    """
    if not path.exists():
        return []
    what = declared(path.stem)
    columns = (*what.columns, "seed")
    text = read_whole(path, largest=_LARGEST).decode("utf-8", errors="replace")
    try:
        head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError):
        head, rows = [], []
    if tuple(head) != (*columns, *COUNTS):
        raise InvalidInput(
            f"{path}: expected the columns {', '.join((*columns, *COUNTS))}; it is left in place"
        )
    lines: dict[Setting, Line] = {}
    for place, row in enumerate(rows, start=2):
        line = {k: number(v) for k, v in zip(head, row, strict=False) if v != ""}
        key = tuple(line.get(column) for column in columns)
        reason = "a cell is missing" if len(row) != len(head) else _unlikely(line, what)
        reason = reason or ("a try stands there twice" if key in lines else "")
        if reason:
            raise InvalidInput(f"{path}, line {place}: {reason}; it is left in place")
        lines[key] = line
    return list(lines.values())


def _unlikely(line: Line, what: Grid | Drawn) -> str:
    """What cannot be in a line; empty where nothing is."""
    if missing := [key for key in (*what.columns, "seed", "collapsed") if key not in line]:
        return f"expected a value of {missing[0]}, got none"
    if isinstance(what, Drawn):
        drawn = {key: line[key] for key in what.columns}
        if wrong := {k: v for k, v in drawn.items() if not (_is_number(v) and 0 < v < math.inf)}:
            return f"expected positive numbers, got {wrong}"
    counts = {key: line[key] for key in (*COUNTS, "seed") if key in line}
    if wrong := {k: v for k, v in counts.items() if not isinstance(v, int) or v < 0}:
        return f"expected counts, got {wrong}"
    for part in ("validation", "train"):
        right, n = counts.get(f"{part}_robust_correct", 0), counts.get(f"{part}_n", 0)
        if right > n:
            return f"expected at most {n} {part} images right, got {right}"
    if not counts["collapsed"] and not counts.get("validation_n"):
        return "expected validation images of a run that did not collapse"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def means(name: str, lines: Sequence[Line]) -> dict[Setting, float]:
    """Setting -> mean validation robust accuracy over seeds; a collapse is 0."""
    rates = defaultdict(list)
    for line in lines:
        right, n = line.get("validation_robust_correct", 0), line.get("validation_n", 1)
        rates[tuple(line[column] for column in declared(name).columns)].append(right / n)
    return {key: sum(v) / len(v) for key, v in sorted(rates.items())}


def chosen(name: str, lines: Sequence[Line]) -> Setting:
    """The setting that is chosen of those tried: the values of the columns."""
    return declared(name).choose(means(name, lines))


def is_whole(name: str, lines: Sequence[Line]) -> bool:
    """Whether everything that is declared was tried."""
    columns = (*declared(name).columns, "seed")
    there = {tuple(line[column] for column in columns) for line in lines}
    return all((*setting, config.seed) in there for setting, config in declared(name).tried())


def settled(name: str, folder: Path) -> Changed:
    """What an arm's chosen setting changes of its preset; folder: that of the lists.

    Raises InvalidInput, with the command, until all that is declared was tried.
    """
    lines = read(folder / f"{name}.csv")
    if not is_whole(name, lines):
        raise InvalidInput(
            f"{name} is not chosen yet: {folder / name}.csv lacks tries; "
            f"python -m awp_train choose {name}"
        )
    return ARMS[name].texts(chosen(name, lines))


def expected_best(rates: Sequence[float]) -> tuple[float, ...]:
    """For k = 1 to n: the mean, over all subsets of k of n tries, of their best.

    The try above i others is the best of C(i, k - 1) of the C(n, k) subsets: exact, nothing is sampled.
    It says what fewer tries would have found, so that arms can be compared at equal effort.
    """
    ordered, n = sorted(rates), len(rates)
    return tuple(
        sum(math.comb(i, k - 1) * rate for i, rate in enumerate(ordered)) / math.comb(n, k)
        for k in range(1, n + 1)
    )


def summary(name: str, lines: Sequence[Line]) -> str:
    """The tried values with their means, the chosen one marked, and what is to be known of it."""
    what, rates = declared(name), means(name, lines)
    if not rates:
        return f"{name}: nothing is tried yet"
    pick = what.choose(rates)
    widths = [max(len(column), 7) for column in what.columns]
    head = "  ".join(f"{c:>{w}}" for c, w in zip(what.columns, widths, strict=True))
    rows = [name, f"{head}  validation robust (last epoch, mean over seeds)"]
    for key, rate in rates.items():
        mark = "  <- chosen" if key == pick else ""
        values = "  ".join(f"{v!s:>{w}}" for v, w in zip(key, widths, strict=True))
        rows.append(f"{values}  {rate:6.1%}{mark}")
    if isinstance(what, Drawn):
        best = ", ".join(
            f"{k}: {rate:.1%}" for k, rate in enumerate(expected_best(list(rates.values())), 1)
        )
        rows.append(f"the best of k tries, mean over all subsets: {best}")
    if edges := what.edges(pick):
        rows.append(f"{'; '.join(edges)}: widen the space (WIDENED in awp_train/spaces.py)")
    if not is_whole(name, lines):
        rows.append("not all that is declared was tried: the choice may change")
    return "\n".join(rows)
