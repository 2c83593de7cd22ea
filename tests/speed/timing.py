"""Timing sides of a comparison in alternation, and the ratio of what they took."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bench.schema import InvalidInput

Clock = Callable[[], tuple[float, float]]  # (wall seconds, CPU seconds), from any zero


@dataclass(frozen=True)
class Side:
    """One way to do the work of a row."""

    name: str
    run: Callable[[], Any]
    forward_passes: float  # images sent forward by one run, at most; a backward pass counts as two
    note: str = ""  # what is counted, and how it differs from the other sides
    warm_up: Callable[[], Any] | None = None  # outside the clock; None: one whole run
    version: str = ""  # of a peer's library
    # From an answer: (n,) bool, the images it broke as our judge sees them. None: no images to break.
    broken: Callable[[Any], np.ndarray] | None = None


@dataclass
class Timed:
    """What the repetitions of one side took, and what the last one answered."""

    wall: list[float] = field(default_factory=list)  # seconds
    cpu: list[float] = field(
        default_factory=list
    )  # seconds of all cores, finished children included
    answer: Any = None


class Ratio(NamedTuple):
    """How many times as long one side takes as another."""

    median: float  # of the one, divided by the median of the other
    low: float  # the smallest and the largest ratio within a repetition
    high: float


def clock() -> tuple[float, float]:
    """Wall and CPU seconds. The CPU seconds of a child process count once it has ended."""
    children = os.times()
    cpu = time.process_time() + children.children_user + children.children_system
    return time.perf_counter(), cpu


def alternate(
    sides: Sequence[Side],
    repetitions: int,
    *,
    clock: Clock = clock,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Timed]:
    """Times every side `repetitions` times in the order A B B A A B ..., after a warm-up of each.

    Neighbours in time share what else the machine does; turning the order around keeps a drift
    (a warming processor, a neighbour that comes) from favouring one side.
    """
    if repetitions < 1:
        raise InvalidInput(f"repetitions must be at least 1, got {repetitions}")
    for side in sides:
        report(f"{side.name}, warm-up")
        (side.warm_up or side.run)()
    timed = {side.name: Timed() for side in sides}
    for repetition in range(repetitions):
        for side in sides if repetition % 2 == 0 else reversed(sides):
            report(f"{side.name}, {repetition + 1} of {repetitions}")
            one = timed[side.name]
            wall, cpu = clock()
            one.answer = side.run()
            wall_after, cpu_after = clock()
            one.wall.append(wall_after - wall)
            one.cpu.append(cpu_after - cpu)
    return timed


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> Ratio | None:
    """Median over median, with the range over repetitions; None where the clock saw no time pass."""
    if len(longer) != len(shorter) or not longer:
        raise InvalidInput(
            f"a ratio needs as many seconds on both sides, got {len(longer)} and {len(shorter)}"
        )
    if min(shorter) <= 0:
        return None
    each = [a / b for a, b in zip(longer, shorter, strict=True)]
    return Ratio(statistics.median(longer) / statistics.median(shorter), min(each), max(each))
