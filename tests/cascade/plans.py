"""Columns replayed from collected walks: what they would leave standing, and for how many passes.

A pass is an image sent forward or backward. B images, those that a network gets right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.schema import AttackSpec, Scalar

Plan = tuple[AttackSpec, ...]  # of a column
NEAREST = "nearest-"  # before the name of a walk: how near it came
PROBES = (3, 5, 10)


def _spec(name: str, **params: Scalar) -> AttackSpec:
    return AttackSpec(name=name, params=params)


def diverse(restarts: int) -> AttackSpec:
    return _spec("diverse", restarts=restarts, opening=7, steps=8)


def near(targets: int, steps: int, classes: int = 10) -> AttackSpec:
    targets, candidates = min(targets, classes - 1), min(9, classes - 1)
    return _spec("near-targets", targets=targets, candidates=candidates, steps=steps)


def probability(spread: float, restarts: int) -> AttackSpec:
    return _spec("probability-margin", steps=50, restarts=restarts, spread=spread)


def boundary(
    probes: int, reach: float, restarts: int, close: float, again: int = 20, classes: int = 10
) -> AttackSpec:
    return _spec(
        "near-boundary", probes=probes, opening=7, steps=8, reach=reach, restarts=restarts,
        long_opening=10, long_steps=45, close=close, again=again, apgd_steps=100,
        targets=min(9, classes - 1), queries=5000,
    )  # fmt: skip


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
    """Every plan of the grid: near targets, probabilities, and what the nearest images get.

    `5 probes, 7 within 0.1, all within 0.02`: long walks within 0.1 eps, and more of them and
    AutoAttack within 0.02. Where that is nobody, a reach below 0 says so.
    """
    first = {"": ()} | {
        f"near {t} x {s}": (near(t, s, classes),) for t in (1, 2, 3) for s in (20, 30)
    }
    second = {"": ()} | {
        f"probabilities {s:g} x {r}": (probability(s, r),)
        for s in (5.0, 10.0, 20.0)
        for r in (1, 2)
    }
    third = {"": ()} | {f"{k} probes": (boundary(k, -1.0, 0, -1.0, 0, classes),) for k in PROBES}
    for k, restarts, reach, close in itertools.product(
        PROBES, (0, 3, 7), (0.05, 0.1, 0.2), (-1.0, 0.01, 0.02, 0.03)
    ):
        if (restarts or close > 0) and (restarts or reach == 0.1):
            words = [f"{k} probes"] + [f"{restarts} within {reach:g}"] * bool(restarts)
            words += [f"all within {close:g}"] * (close > 0)
            again = 20 if close > 0 else 0
            third[", ".join(words)] = (
                boundary(k, reach if restarts else -1.0, restarts, close, again, classes),
            )
    for chosen in itertools.product(*(stage.items() for stage in (first, second, third))):
        if any(specs for _, specs in chosen):
            words_ = ", ".join(word for word, _ in chosen if word)
            yield words_, tuple(spec for _, specs in chosen for spec in specs)


# ---------------------------------------------------------------- replayed


@dataclass(frozen=True)
class Stage:
    """Walks of an image that go together, on the images that still stand."""

    walks: tuple[str, ...]
    looks: int  # of a walk that breaks nothing
    before: int = 0  # passes of whoever is let in: the order of the classes, their gradients
    gate: tuple[str, ...] = ()  # only images that one of these walks brought
    reach: float = np.inf  # within so many eps
    whole: int | None = None  # passes of an attack that is no walk, a hit or not


def stages(spec: AttackSpec) -> list[Stage]:
    """What an attack does.

    FAB and Square count as if they broke nothing, and Square as if it did not look ahead.
    """
    p = spec.params
    restarts, steps = int(p.get("restarts", 1)), int(p.get("steps", 0))
    looks = int(p.get("opening", 0)) + steps + 1
    if spec.name == "diverse":
        return _first_alone(restarts, looks)
    if spec.name == "near-boundary":
        return _by_nearness(p, looks)
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


def _first_alone(restarts: int, looks: int) -> list[Stage]:
    others = tuple(f"diverse-{r}" for r in range(1, restarts))
    return [Stage(("diverse-0",), looks, before=1)] + [Stage(others, looks)] * bool(others)


def _by_nearness(p: Mapping[str, Scalar], looks: int) -> list[Stage]:
    """Short walks, long ones for images within reach, and all that there is for the closest."""
    short, restarts = _first_alone(int(p["probes"]), looks), int(p["restarts"])
    gate = tuple(walk for stage in short for walk in stage.walks)
    last = int(p["long_opening"]) + int(p["long_steps"]) + 1
    long = tuple(f"long-{r}" for r in range(restarts))
    more = tuple(f"long-{r}" for r in range(restarts, restarts + int(p["again"])))
    everything, close = (*gate, *long), float(p["close"])
    targets, steps = int(p["targets"]), int(p["apgd_steps"])
    towards = tuple(f"dlr-{steps}-{t}" for t in range(targets))
    dear = [
        Stage(more, last),
        Stage((f"ce-{steps}-0",), steps + 1),
        Stage(towards, steps + 1, before=1),
        Stage(("fab-t",), 0, whole=1 + 3 * steps * targets),
        Stage(("square",), 0, whole=1 + int(p["queries"])),
    ]
    return [
        *short,
        *([Stage(long, last, gate=gate, reach=float(p["reach"]))] if long else []),
        *(replace(stage, gate=everything, reach=close) for stage in dear if close > 0),
    ]


DRAWS = 4
# Kind -> how far a draw moves on among so many collected restarts, from the first of them. The first
# eight long walks were tried on all images, the others on the closest alone.
_RESTARTS = {
    "diverse": ((0, 4, 20),), "long": ((0, 2, 8), (8, 4, 20)), "probability": ((0, 1, 2),),
    "ce": ((0, 1, 5),),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What was collected of networks with equally many classes."""

    walks: Mapping[str, np.ndarray]  # (B,) after how many looks each first broke an image, 0 never
    nearest: Mapping[str, np.ndarray]  # (B,) how near a walk came to a boundary, in eps
    later: np.ndarray  # (B,) bool: of the later half of the test images
    _first: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)
    _near: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Found:
        with np.load(path, allow_pickle=False) as saved:
            every = {name: saved[name] for name in saved.files}
        right, attacked = every.pop("right"), every.pop("attacked")
        return cls.of(every, right >= len(attacked) // 2)

    @classmethod
    def of(cls, collected: Mapping[str, np.ndarray], later: np.ndarray) -> Found:
        """An image broken by both of the first two walks counts as broken by the first look of all."""
        walks, nearest = {}, {}
        for name, values in collected.items():
            if name.startswith(NEAREST):
                nearest[name.removeprefix(NEAREST)] = values.astype(np.float32)
            else:
                walks[name] = np.where(values == -1, 1, np.maximum(values, 0)).astype(np.int32)
        return cls(walks, nearest, later)

    @classmethod
    def joined(cls, founds: Sequence[Found]) -> Found:
        one = founds[0]
        walks = {name: np.concatenate([f.walks[name] for f in founds]) for name in one.walks}
        nearest = {name: np.concatenate([f.nearest[name] for f in founds]) for name in one.nearest}
        return cls(walks, nearest, np.concatenate([f.later for f in founds]))

    def __getitem__(self, chosen: np.ndarray) -> Found:
        walks = {name: hits[chosen] for name, hits in self.walks.items()}
        nearest = {name: near[chosen] for name, near in self.nearest.items()}
        return Found(walks, nearest, self.later[chosen])

    def draw(self, number: int) -> Found:
        """As if other restarts had been drawn: those of a kind that has several change places."""

        def taken(name: str) -> str:
            kind, _, restart = name.rpartition("-")
            for first, by, count in _RESTARTS.get(kind.partition("-")[0], ()):
                if restart.isdigit() and first <= int(restart) < first + count:
                    moved = first + (int(restart) - first + by * number) % count
                    return f"{kind}-{moved}" if f"{kind}-{moved}" in self.walks else name
            return name

        walks = {name: self.walks[taken(name)] for name in self.walks}
        return Found(walks, {n: self.nearest[taken(n)] for n in self.nearest}, self.later)

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

    def near(self, walks: tuple[str, ...]) -> np.ndarray:
        """(B,) how near the nearest of the walks came to a boundary, in eps; 0 where none is asked."""
        if walks not in self._near:
            none = np.zeros(len(self.later), dtype=np.float32)
            self._near[walks] = np.min([self.nearest[w] for w in walks] or [none], axis=0)
        return self._near[walks]


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
        chosen = standing & (found.near(stage.gate) <= stage.reach)
        first = found.first(stage.walks)
        looks = np.where(first > 0, first, stage.looks)
        spent = 2 * len(stage.walks) * looks if stage.whole is None else stage.whole
        passes += chosen * (stage.before + spent)
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
