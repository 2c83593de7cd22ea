"""Shares of a measurement: its units dealt to workers that share no memory, and what is still missing.

A unit is a column on a shard: its attacks run one after another, and no other unit is asked for it.
What every column left is needed for audits alone, which whoever merges makes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.as_found import undisturbed
from bench.attacks import attack_cost
from bench.judge import guarded
from bench.measure import processes
from bench.measure.parts import Part, from_bytes, parts_folder, unsealed
from bench.measure.processes import Report
from bench.measure.question import Question
from bench.measure.shards import Shards, deal
from bench.measure.share import Share
from bench.records.lock import locked
from bench.records.npz import UNREADABLE
from bench.reliability.probes import doubts_of
from bench.schema import Column, MeasurementFailed, OutOfTime

_DOUBTS = 0.02  # of a measurement is what the probes cost


@dataclass(frozen=True)
class Unit:
    """A column on a shard: attacks that follow one another."""

    column: Column
    shard: np.ndarray  # places of its images

    @property
    def cost(self) -> float:
        """Passes, were no image broken."""
        return len(self.shard) * sum(map(attack_cost, self.column.attacks))


@dataclass(frozen=True)
class Made:
    """How many parts a share has, how many it made now, and where they lie."""

    parts: int
    new: int
    folder: Path


def units(shards: Shards) -> list[Unit]:
    """Every unit of a measurement, in the order of its columns and shards."""
    layout = shards.layout()
    return [Unit(column, shard) for column in shards.request.protocol.columns for shard in layout]


def dealt(costs: Sequence[float], of: int) -> list[list[int]]:
    """Which units, by place, each of so many workers makes: dealt like cards, the dearest first."""
    order = np.array(costs, dtype=np.float64)
    return [sorted(map(int, mine), key=lambda k: (-order[k], k)) for mine in deal(order, of)]


def make(
    question: Question,
    share: Share,
    work: Path,
    *,
    workers: int,
    until: float,
    report: Report,
) -> Made:
    """Leaves every part of a share in the folder of the measurement below `work`.

    What is finished there is not made again. Raises MeasurementFailed, OutOfTime, and InvalidInput
    where another process works on the same share or another model's parts lie there.
    """
    card, name = question.card, f"share {share} of the evaluation of {question.card.name}"
    if question.failure is not None:
        raise MeasurementFailed(f"{card.name}: {question.failure}")
    folder = parts_folder(work, question.request.id, card)
    lock = folder.with_name(f"{folder.name}.{share.number}-of-{share.of}.lock")
    with locked(lock, name), undisturbed(question.model):
        shards = question.shards(folder, until, shared=True)
        return _made(shards, share, question.at_once(workers), report)


def _made(shards: Shards, share: Share, workers: int, report: Report) -> Made:
    shards.own_logits()
    correct = shards.clean() == shards.y.numpy()
    mine, look = _of(share, shards)
    paths = [path for unit in mine for path in _paths(shards, unit)]
    before, shares = sum(map(os.path.lexists, paths)), [0.0] * len(mine)

    def one(number: int, told: Callable[[float, Any], None]) -> None:
        if number == len(mine):
            doubts_of(shards)
            return
        unit = mine[number]
        shards.run(unit.shard, correct[unit.shard], told, [unit.column])

    def observe(number: int, done: float, news: object) -> None:
        if number < len(mine):
            shares[number] = done
            whole = sum(each >= 1 for each in shares)
            report(sum(shares) / len(shares), f"share {share}: {whole} of {len(mine)} units")

    guarded(lambda: shards.prepared)  # once, before processes are forked
    try:
        processes.run_here(one, len(mine) + look, workers, observe)
    except OutOfTime as late:
        there = sum(map(os.path.lexists, paths))
        raise OutOfTime(
            f"{late}: {there} of the {len(paths)} parts of share {share} are finished and kept; the "
            "same command goes on from here"
        ) from None
    return Made(len(paths), len(paths) - before, shards.folder)


def _of(share: Share, shards: Shards) -> tuple[list[Unit], bool]:
    """The units of a share, and whether it looks at what is to be doubted too."""
    every = units(shards)
    costs = [unit.cost for unit in every]
    mine = dealt([*costs, _DOUBTS * sum(costs)], share.of)[share.number - 1]
    return [every[k] for k in mine if k < len(every)], len(every) in mine


def _paths(shards: Shards, unit: Unit) -> list[Path]:
    return [shards.path(unit.shard, unit.column, k) for k in range(len(unit.column.attacks))]


# ---------------------------------------------------------------- before they are merged


@dataclass(frozen=True)
class Missing:
    """What a folder lacks of a measurement: a unit, the path of its first missing part, and why."""

    unit: int  # its place among all
    path: Path
    why: str  # "missing", or how it is damaged


def missing(shards: Shards) -> list[Missing]:
    """Every unit that is not whole; parts are checked against the bits that stand before them."""
    correct = shards.clean() == shards.y.numpy()
    found = []
    for number, unit in enumerate(units(shards)):
        standing = correct[unit.shard]
        for path in _paths(shards, unit):
            part = _part(path, standing)
            if not isinstance(part, Part):
                found.append(Missing(number, path, part))
                break
            standing = part.standing
    return found


def _part(path: Path, before: np.ndarray) -> Part | str:
    """What lies at a path; else why it is no part of those standing before it."""
    if not os.path.lexists(path):
        return "missing"
    try:
        return from_bytes(unsealed(path), before)
    except UNREADABLE as error:
        return f"damaged: {str(error).partition(chr(10))[0][:200]}"


def strays(shards: Shards) -> list[Path]:
    """Parts in the folder that are of no unit of this measurement: of other shards of its images."""
    known = {path for unit in units(shards) for path in _paths(shards, unit)}
    columns = {unit.column.column_id for unit in units(shards)}
    return sorted(
        path
        for path in shards.folder.glob("*-*-*.npz")
        if path not in known and path.name.split("-")[1] in columns
    )


def shares_of(lacking: Sequence[Missing], shards: Shards, of: int) -> list[Share]:
    """Which of so many shares make what is missing."""
    wanted = {each.unit for each in lacking}
    costs = [unit.cost for unit in units(shards)]
    places = dealt([*costs, _DOUBTS * sum(costs)], of)
    return [Share(k + 1, of) for k, mine in enumerate(places) if wanted & set(mine)]
