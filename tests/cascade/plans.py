"""Plans of walks, replayed from what was collected: what they would leave standing, and their passes.

A pass is an image sent forward or backward. B images, those that a network gets right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EVERYBODY = np.inf


@dataclass(frozen=True)
class Stage:
    """Walks of an image that go together, on the images that still stand."""

    walks: tuple[str, ...]
    looks: int  # of a walk that breaks nothing
    before: int = 1  # passes before the walks: the order of the classes, their gradients
    reach: float = EVERYBODY  # images whose boundary came nearer, in eps, in the first diverse walk
    every_gradient: bool = False  # the last look has one too

    def passes(self, hit: np.ndarray) -> np.ndarray:
        """(B,) of images that were first hit (B,) after so many looks, 0 for never."""
        whole = 2 * self.looks - (not self.every_gradient)
        return self.before + len(self.walks) * np.where(hit > 0, 2 * hit, whole)


@dataclass(frozen=True)
class Plan:
    """Stages one after another."""

    name: str
    stages: tuple[Stage, ...]


def diverse(restarts: int) -> tuple[Stage, ...]:
    """The first restart alone, then the others together."""
    rest = tuple(f"diverse-{r}" for r in range(1, restarts))
    return Stage(("diverse-0",), 16), *([Stage(rest, 16, before=0)] if rest else [])


def near(targets: int, steps: int, classes: int = 10) -> tuple[Stage, ...]:
    names = tuple(f"near-{steps}-{t}" for t in range(min(targets, classes - 1)))
    return (Stage(names, steps + 1, before=1 + min(9, classes - 1)),)


def probability(spread: float, restarts: int) -> tuple[Stage, ...]:
    return (Stage(tuple(f"probability-{spread:g}-{r}" for r in range(restarts)), 51),)


def long(restarts: int, reach: float) -> tuple[Stage, ...]:
    """As a registered attack asks: the first restart finds out who came near."""
    return (Stage(tuple(f"long-{r}" for r in range(restarts)), 56, reach=reach),)


def climbed(
    steps: int, targets: int = 9, classes: int = 10, restarts: int = 1
) -> tuple[Stage, ...]:
    """APGD on cross-entropy and on the targeted DLR loss."""
    untargeted = [
        Stage((f"ce-{steps}-{r}",), steps + 1, before=0, every_gradient=True)
        for r in range(restarts)
    ]
    return *untargeted, dlr(steps, targets, classes)


def dlr(steps: int, targets: int = 9, classes: int = 10) -> Stage:
    names = tuple(f"dlr-{steps}-{t}" for t in range(min(targets, classes - 1)))
    return Stage(names, steps + 1, every_gradient=True)


def rivals(classes: int = 10) -> Iterator[Plan]:
    """What the cascade must beat."""
    for steps in (100, 50, 20):
        yield Plan(f"APGD-CE + APGD-T, {steps} steps", climbed(steps, classes=classes))
    yield Plan(
        "APGD-CE, 5 restarts, + APGD-T, 100 steps", climbed(100, classes=classes, restarts=5)
    )
    for steps in (100, 50, 20):
        stages = *probability(10, 1), dlr(steps, classes=classes)
        yield Plan(f"probabilities + APGD-T, {steps} steps", stages)


def tried(classes: int = 10) -> Iterator[Plan]:
    """Every plan of the grid: diverse restarts, near targets, probabilities, long restarts."""
    first = {0: (), **{r: diverse(r) for r in (1, 2, 5, 10, 20)}}
    second = {"": ()} | {
        f"near {t} x {s}": near(t, s, classes) for t in (1, 3, 5, 9) for s in (20, 30, 50)
    }
    third = {"": ()} | {
        f"probabilities {s:g} x {r}": probability(s, r) for s in (5, 10, 20) for r in (1, 2)
    }
    fourth = {"": ()} | {
        f"long {r} within {reach:g}": long(r, reach)
        for r in (2, 4, 8) for reach in (0.05, 0.1, 0.2, 0.4, EVERYBODY)
    }  # fmt: skip
    grid = itertools.product(first.items(), second.items(), third.items(), fourth.items())
    for (restarts, one), (b, two), (c, three), (d, four) in grid:
        words = [f"diverse {restarts}" if restarts else "", b, c, d]
        if one or two or three:
            yield Plan(", ".join(w for w in words if w), (*one, *two, *three, *four))


@dataclass(frozen=True)
class Replay:
    """What a plan does on the images of one network under one seed."""

    standing: np.ndarray  # (B,) bool
    passes: np.ndarray  # (B,)


def replayed(plan: Plan, found: dict[str, np.ndarray]) -> Replay:
    """A plan on collected walks; an image that a walk was not tried on is broken by its first look."""
    count = len(found["right"])
    standing, passes = np.ones(count, dtype=bool), np.zeros(count)
    for stage in plan.stages:
        chosen = standing & (found["nearest"] <= stage.reach)
        hits = np.stack([found[w] for w in stage.walks]).astype(np.int64)
        hits = np.where(hits < 0, 1, hits)  # broken by both of the walks that came first
        first = np.where(hits > 0, hits, np.iinfo(np.int64).max).min(0)
        first = np.where(first == np.iinfo(np.int64).max, 0, first)
        passes[chosen] += stage.passes(first)[chosen]
        standing &= ~(chosen & (first > 0))
    return Replay(standing, passes)


def ever_broken(found: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) bool: some walk broke the image."""
    walks = [values for name, values in found.items() if name[-1].isdigit() and "-" in name]
    return (np.stack(walks) != 0).any(0)


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def score(plans: Sequence[Plan], found: Sequence[dict[str, np.ndarray]]) -> list[tuple[int, float]]:
    """Of each plan: how many images it leaves that some walk breaks, and passes a standing image."""
    known = [ever_broken(each) for each in found]
    answer = []
    for plan in plans:
        missed, passes, left = 0, 0.0, 0
        for each, broken in zip(found, known, strict=True):
            replay = replayed(plan, each)
            missed += int((replay.standing & broken).sum())
            passes += float(replay.passes.sum())
            left += int(replay.standing.sum())
        answer.append((missed, passes / max(left, 1)))
    return answer
