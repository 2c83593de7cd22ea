"""Columns replayed from collected walks: what they would leave standing, and for how many passes.

A pass is an image sent forward or backward. B images, those that a network gets right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.schema import AttackSpec, Scalar

Plan = tuple[AttackSpec, ...]  # of a column
EVERYWHERE = 1e9  # as in bench.attacks.cascade
PROBE: dict[str, Scalar] = {"probe_opening": 7, "probe_steps": 8}


def _spec(name: str, **params: Scalar) -> AttackSpec:
    return AttackSpec(name=name, params=params)


def diverse(restarts: int) -> AttackSpec:
    return _spec("diverse", restarts=restarts, opening=7, steps=8, **PROBE, reach=EVERYWHERE)


def near(targets: int, steps: int, classes: int = 10) -> AttackSpec:
    targets, candidates = min(targets, classes - 1), min(9, classes - 1)
    return _spec("near-targets", targets=targets, candidates=candidates, steps=steps)


def probability(spread: float, restarts: int) -> AttackSpec:
    return _spec("probability-margin", steps=50, restarts=restarts, spread=spread)


def long(restarts: int, reach: float) -> AttackSpec:
    return _spec(
        "diverse-long", restarts=restarts, opening=10, steps=45, corners=True, **PROBE, reach=reach
    )


def square(reach: float) -> AttackSpec:
    return _spec("square-within", queries=5000, p_init=0.8, **PROBE, reach=reach)


def apgd(steps: int, restarts: int = 1) -> AttackSpec:
    return _spec("apgd-ce", steps=steps, restarts=restarts)


def apgd_t(steps: int, classes: int = 10) -> AttackSpec:
    return _spec("apgd-t", steps=steps, restarts=1, targets=min(9, classes - 1))


def rivals(classes: int = 10) -> dict[str, Plan]:
    """What the cascade must beat."""
    plain: dict[str, Plan] = {
        f"APGD-CE + APGD-T, {s} steps": (apgd(s), apgd_t(s, classes)) for s in (100, 50, 20)
    }
    again: dict[str, Plan] = {
        "APGD-CE, 5 restarts, + APGD-T, 100 steps": (apgd(100, 5), apgd_t(100, classes))
    }
    probable: dict[str, Plan] = {
        f"probabilities + APGD-T, {s} steps": (probability(10.0, 1), apgd_t(s, classes))
        for s in (100, 50, 20)
    }
    return plain | again | probable


def tried(classes: int = 10) -> Iterator[tuple[str, Plan]]:
    """Every plan of the grid: diverse restarts, near targets, probabilities, long restarts."""
    first = {"": ()} | {f"diverse {1 + r}": (diverse(r),) for r in (0, 2, 4, 9, 19)}
    second = {"": ()} | {
        f"near {t} x {s}": (near(t, s, classes),) for t in (1, 2, 3, 5, 9) for s in (20, 30, 50)
    }
    third = {"": ()} | {
        f"probabilities {s:g} x {r}": (probability(s, r),)
        for s in (5.0, 10.0, 20.0)
        for r in (1, 2)
    }
    fourth = {"": ()} | {
        f"long {r} within {reach:g}": (long(r, reach),)
        for r in (1, 3, 7) for reach in (0.05, 0.1, 0.2, 0.4, EVERYWHERE)
    }  # fmt: skip
    for chosen in itertools.product(*(stage.items() for stage in (first, second, third, fourth))):
        if any(specs for _, specs in chosen):
            words = ", ".join(word for word, _ in chosen if word)
            yield words, tuple(spec for _, specs in chosen for spec in specs)


# ---------------------------------------------------------------- replayed


@dataclass(frozen=True)
class Stage:
    """Walks of an image that go together, on the images that still stand."""

    walks: tuple[str, ...]
    looks: int  # of a walk that breaks nothing
    before: int = 0  # passes of whoever is let in: the order of the classes, their gradients
    reach: float = EVERYWHERE  # images whose boundary came so near, in eps, in the first short walk


def stages(spec: AttackSpec) -> list[Stage]:
    """What an attack does. The first short walk collected stands for every probe.

    So a plan with several probes is given one draw of it; in a column each has a draw of its own.
    """
    p = spec.params
    reach, restarts = float(p.get("reach", EVERYWHERE)), int(p.get("restarts", 1))
    probe = [Stage(("diverse-0",), 16, before=1)] if "probe_steps" in p else []
    assert not probe or {k: p[k] for k in PROBE} == PROBE
    steps = int(p.get("steps", 0))
    looks = int(p.get("opening", 0)) + steps + 1
    if spec.name == "square-within":
        return [*probe, Stage((), 0, before=1 + int(p["queries"]), reach=reach)]
    if spec.name in ("diverse", "diverse-long"):
        kind = "diverse" if spec.name == "diverse" else "long"
        walks = tuple(f"{kind}-{r}" for r in range(1, restarts + 1))
        return [*probe, Stage(walks, looks, reach=reach)]
    if spec.name == "apgd-ce":
        return [Stage((f"ce-{steps}-{r}",), looks) for r in range(restarts)]
    if spec.name == "probability-margin":
        walks = tuple(f"probability-{p['spread']:g}-{r}" for r in range(restarts))
        return [Stage(walks, looks, before=1)]
    kind, before = {
        "near-targets": ("near", 1 + int(p.get("candidates", 0))),
        "apgd-t": ("dlr", 1),
    }[spec.name]
    return [Stage(tuple(f"{kind}-{steps}-{t}" for t in range(int(p["targets"]))), looks, before)]


# How far a draw moves on among the collected restarts of one kind, and how many there are.
DRAWS = 4
_RESTARTS = {"diverse": (4, 20), "long": (2, 8), "probability": (1, 2), "ce-100": (1, 5)}


@dataclass(frozen=True)
class Found:
    """What was collected of networks with equally many classes."""

    walks: Mapping[str, np.ndarray]  # (B,) after how many looks each first broke an image, 0 never
    nearest: np.ndarray  # (B,) how near the first short walk came to a boundary, in eps
    later: np.ndarray  # (B,) bool: of the later half of the test images
    _first: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Found:
        with np.load(path, allow_pickle=False) as saved:
            every = {name: saved[name] for name in saved.files}
        right, attacked = every.pop("right"), every.pop("attacked")
        return cls.of(every, right >= len(attacked) // 2)

    @classmethod
    def of(cls, collected: Mapping[str, np.ndarray], later: np.ndarray) -> Found:
        """An image broken by both of the first two walks counts as broken by the first look of all."""
        walks = {
            name: np.where(hits < 0, 1, hits).astype(np.int32)
            for name, hits in collected.items()
            if name != "nearest"
        }
        return cls(walks, collected["nearest"], later)

    @classmethod
    def joined(cls, founds: Sequence[Found]) -> Found:
        walks = {name: np.concatenate([f.walks[name] for f in founds]) for name in founds[0].walks}
        nearest = np.concatenate([f.nearest for f in founds])
        return cls(walks, nearest, np.concatenate([f.later for f in founds]))

    def __getitem__(self, chosen: np.ndarray) -> Found:
        walks = {name: hits[chosen] for name, hits in self.walks.items()}
        return Found(walks, self.nearest[chosen], self.later[chosen])

    def draw(self, number: int) -> Found:
        """As if other restarts had been drawn: those of a kind that has several change places.

        The first short walk stays, since it was the one whose nearness was written down.
        """

        def taken(name: str) -> str:
            kind, _, restart = name.rpartition("-")
            by, count = _RESTARTS.get(kind.partition("-")[0], _RESTARTS.get(kind, (0, 1000)))
            if name == "diverse-0":
                return name
            first = int(kind == "diverse")
            return f"{kind}-{first + (int(restart) - first + by * number) % (count - first)}"

        walks = {name: self.walks[taken(name)] for name in self.walks}
        return Found(walks, self.nearest, self.later)

    @property
    def classes(self) -> int:
        """How many there are, ten standing for more."""
        return 1 + sum(name.startswith("dlr-100-") for name in self.walks)

    @cached_property
    def broken(self) -> np.ndarray:
        """(B,) bool: by some walk."""
        return np.any(np.stack(list(self.walks.values())) > 0, axis=0)

    def first(self, walks: tuple[str, ...]) -> np.ndarray:
        """(B,) after how many looks one of the walks first broke an image, 0 never."""
        if walks not in self._first:
            never = np.iinfo(np.int32).max
            least = np.full(len(self.later), never)
            for walk in walks:
                hits = self.walks[walk]
                least = np.minimum(least, np.where(hits > 0, hits, never))
            self._first[walks] = np.where(least == never, 0, least)
        return self._first[walks]


@dataclass(frozen=True)
class Replay:
    """What a plan does on the images of one network under one seed."""

    standing: np.ndarray  # (B,) bool
    passes: np.ndarray  # (B,) of an image that breaks, until then


def replayed(plan: Plan, found: Found) -> Replay:
    """A plan on collected walks."""
    standing = np.ones(len(found.later), dtype=bool)
    passes = np.zeros(len(found.later), dtype=np.int64)
    for stage in (stage for spec in plan for stage in stages(spec)):
        chosen = standing & (np.minimum(found.nearest, EVERYWHERE) <= stage.reach)
        first = found.first(stage.walks)
        looks = np.where(first > 0, first, stage.looks)
        passes += chosen * (stage.before + 2 * len(stage.walks) * looks)
        standing &= ~(chosen & (first > 0))
    return Replay(standing, passes)


@dataclass(frozen=True)
class Score:
    """A plan on several networks, the mean of its draws."""

    missed: float  # images that it leaves and some collected walk breaks
    standing: float
    passes: float  # of all images, over those that stand


def score(plan_of: Mapping[int, Plan], draws: Sequence[Found]) -> Score:
    """One plan a number of classes; the founds are DRAWS of each."""
    replays = [(replayed(plan_of[f.classes], f), f) for f in draws]
    missed = sum(int((r.standing & f.broken).sum()) for r, f in replays)
    standing = sum(int(r.standing.sum()) for r, _ in replays)
    passes = sum(int(r.passes.sum()) for r, _ in replays)
    return Score(missed / DRAWS, standing / DRAWS, passes / max(standing, 1))


def drawn(founds: Sequence[Found]) -> list[Found]:
    """What was collected, joined where classes are equally many, in every draw."""
    counts = sorted({f.classes for f in founds})
    joined = [Found.joined([f for f in founds if f.classes == count]) for count in counts]
    return [found.draw(number) for found in joined for number in range(DRAWS)]
