"""python -m tests.speed.scaling PARTS: how long a measurement would take with 1 to 100 workers.

PARTS is a folder of finished parts, which `evaluate --shard 1/1` leaves; the seconds of each unit, a
column on a shard, are read from them. With --shards the measured ones are repeated to as many shards
of each column as a larger test set has. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.measure.parts import from_bytes, unsealed
from bench.measure.shares import dealt
from bench.schema import InvalidInput

WORKERS = (1, 2, 4, 8, 16, 24, 32, 40, 64, 80, 100)
HELPS = 0.05  # by so much of the time at least, a quarter more workers are worth having


def seconds_of(folder: Path) -> dict[str, list[float]]:
    """Column id -> seconds of each of its shards, from the parts in a folder. Raises InvalidInput."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path in sorted(folder.glob("*-*-*.npz")):
        images, column, _ = path.stem.split("-")
        found[column][images] += from_bytes(unsealed(path)).numbers["seconds"]
    if not found:
        raise InvalidInput(f"no parts in {folder}; make them: bench evaluate … --shard 1/1")
    return {column: [*by_shard.values()] for column, by_shard in found.items()}


def repeated(measured: Mapping[str, Sequence[float]], shards: int) -> dict[str, list[float]]:
    """Each column's seconds, over and over, until there are so many shards."""
    return {c: [each[k % len(each)] for k in range(shards)] for c, each in measured.items()}


def longest_first(units: Sequence[float], workers: int) -> float:
    """Seconds until all units are done, where a queue hands out the longest first."""
    return in_order(sorted(units, reverse=True), workers)


def in_order(units: Sequence[float], workers: int) -> float:
    """The same where it hands them out as they come."""
    free = [0.0] * workers
    for unit in units:
        heapq.heappush(free, heapq.heappop(free) + unit)
    return max(free)


def by_share(columns: Mapping[str, Sequence[float]], workers: int) -> float:
    """The same where each worker has its share from the start, dealt by what columns cost."""
    mean = {column: float(np.mean(each)) for column, each in columns.items()}
    units = [(mean[c], each) for c, of_it in columns.items() for each in of_it]
    shares = dealt([cost for cost, _ in units], workers)
    return max(sum(units[k][1] for k in mine) for mine in shares)


def table(columns: Mapping[str, Sequence[float]], start: float) -> str:
    """Markdown: wall time and efficiency by workers, and where more of them stop helping."""
    units = [each for of_it in columns.values() for each in of_it]
    total, longest = sum(units), max(units)
    ways: dict[str, Callable[[int], float]] = {
        "longest first": lambda n: longest_first(units, n),
        "in order": lambda n: in_order(units, n),
        "`--shard i/N`": lambda n: by_share(columns, n),
    }
    heading = [f"{way} | efficiency" for way in ways]
    lines = [f"| workers | {' | '.join(heading)} |", "|" + " ---: |" * (1 + 2 * len(ways))]
    for n in WORKERS:
        walls = [way(n) + start for way in ways.values()]
        cells = [f"{wall:,.0f} s | {(total + start) / (n * wall):.0%}" for wall in walls]
        lines.append(f"| {n} | {' | '.join(cells)} |")
    said = [
        f"{len(units)} units of {min(units):.1f} to {longest:.1f} s, {total:,.0f} s in all; every "
        f"worker needs {start:.1f} s to start."
    ]
    for name, way in ways.items():
        said.append(f"{name}: more than {_enough(way, start)} workers save less than {HELPS:.0%}.")
    said.append(f"No number of workers is faster than the longest unit: {longest + start:.0f} s.")
    return "\n".join([*lines, "", *said])


def _enough(way: Callable[[int], float], start: float) -> int:
    """The least number of workers beyond which a quarter more saves next to nothing."""
    walls = [way(n) + start for n in range(1, max(WORKERS) * 2)]
    for n in range(1, max(WORKERS) + 1):
        later = min(walls[n - 1 : n + max(1, n // 4)])
        if (
            later > (1 - HELPS) * walls[n - 1]
            and min(walls[n - 1 :]) > (1 - 2 * HELPS) * walls[n - 1]
        ):
            return n
    return max(WORKERS)


def main() -> None:
    """Prints the table of each folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--shards", type=int, help="of each column; default: as many as measured")
    parser.add_argument(
        "--start", type=float, default=0.0, help="seconds that a worker needs first"
    )
    a = parser.parse_args()
    for folder in a.parts:
        measured = seconds_of(folder)
        columns = measured if a.shards is None else repeated(measured, a.shards)
        print(table(columns, a.start), end="\n\n")


if __name__ == "__main__":
    main()
