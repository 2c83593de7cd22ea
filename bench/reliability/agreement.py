"""Do our attacks and the published ones agree? Each attack by both engines, seed by seed.

Each attack runs alone on all clean-correct images, and the whole AutoAttack column beside them. What is
kept is one standing bit an image, engine, attack and seed; means, equivalence and disagreement are
derived from them. S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bench.attacks.problem import Model
from bench.catalogue import unknown_name
from bench.datasets import Examples
from bench.measure import evaluate
from bench.measure.processes import Report
from bench.measure.question import engine_version
from bench.measure.request import Engine
from bench.notation import aligned
from bench.protocols import COLUMNS
from bench.records import json_files
from bench.records.store import pretty_json, write_atomic
from bench.schema import (
    Column,
    MeasurementFailed,
    ModelCard,
    Name,
    Protocol,
    Sha256,
    Text,
    ThreatModel,
)
from bench.schema.frozen import Frozen, content_hash
from bench.schema.packing import pack_bits, unpack_bits
from bench.stats.intervals import Equivalence, disagreements, welch_tost

ENGINES: tuple[Engine, ...] = ("ours", "reference")
MARGIN = 0.005  # of standing accuracy: half a point
# Over the first five seeds ours may leave a tenth of a point more. With fewer, standing counts are
# often the same by chance, and a spread of zero would pass for certainty: no verdict.
SEEDS, SLACK = 5, 0.001


class Cell(Frozen):
    """One attack or column by one engine under one seed."""

    column: Name
    column_id: str
    engine: Literal["ours", "reference"]
    engine_version: Text
    seed: int = Field(ge=0)
    clean: str  # bits (n,): clean-correct
    standing: str  # bits (n,): clean-correct and unbroken


class Study(Frozen):
    """The cells finished so far of one network on one set of images."""

    schema_version: Literal[1] = 1
    name: Name  # of the checkpoint
    weights_sha256: Sha256
    dataset: Name
    split: Text
    n: int = Field(ge=1)
    examples_sha256: Sha256
    threat: ThreatModel
    columns: dict[str, Column] = Field(default_factory=dict)  # by column id: every parameter
    cells: tuple[Cell, ...] = ()


def begin(card: ModelCard, data: Examples, threat: ThreatModel) -> Study:
    """A study without any cell."""
    return Study(
        name=card.name, weights_sha256=card.weights_sha256, dataset=data.name, split=data.split,
        n=len(data), examples_sha256=data.sha256, threat=threat,
    )  # fmt: skip


def path_of(study: Study, out: Path) -> Path:
    """`<out>/<dataset>/<name>.<threat>.<8 hex digits of network, images and threat>.json`."""
    identity = content_hash([study.weights_sha256, study.examples_sha256, str(study.threat)])[:8]
    return out / study.dataset / f"{study.name}.{study.threat.folder}.{identity}.json"


def read(path: Path) -> Study:
    """Raises InvalidInput naming a file that cannot be read; it is left in place."""
    return json_files.read(path, Study.model_validate_json, "study")


def keep(path: Path, study: Study, column: Column, cell: Cell) -> Study:
    """Adds a finished cell to the file, which another process may have added to meanwhile."""
    now = read(path) if path.exists() else study
    cells = (*(c for c in now.cells if _key(c) != _key(cell)), cell)
    columns = now.columns | {column.column_id: column}
    now = now.model_copy(update={"columns": columns, "cells": cells})
    write_atomic(path, pretty_json(now))
    return now


def _key(cell: Cell) -> tuple[str, str, str, str, int]:
    return cell.column, cell.column_id, cell.engine, cell.engine_version, cell.seed


# ---------------------------------------------------------------- what is run


def compared_columns(
    threat: ThreatModel, classes: int, names: Sequence[str] = ()
) -> tuple[Column, ...]:
    """Each attack of AutoAttack as a column of its own, and `autoattack`; all, or those named.

    Raises InvalidInput on another name.
    """
    whole = COLUMNS["autoattack"](threat.norm, classes)
    every = {spec.name: Column(name=spec.name, attacks=(spec,)) for spec in whole.attacks}
    every[whole.name] = whole
    for name in names:
        if name not in every:
            raise unknown_name("column", name, every)
    return tuple(every[name] for name in dict.fromkeys(names or every))


@dataclass(frozen=True)
class Question:
    """What a cell answers."""

    column: Column
    engine: Engine
    seed: int


def unanswered(
    study: Study, columns: Sequence[Column], *, seeds: int, batch: int
) -> list[Question]:
    """What is still to be run, seed after seed, so that an interrupted study compares what it has."""
    finished = {_key(cell) for cell in study.cells}
    return [
        Question(column, engine, seed)
        for seed in range(seeds)
        for column in columns
        for engine in ENGINES
        if (column.name, column.column_id, engine, engine_version(engine, batch), seed)
        not in finished
    ]


def measure_cell(
    question: Question,
    model: Model,
    data: Examples,
    card: ModelCard,
    *,
    threat: ThreatModel,
    batch: int,
    work: Path | None = None,
    report: Report | None = None,
) -> Cell:
    """Runs one column by one engine under one seed on every clean-correct image.

    Raises MeasurementFailed: a failed attack is no answer, and never a robust image.
    """
    column, engine, seed = question.column, question.engine, question.seed
    record = evaluate.measure(
        model, data.images, data.labels, threat=threat,
        protocol=Protocol(name="agreement", version=1, columns=(column,)), seed=seed, card=card,
        dataset=data.name, split=data.split, engine=engine, batch=batch, work=work, report=report,
    ).record  # fmt: skip
    if record.failure is not None:
        raise MeasurementFailed(f"{column.name}, {engine}, seed {seed}: {record.failure}")
    return Cell(
        column=column.name,
        column_id=column.column_id,
        engine=record.engine,
        engine_version=record.engine_version,
        seed=record.seed,
        clean=pack_bits(record.clean_correct),
        standing=pack_bits(record.standing(column.name)),
    )


# ---------------------------------------------------------------- what the runs say


@dataclass(frozen=True)
class Spread:
    """Shares in [0, 1] over seeds or over pairs of runs."""

    count: int
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """In percent."""
        return f"{100 * self.mean:.2f} [{100 * self.low:.2f}, {100 * self.high:.2f}]"


@dataclass(frozen=True)
class Truth:
    """Ours leaves at most a tenth of a point more standing, and never less than is proven."""

    seeds: int  # the first ones; the rule wants five
    excess: float  # mean of ours minus mean of the reference over them
    proven: float | None  # lower bound of the true robust accuracy, where one is known
    lowest: float  # of ours over all seeds

    @property
    def below_proven(self) -> bool:
        """Wrong beyond doubt: the ball or the box was left, or a clean error counted twice."""
        return self.proven is not None and self.lowest < self.proven - 1e-9

    @property
    def holds(self) -> bool | None:
        """None while fewer than five seeds have run and nothing contradicts it."""
        if self.below_proven:
            return False
        return None if self.seeds < SEEDS else self.excess <= SLACK + 1e-9


@dataclass(frozen=True)
class Agreement:
    """One attack, or the column, by both engines."""

    column: str
    n: int
    seeds: tuple[int, ...]  # finished by both engines
    ours: Spread  # standing accuracy: mean, smallest, largest
    reference: Spread
    equivalence: Equivalence  # of the two means over seeds, unpaired (Welch)
    between: Spread  # disagreement, ours against reference: mean, 5 % and 95 % quantiles
    within_reference: Spread | None  # between two seeds of the reference; None below two seeds
    within_ours: Spread | None
    truth: Truth

    @property
    def equivalent(self) -> bool | None:
        """Within half a point by two one-sided tests; None below five seeds."""
        return None if len(self.seeds) < SEEDS else self.equivalence.equivalent

    @property
    def disagrees_no_more(self) -> bool | None:
        """Whether the engines differ, on average, no more than two seeds of the reference do."""
        within = self.within_reference
        return None if within is None else self.between.mean <= within.mean + 1e-12


def agreements(
    study: Study, columns: Sequence[Column], *, seeds: int, batch: int, proven: float | None = None
) -> list[Agreement]:
    """What the finished cells of this version say; columns without a seed of both are left out."""
    standing = {_key(cell): cell.standing for cell in study.cells}
    versions = {engine: engine_version(engine, batch) for engine in ENGINES}
    found = []
    for column in columns:
        kept = [
            [
                standing.get((column.name, column.column_id, engine, version, seed))
                for engine, version in versions.items()
            ]
            for seed in range(seeds)
        ]
        shared = [seed for seed, both in enumerate(kept) if None not in both]
        if shared:
            bits = [[unpack_bits(b, study.n) for b in kept[s] if b is not None] for s in shared]
            ours, reference = np.array(bits).swapaxes(0, 1)
            found.append(_agreement(column.name, shared, ours, reference, proven=proven))
    return found


def _agreement(
    name: str,
    seeds: Sequence[int],
    ours: np.ndarray,  # (S, N) bool
    reference: np.ndarray,
    *,
    proven: float | None,
) -> Agreement:
    a, b = ours.mean(axis=1), reference.mean(axis=1)
    first = min(SEEDS, len(seeds))
    return Agreement(
        column=name,
        n=ours.shape[1],
        seeds=tuple(seeds),
        ours=_spread(a, 0, 1),
        reference=_spread(b, 0, 1),
        equivalence=welch_tost(a.tolist(), b.tolist(), margin=MARGIN),
        between=_spread(disagreements(ours, reference)),
        within_reference=_spread(disagreements(reference)) if len(b) > 1 else None,
        within_ours=_spread(disagreements(ours)) if len(a) > 1 else None,
        truth=Truth(first, float(a[:first].mean() - b[:first].mean()), proven, float(a.min())),
    )


def _spread(values: np.ndarray, low: float = 0.05, high: float = 0.95) -> Spread:
    """The mean, between two quantiles."""
    ends = np.quantile(values, [low, high])
    return Spread(len(values), float(values.mean()), *map(float, ends))


# ---------------------------------------------------------------- the answer


def as_json(study: Study, found: Sequence[Agreement]) -> dict[str, Any]:
    """For programs: shares in [0, 1]; an interval that does not exist has null ends."""
    rows = []
    for each in found:
        row = asdict(each) | {
            "equivalent": each.equivalent, "disagrees_no_more": each.disagrees_no_more,
        }  # fmt: skip
        row["truth"]["holds"] = each.truth.holds
        ends = row["equivalence"]["difference"]
        row["equivalence"]["difference"] = {
            k: float(v) if np.isfinite(v) else None for k, v in ends.items()
        }
        rows.append(row)
    about = study.model_dump(mode="json", exclude={"cells", "columns"})
    return about | {"agreements": rows}


def summary(study: Study, found: Sequence[Agreement]) -> str:
    """A table that can be pasted, with the rules in words under it."""
    head = ("attack", "n", "S", "ours % [min, max]", "reference % [min, max]",
            "difference, points [90 %]", "within 0.5", "disagree % [5 %, 95 %]",
            "ref. seeds % [5 %, 95 %]", "no more", "truth")  # fmt: skip
    proven = {each.truth.proven for each in found if each.truth.proven is not None}
    rows = [head, *map(_row, found)]
    versions = sorted({f"{c.engine}: {c.engine_version}" for c in study.cells})
    return "\n".join(
        [
            f"{study.name}, {study.dataset} {study.split} {study.threat}; {'; '.join(versions)}",
            *aligned(rows),
            "within 0.5: two one-sided Welch tests over seeds (unpaired), margin 0.5 points, 5 %; "
            "no more: mean disagreement of all pairs ours x reference at most that of all pairs of "
            "reference seeds;",
            f"truth: mean over {SEEDS} seeds at most the reference's + 0.1 point"
            + (f", never below the proven {100 * min(proven):g} %" if proven else ""),
        ]
    )


def _row(each: Agreement) -> tuple[str, ...]:
    d, within = each.equivalence.difference, each.within_reference
    return (
        each.column,
        str(each.n),
        str(len(each.seeds)),
        str(each.ours),
        str(each.reference),
        f"{100 * d.estimate:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]".replace("inf", "∞"),
        _word(each.equivalent),
        str(each.between),
        str(within or "needs 2 seeds"),
        _word(each.disagrees_no_more),
        "BELOW PROVEN" if each.truth.below_proven else _word(each.truth.holds),
    )


def _word(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: "too few seeds"}[answer]
