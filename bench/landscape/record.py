"""What was seen of a loss landscape, as a file: the setting, and a point for each place looked at.

Counts and means of what was attacked at w + alpha d. Everything that repeats a point is in the setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.records import json_files
from bench.records.store import pretty_json, write_atomic
from bench.schema import AttackSpec, InvalidInput, Name, Sha256, Text, ThreatModel
from bench.schema.frozen import Frozen, content_hash
from bench.stats.intervals import Interval, seed_interval

PARTS = ("train", "test")
FARTHEST = 10.0  # of alpha: there d is ten times as long as the weights
MOST_POINTS = 201  # of one direction
_LARGEST = 2**23  # bytes
_STEP = {"linf": 0.25, "l2": 15 / 128}  # of eps, as in the board's PGD

Part = Literal["train", "test"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Images(Frozen):
    """The images of one part."""

    split: Text  # which images, such as "test[0:1000]"
    examples_sha256: Sha256
    n: int = Field(ge=1)


class Setting(Frozen):
    """What a landscape is of: points of one setting can be laid on one curve."""

    schema_version: Literal[1] = 1
    name: Name  # of the checkpoint
    weights_sha256: Sha256
    dataset: Name
    images: dict[Part, Images] = Field(min_length=1)
    threat: ThreatModel
    attack: AttackSpec
    loss: Name = "cross_entropy"  # that is shown; the attack says what it ascends
    examples: Literal["fly", "fixed"]  # made for the network at w + alpha d, or once for that at w
    batchnorm: Literal["kept", "anew"]  # statistics of w, or estimated at w + alpha d
    direction: Literal["filter"] = "filter"  # Gaussian, each filter as long as that of w
    seed: int = Field(ge=0)  # of directions and of the attack
    version: Text  # of the engine

    @property
    def id(self) -> str:
        """16 hex digits over all of it."""
        return content_hash(self)[:16]


class Seen(Frozen):
    """One part of the images at one point."""

    clean_correct: int = Field(ge=0)
    robust_correct: int = Field(ge=0)  # right unattacked, and at the end of the attack
    clean_loss: Finite  # means over all images, nats
    robust_loss: Finite


class Point(Frozen):
    """A place w + alpha d; without `seen` a gap in the curve, of which `gap` says why."""

    direction: int = Field(ge=0)
    alpha: Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
    seen: dict[Part, Seen] = Field(default_factory=dict)
    gap: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Point:
        if bool(self.seen) == bool(self.gap):
            raise ValueError("expected either what was seen or why nothing was")
        if self.alpha == 0 and self.direction != 0:
            raise ValueError("at alpha 0 every direction is at w: it is kept as direction 0")
        return self

    @property
    def place(self) -> tuple[int, float]:
        return self.direction, self.alpha


class Landscape(Frozen):
    """The points looked at so far under one setting."""

    setting: Setting
    points: tuple[Point, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Landscape:
        places = [p.place for p in self.points]
        if len(set(places)) < len(places):
            raise ValueError("a place stands twice")
        for point in self.points:
            if point.seen and point.seen.keys() != self.setting.images.keys():
                raise ValueError("a point was not looked at with the images of the setting")
            for part, seen in point.seen.items():
                if not seen.robust_correct <= seen.clean_correct <= self.setting.images[part].n:
                    raise ValueError("expected robust_correct <= clean_correct <= n")
        return self

    def point(self, direction: int, alpha: float) -> Point | None:
        """What is known of a place; at alpha 0 every direction is at w."""
        place = (direction if alpha else 0, alpha)
        return next((p for p in self.points if p.place == place), None)

    def having(self, points: Iterable[Point]) -> Landscape:
        """With these points, in order; what was known of their places gives way."""
        found = {p.place: p for p in (*self.points, *points)}
        return Landscape(setting=self.setting, points=tuple(found[p] for p in sorted(found)))

    def heights(self, part: Part, alphas: Iterable[float], directions: int) -> np.ndarray:
        """(directions, alphas) mean losses under attack; NaN where there is a gap or nothing yet."""
        at = tuple(alphas)
        found = np.full((directions, len(at)), np.nan)
        for d in range(directions):
            for i, alpha in enumerate(at):
                point = self.point(d, alpha)
                if point is not None and part in point.seen:
                    found[d, i] = point.seen[part].robust_loss
        return found


def spread(values: np.ndarray) -> Interval | None:
    """The mean of heights over directions with Student's t interval, 95 %; None of gaps alone.

    Gaps are left out. One direction has no interval: its ends are infinite.
    """
    known = values[np.isfinite(values)]
    return seed_interval(known.tolist()) if len(known) else None


def alphas_of(points: int, reach: float = 1.0) -> tuple[float, ...]:
    """So many places from -reach to reach, evenly, 0 in the middle.

    Raises InvalidInput for a number that is not odd or below 3, and for a reach that is none.
    """
    if points < 3 or points % 2 == 0 or points > MOST_POINTS:
        raise InvalidInput(
            f"points must be an odd number from 3 to {MOST_POINTS}, so that alpha 0 is one and not "
            f"the only one, got {points}"
        )
    if not 0 < reach <= FARTHEST:
        raise InvalidInput(
            f"the reach of alpha must lie above 0 and up to {FARTHEST:g}, got {reach:g}"
        )
    half = points // 2
    return tuple(round(reach * k / half, 9) + 0.0 for k in range(-half, half + 1))


def checked_alphas(alphas: Iterable[float]) -> tuple[float, ...]:
    """The places in order. Raises InvalidInput where 0 is missing or alone, or one is no number."""
    found = tuple(sorted({float(a) + 0.0 for a in alphas}))
    if not all(math.isfinite(a) and abs(a) <= FARTHEST for a in found):
        raise InvalidInput(f"alpha must lie in [-{FARTHEST:g}, {FARTHEST:g}], got {found}")
    if 0.0 not in found or len(found) < 2:
        raise InvalidInput(f"a curve needs alpha 0 and one other place at least, got {found}")
    return found


def steps_of(attack: str) -> int:
    """10 of `pgd10`. Raises InvalidInput."""
    match = re.fullmatch(r"pgd([1-9]\d{0,3})", attack.strip().lower())
    if match is None:
        raise InvalidInput(
            f"the attack is written pgd and a number of steps, such as pgd10, got {attack!r}"
        )
    return int(match[1])


def attack_named(name: str, threat: ThreatModel) -> AttackSpec:
    """`pgd10`: so many steps of PGD from one uniform start, the last iterate. Raises InvalidInput."""
    steps = steps_of(name)
    if threat.norm not in _STEP:
        raise InvalidInput(f"landscapes are drawn under {' or '.join(_STEP)}, got {threat}")
    return AttackSpec(
        name="pgd",
        params={
            "steps": steps, "relative_step": _STEP[threat.norm], "restarts": 1,
            "start": "uniform", "iterate": "last", "loss": "cross_entropy",
        },
    )  # fmt: skip


# ---------------------------------------------------------------- on disk


def path_of(setting: Setting, out: Path) -> Path:
    """`<out>/<name>/<id>.json`."""
    return out / setting.name / f"{setting.id}.json"


def read(path: Path) -> Landscape:
    """Raises InvalidInput naming a file that cannot be read; it is left in place."""
    return json_files.read(path, Landscape.model_validate_json, "landscape", largest=_LARGEST)


def begin(setting: Setting, out: Path) -> Landscape:
    """What is known under a setting: the file's points, or none.

    Raises InvalidInput naming a file that cannot be read or is of another setting; it stays.
    """
    path = path_of(setting, out)
    if not path.exists():
        return Landscape(setting=setting)
    found = read(path)
    if found.setting != setting:
        raise InvalidInput(f"{path} is of another setting than its name says; it is left in place")
    return found


def keep(points: Iterable[Point], setting: Setting, out: Path) -> Landscape:
    """Adds points to the file, which another process may have added to meanwhile."""
    found = begin(setting, out).having(points)
    write_atomic(path_of(setting, out), pretty_json(found))
    return found
