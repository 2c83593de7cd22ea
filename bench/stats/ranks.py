"""Rank ranges: which places of a ranking the paired tests leave open for each row.

N rows over the same n images. A range is [1 + rows significantly better, N - rows significantly worse],
by exact McNemar tests, Holm-corrected over all pairs that are compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.one_read import read_whole
from bench.records.store import pretty_json, write_atomic

LEVEL = 0.05  # chance that any pair of a group is wrongly called separated
ALL_PAIRS = 300  # rows up to which every pair is compared
NEAREST = 50  # rows compared on either side in a larger group
_VERSION = 1  # of what a kept file means


@dataclass(frozen=True)
class Ranks:
    """What the tests say of a ranking of N rows."""

    ranges: tuple[tuple[int, int], ...]  # of each row: the best and the worst place left open
    pairs: int  # compared
    separated: int  # of those
    neighbours_separated: int  # of the N - 1 pairs of neighbouring rows


def range_text(places: tuple[int, int] | None) -> str:
    """`1-3`: the places that the tests leave open; empty where there is no rank."""
    if places is None:
        return ""
    best, worst = places
    return f"{best}-{worst}" if best < worst else str(best)


def rank_ranges(standing: np.ndarray, *, level: float = LEVEL) -> Ranks:
    """The ranges of rows in ranking order; standing (N, n) bool, most images standing first.

    Above 300 rows a row is compared with its 50 nearest on either side alone; a pair that is not
    compared is not separated.
    """
    first, second = compared_pairs(len(standing))
    only_first, only_second = discordant(standing, first, second)
    p_values, ways = mcnemar_p_values(only_first, only_second), np.sign(only_first - only_second)
    return ranges_left_open(len(standing), first, second, p_values, ways, level=level)


def compared_pairs(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (P,) and (P,) of the pairs of rows that are compared: all, or the nearest of many."""
    first, second = np.triu_indices(rows, k=1)
    if rows > ALL_PAIRS:
        near = second - first <= NEAREST
        first, second = first[near], second[near]
    return first, second


def ranges_left_open(
    rows: int,
    first: np.ndarray,
    second: np.ndarray,
    p_values: np.ndarray,
    ways: np.ndarray,
    *,
    level: float = LEVEL,
) -> Ranks:
    """The ranges after Holm's procedure over pairs (P,); ways (P,): 1: the first is better, -1, 0."""
    apart = holm(p_values, level=level)
    first_better, second_better = apart & (ways > 0), apart & (ways < 0)
    better = np.bincount(second[first_better], minlength=rows)  # rows better than each
    better += np.bincount(first[second_better], minlength=rows)
    worse = np.bincount(first[first_better], minlength=rows)
    worse += np.bincount(second[second_better], minlength=rows)
    return Ranks(
        ranges=tuple(zip((1 + better).tolist(), (rows - worse).tolist(), strict=True)),
        pairs=len(first),
        separated=int(apart.sum()),
        neighbours_separated=int((apart & (second - first == 1)).sum()),
    )


def discordant(
    standing: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For pairs of rows (P,): images on which only the first stands, and only the second.

    standing (N, n) bool. One matrix product counts all pairs; float32 counts exactly up to 2 ** 24.
    """
    bits = np.asarray(standing, dtype=np.float32)
    assert bits.shape[1] < 2**24, "more images than float32 counts exactly"
    both = (bits @ bits.T)[first, second].astype(np.int64)
    counts = np.asarray(standing, dtype=bool).sum(axis=1)
    return counts[first] - both, counts[second] - both


def mcnemar_p_values(only_a: np.ndarray, only_b: np.ndarray) -> np.ndarray:
    """`intervals.mcnemar_exact` of many pairs of discordant counts (P,), in floating point."""
    from scipy.special import bdtr  # loading scipy takes half a second: not before it is needed

    fewer, discordant_images = np.minimum(only_a, only_b), only_a + only_b
    p_values: np.ndarray = np.minimum(1.0, 2 * bdtr(fewer, discordant_images, 0.5))
    return p_values


def holm(p_values: np.ndarray, *, level: float = LEVEL) -> np.ndarray:
    """Which of the hypotheses (P,) are rejected at a family-wise level (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    fails = p_values[order] > level / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), dtype=bool)
    rejected[order[: int(np.argmax(fails)) if fails.any() else len(fails)]] = True
    return rejected


# ---------------------------------------------------------------- kept on disk


def kept_ranges(standing: np.ndarray, folder: Path | None, *, level: float = LEVEL) -> Ranks:
    """As rank_ranges; read from the folder where the same bits were ranked before, else kept there.

    A damaged file is computed again; a folder that cannot be written costs time alone.
    """
    if folder is None:
        return rank_ranges(standing, level=level)
    key = hashlib.sha256(f"{_VERSION} {level} {np.shape(standing)} ".encode())
    key.update(np.packbits(standing).tobytes())
    path = folder / f"{key.hexdigest()[:32]}.json"
    kept = _read(path, len(standing))
    if kept is None:
        kept = rank_ranges(standing, level=level)
        with contextlib.suppress(OSError):
            write_atomic(path, pretty_json(asdict(kept)))
    return kept


def _read(path: Path, rows: int) -> Ranks | None:
    try:
        value: dict[str, Any] = json.loads(read_whole(path, largest=2**24))
        ranges = tuple((int(low), int(high)) for low, high in value.pop("ranges"))
        counts = {name: int(count) for name, count in value.items()}
        kept = Ranks(ranges=ranges, **counts)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    sound = len(ranges) == rows and all(1 <= low <= high <= rows for low, high in ranges)
    return kept if sound else None
