"""The runs behind an agreement study: each attack by both engines, seed by seed, kept as they finish.

Each attack runs alone on all clean-correct images, and the whole AutoAttack column beside them. What
is kept is one standing bit an image, engine, attack and seed. N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from bench.attacks.problem import Model
from bench.catalogue import unknown_name
from bench.datasets import Examples
from bench.measure import evaluate
from bench.protocols import COLUMNS
from bench.records.store import pretty_json, write_atomic
from bench.schema import (
    Column,
    EvaluationRecord,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    Name,
    Protocol,
    Sha256,
    Text,
    ThreatModel,
)
from bench.schema.frozen import Frozen, content_hash
from bench.schema.packing import pack_bits

ENGINES: tuple[evaluate.Engine, ...] = ("ours", "reference")


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
    try:
        return Study.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not a study ({error}); left in place") from None


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
    engine: evaluate.Engine
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
        if (
            column.name,
            column.column_id,
            engine,
            evaluate.engine_version(engine, batch),
            seed,
        )
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
    report: evaluate.Report | None = None,
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
    return _cell(record, column)


def _cell(record: EvaluationRecord, column: Column) -> Cell:
    return Cell(
        column=column.name,
        column_id=column.column_id,
        engine=record.engine,
        engine_version=record.engine_version,
        seed=record.seed,
        clean=pack_bits(record.clean_correct),
        standing=pack_bits(record.standing(column.name)),
    )
