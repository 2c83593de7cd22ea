"""How much higher the loss is beside w than at w, as a file: flatness as numbers. Larger is sharper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from bench.landscape.record import Images, Part
from bench.records import json_files
from bench.records.store import pretty_json, write_atomic
from bench.schema import InvalidInput, Name, Sha256, Text, ThreatModel
from bench.schema.frozen import Frozen, content_hash
from bench.stats.intervals import Interval, seed_interval

Measure = Literal["average", "worst", "sharpness", "adversarial-sharpness"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Heights = dict[Name, Finite]  # loss -> its mean over a batch


class Settings(Frozen):
    """How a measure is taken."""

    radius: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # relative to the weights
    steps: int = Field(ge=1)  # of the ascent over weights; of average: of the attack alone
    draws: int = Field(ge=1)  # random directions a batch; of ascents: starts, the highest counts
    attack_steps: int = Field(ge=1)
    restarts: int = Field(ge=1)  # of the attack
    batch: int = Field(ge=1)  # images that share a perturbation
    seed: int = Field(ge=0, default=0)


# As published: Stutz et al. 2021, arXiv 2104.04448; Andriushchenko et al. 2023, arXiv 2302.07011. The
# adversarial form of the latter is our own.
PUBLISHED: Mapping[str, Settings] = {
    "average": Settings(
        radius=0.5, steps=20, draws=10, attack_steps=20, restarts=10, batch=128
    ),
    "worst": Settings(radius=0.003, steps=20, draws=10, attack_steps=20, restarts=10, batch=128),
    "sharpness": Settings(radius=0.001, steps=20, draws=1, attack_steps=20, restarts=1, batch=128),
    "adversarial-sharpness": Settings(
        radius=0.001, steps=20, draws=1, attack_steps=20, restarts=1, batch=128
    ),
}  # fmt: skip
MEASURES: tuple[Measure, ...] = get_args(Measure)


def names(text: str | None) -> tuple[Measure, ...]:
    """The measures of a text such as `average,worst`; all where none is given. Raises InvalidInput."""
    asked = set(text.split(",")) if text else set(MEASURES)
    if unknown := sorted(asked.difference(MEASURES)):
        raise InvalidInput(f"no measure named {unknown[0]!r}; there are {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in asked)


class Rise(Frozen):
    """The losses of a batch at w, and at one place beside it."""

    batch: int = Field(ge=0)
    n: int = Field(ge=1)  # images
    at_w: Heights
    beside: Heights

    @model_validator(mode="after")
    def _consistent(self) -> Rise:
        if not self.at_w or self.at_w.keys() != self.beside.keys():
            raise ValueError("expected the same losses at w and beside it")
        return self


def rise(found: Sequence[Rise], loss: str) -> Interval:
    """The mean rise of a loss with Student's t interval, 95 %: over batches, of one over its draws.

    Draws of one batch share their images, so that many draws are not many batches. One of both has no
    interval.
    """
    values: dict[int, list[float]] = {}
    for each in found:
        values.setdefault(each.batch, []).append(each.beside[loss] - each.at_w[loss])
    if len(values) > 1:
        return seed_interval([float(np.mean(v)) for v in values.values()])
    return seed_interval(next(iter(values.values())))


class Flatness(Frozen):
    """One measure of one network on one part of its images."""

    schema_version: Literal[1] = 1
    name: Name  # of the checkpoint
    weights_sha256: Sha256
    dataset: Name
    part: Part
    images: Images
    threat: ThreatModel
    measure: Measure
    settings: Settings
    version: Text  # of the engine
    rises: tuple[Rise, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Flatness:
        if any(r.n > self.images.n for r in self.rises):
            raise ValueError("a batch is larger than its images")
        if len({frozenset(r.at_w) for r in self.rises}) > 1:
            raise ValueError("expected the same losses of every batch")
        return self

    @property
    def id(self) -> str:
        """16 hex digits over the question."""
        return content_hash(self.model_dump(mode="json", exclude={"rises"}))[:16]

    @property
    def cheaper(self) -> str:
        """In which settings this asks for less than was published; empty where in none."""
        paper = PUBLISHED[self.measure]
        less = [
            f"{name} {getattr(self.settings, name)} for {getattr(paper, name)}"
            for name in ("draws", "steps", "attack_steps", "restarts")
            if getattr(self.settings, name) < getattr(paper, name)
        ]
        return ", ".join(less)

    def rise(self, loss: str) -> Interval:
        """Of one loss, with its interval."""
        return rise(self.rises, loss)


# ---------------------------------------------------------------- on disk


def path_of(flatness: Flatness, out: Path) -> Path:
    """`<out>/<name>/<id>.json`."""
    return out / flatness.name / f"{flatness.id}.json"


def read(path: Path) -> Flatness:
    """Raises InvalidInput naming a file that cannot be read; it is left in place."""
    return json_files.read(path, Flatness.model_validate_json, "flatness")


def known(question: Flatness, out: Path) -> Flatness | None:
    """The answer to a question that is on disk. Raises InvalidInput where the file is of another."""
    path = path_of(question, out)
    if not path.exists():
        return None
    found = read(path)
    if found.id != question.id or not found.rises:
        raise InvalidInput(f"{path} is of another question than its name says; it is left in place")
    return found


def keep(flatness: Flatness, out: Path) -> Path:
    """Writes an answer; returns where."""
    path = path_of(flatness, out)
    write_atomic(path, pretty_json(flatness))
    return path
