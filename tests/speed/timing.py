"""One row of the benchmark: its sides are timed in alternation, then what they found is judged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.schema import BenchError
from tests.speed.report import Comparison, SideResult

# Exceptions, besides InvalidInput for a wrong call:
#   BenchError
#   └── Unavailable   a network or a library is not here; the rows that need it say so


class Unavailable(BenchError, RuntimeError):
    """What a row needs is not here; the text says what, and where it would come from."""


Clock = Callable[[], tuple[float, float]]  # (wall seconds, CPU seconds), from any zero
Say = Callable[[str], object]


@dataclass(frozen=True)
class Settings:
    """What is the same for all rows of a run."""

    networks: Path  # the folder with external/ and data/
    threads: int  # of either side: torch threads, or workers of one thread each
    quick: bool = False  # reduced sizes, to see that every row works


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
    # From an answer: images its attacks sent forward, and backward. None: not counted.
    passes: Callable[[Any], int] | None = None


@dataclass(frozen=True)
class Contest:
    """A row made ready: everything loaded, nothing timed."""

    model: nn.Module  # one forward pass of it on x (n, C, H, W) is the unit of the estimate
    x: Tensor
    sides: Sequence[Side]
    comparisons: Sequence[Comparison]
    absent: Sequence[str] = ()  # sides that cannot be run, with the reason
    facts: Callable[[], dict[str, float | str]] = dict  # checked outside the clock


@dataclass(frozen=True)
class Row:
    """A named line of the benchmark. `prepare` raises Unavailable where something is not here."""

    what: str
    repetitions: int
    prepare: Callable[[Settings], Contest]


def clock() -> tuple[float, float]:
    """Wall and CPU seconds. The CPU seconds of a child process count once it has ended."""
    children = os.times()
    cpu = time.process_time() + children.children_user + children.children_system
    return time.perf_counter(), cpu


def alternate(
    sides: Sequence[Side], repetitions: int, *, clock: Clock = clock, say: Say = lambda text: None
) -> tuple[SideResult, ...]:
    """Times every side `repetitions` times in the order A B B A A B ..., after a warm-up of each.

    Neighbours in time share what else the machine does; turning the order around keeps a drift
    (a warming processor, a neighbour that comes) from favouring one side. The last answers are judged.
    """
    for side in sides:
        say(f"{side.name}, warm-up")
        (side.warm_up or side.run)()
    answers: dict[str, Any] = {}
    seconds: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    for repetition in range(repetitions):
        for side in sides if repetition % 2 == 0 else reversed(sides):
            say(f"{side.name}, {repetition + 1} of {repetitions}")
            before = clock()
            answers[side.name] = side.run()
            wall, cpu = (b - a for a, b in zip(before, clock(), strict=True))
            seconds[side.name].append((round(wall, 6), round(cpu, 6)))
    say("judging")
    return tuple(
        SideResult(
            name=side.name, note=side.note, version=side.version,
            wall=tuple(wall for wall, _ in seconds[side.name]),
            cpu=tuple(cpu for _, cpu in seconds[side.name]),
            broken=tuple(side.broken(answers[side.name]).nonzero()[0].tolist())
            if side.broken else None,
            passes=side.passes(answers[side.name]) if side.passes else None,
        )
        for side in sides
    )  # fmt: skip


def estimate_seconds(contest: Contest, repetitions: int) -> float:
    """Seconds at most, from the fastest of a few passes: as if every image stayed robust."""
    batch, seconds = contest.x[:64], []
    with torch.no_grad():
        for _ in range(4):
            started = time.perf_counter()
            contest.model(batch)
            seconds.append(time.perf_counter() - started)
    passes = sum(s.forward_passes * (repetitions + (s.warm_up is None)) for s in contest.sides)
    return passes * min(seconds) / len(batch)
