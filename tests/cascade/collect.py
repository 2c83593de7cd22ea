"""python -m tests.cascade.collect: when each walk first breaks each image, written down once.

A walk is one row of an attack alone: a restart, a target, a number of steps. Of every network, seed
and image it is stored after how many looks it first broke it, so that any plan of these walks can
be replayed without a network. What is finished is not done again. B images, K classes.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import datasets
from bench.attacks import Problem, Search
from bench.attacks.apgd import _climbed, apgd
from bench.attacks.cascade import (
    _by_logit,
    _diversified,
    _guided,
    _nearest_classes,
    _start,
    _Walk,
)
from bench.attacks.fab import fab_t
from bench.attacks.geometry import Ball
from bench.attacks.losses import dlr_targeted, fooled, margin
from bench.attacks.problem import frozen
from bench.attacks.square import square
from bench.records.store import write_atomic
from bench.schema import ModelCard, ThreatModel
from bench.sources import checkpoint
from bench.streams import Streams

RESULTS = Path("results/cascade/walks")
SEEDS = (0, 1, 2)
# Of the first 500 test images, which may choose a plan, and of the next 500, which confirm it, so many.
HALF, IMAGES = 500, {"digits": 200, "fashion_mnist": 100}
ROWS = 512
# Walks after the first two are tried on images that one of those two leaves standing.
FIRST = ("ce-100-0", "diverse-0")
TARGETS = 9
# How near each of these came is stored too, in eps; it lets images through to what is dear.
NEAR = tuple(f"diverse-{r}" for r in range(20)) + tuple(f"long-{r}" for r in range(8))
# What is dear is tried on images that one of these brought within so many eps.
CLOSE = 0.05
DEAR = (*(f"long-{r}" for r in range(8, 28)), "fab-t", "square")
NOT_NEAR = -2  # instead of a count of looks


Walk = Callable[[Problem, Tensor], object]  # (a part of the problem, its places) -> (B,) how near


def walks(problem: Problem) -> Iterator[tuple[str, Walk]]:
    """(name, what runs it on a part of the problem, given the places of that part)."""
    ball = Ball.around(problem.x, problem.threat)
    order = _by_logit(problem.model, problem.x, problem.y)
    classes = order.shape[1]
    targets = min(TARGETS, classes - 1)
    likely = problem.likeliest_wrong(targets)
    near, _ = _nearest_classes(problem, targets, targets)

    def climbed(steps: int, column: Tensor | None) -> Walk:
        def walk(here: Problem, places: Tensor) -> object:
            if column is None:
                return apgd(here, steps=steps)
            return _climbed(here, column[places][:, None], dlr_targeted, steps, 1, 1, False)

        return walk

    def diversified(restart: int, opening: int, steps: int, corner: bool) -> Walk:
        def walk(here: Problem, places: Tensor) -> object:
            some = ball[places]
            return _Walk(opening, steps, lambda z, y, _: margin(z, y))(
                here, some, [_start(here, some, restart, corner)],
                [_diversified(here, order[places], restart)],
            )[2]  # fmt: skip

        return walk

    def towards(target: int, steps: int) -> Walk:
        def walk(here: Problem, places: Tensor) -> object:
            some, chosen = ball[places], near[places][:, target, None]
            guide = torch.zeros(len(places), classes).scatter_(1, chosen, 1.0)
            guide.scatter_(1, here.y[:, None], -1.0)
            return _Walk(0, steps, _guided)(
                here, some, [_start(here, some, target, False)], [guide]
            )

        return walk

    def probable(spread: float, restart: int) -> Walk:
        def walk(here: Problem, places: Tensor) -> object:
            some = ball[places]
            with torch.no_grad():
                logits = here.model(here.x)
            apart = (logits.amax(1) - logits.amin(1)).clamp_min(1e-30)
            scale = (spread / apart)[:, None].expand_as(logits)
            climb = _Walk(0, 50, lambda z, y, scale: margin(torch.softmax(z * scale, 1), y))
            return climb(here, some, [_start(here, some, restart, False)], [scale])

        return walk

    yield "ce-100-0", climbed(100, None)
    yield "diverse-0", diversified(0, 7, 8, False)
    for restart in range(1, 5):
        yield f"ce-100-{restart}", climbed(100, None)
    for steps in (20, 50):
        yield f"ce-{steps}-0", climbed(steps, None)
    for steps in (100, 50, 20):
        for target in range(targets):
            yield f"dlr-{steps}-{target}", climbed(steps, likely[:, target])
    for restart in range(1, 20):
        yield f"diverse-{restart}", diversified(restart, 7, 8, False)
    for restart in range(28):
        yield f"long-{restart}", diversified(restart, 10, 45, restart % 2 > 0)
    for steps in (50, 30, 20):
        for target in range(targets):
            yield f"near-{steps}-{target}", towards(target, steps)
    for spread in (5.0, 10.0, 20.0):
        for restart in range(2):
            yield f"probability-{spread:g}-{restart}", probable(spread, restart)
    yield "fab-t", lambda here, places: fab_t(here, targets=targets)
    yield "square", lambda here, places: square(here)


def first_hits(
    problem: Problem,
    name: str,
    walk: Walk,
    places: Tensor,
    *path: str,
) -> tuple[np.ndarray, np.ndarray | None]:
    """(B,) int16 after how many looks a walk first broke an image, 0 never, -1 not tried; and near.

    Its random numbers are those of the problem at a path.
    """
    looks = torch.zeros(len(problem.y), dtype=torch.int64)
    hits = torch.zeros_like(looks)

    def verdict(z: Tensor, y: Tensor, logits: Tensor, image: Tensor) -> Tensor:
        looks[image] += 1
        hit = fooled(logits, y)
        new = image[hit & (hits[image] == 0)]
        hits[new] = looks[new]
        return hit

    found, nearest = np.full(len(looks), -1, dtype=np.int16), None
    if name in NEAR:
        nearest = np.full(len(looks), np.inf, dtype=np.float32)
    if len(places):
        watched = Problem(
            problem.model, problem.x, problem.y, problem.threat, problem.streams,
            Search(rows=ROWS, verdict=verdict),
        ).at(places, *path)  # fmt: skip
        near = walk(watched, places)
        found[places.numpy()] = hits[places].numpy()
        if nearest is not None:
            assert isinstance(near, Tensor)
            nearest[places.numpy()] = near.numpy() / problem.threat.epsilon
    return found, nearest


def chosen_images(dataset: str, n: int) -> np.ndarray:
    """The places, among n test images, of those that are attacked; both halves where n is smaller."""
    half, each = min(HALF, n // 2), IMAGES[dataset.partition("-")[0]]
    return np.concatenate([np.arange(start, start + min(each, half)) for start in (0, half)])


def collect(folder: Path, seed: int, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What there is to be stored of one network under one seed; what is stored already stays."""
    model, card = checkpoint.load(folder)
    threat = _threat(card, folder)
    data = datasets.load(card.dataset, "test")
    attacked = chosen_images(card.dataset, len(data))
    data = data[torch.from_numpy(attacked)]
    x, y = data.x, data.labels
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:, 0]
    streams = Streams.for_images(x[right], seed, "cascade-study")
    problem = Problem(model, x[right], y[right], threat, streams, Search(rows=ROWS))
    answer: dict[str, np.ndarray] = {
        "attacked": attacked.astype(np.int16),  # places among the test images
        "right": right.numpy().astype(np.int16),  # places among the attacked ones
    }
    assert all(np.array_equal(stored.get(k, v), v) for k, v in answer.items())
    with frozen(model):
        every = torch.arange(len(right))
        standing = every
        for name, walk in walks(problem):
            near = near_of(answer) if name in DEAR else None
            places = standing if near is None else torch.from_numpy(np.flatnonzero(near <= CLOSE))
            if name in stored and (name not in NEAR or f"nearest-{name}" in stored):
                answer |= {k: stored[k] for k in (name, f"nearest-{name}") if k in stored}
            else:
                hits, nearest = first_hits(problem, name, walk, places, "walk", name)
                if near is not None:
                    hits[(hits == -1) & (near > CLOSE)] = NOT_NEAR
                assert np.array_equal(stored.get(name, hits), hits), f"{name} came out otherwise"
                answer[name] = hits
                if nearest is not None:
                    answer[f"nearest-{name}"] = nearest.astype(np.float16)
            if name == FIRST[1]:
                both = (answer[FIRST[0]] > 0) & (answer[FIRST[1]] > 0)
                standing = torch.from_numpy(np.flatnonzero(~both))
    return answer


def near_of(answer: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) the nearest that a boundary came in any walk; infinity where the first two broke it."""
    near = np.min([answer[f"nearest-{name}"].astype(np.float32) for name in NEAR], axis=0)
    both = (answer[FIRST[0]] > 0) & (answer[FIRST[1]] > 0)
    return np.where(both, np.inf, near)


def _threat(card: ModelCard, folder: Path) -> ThreatModel:
    return card.threat or ThreatModel.parse(folder.parent.name.replace("-", ":", 1))


def networks() -> list[Path]:
    """Committed with weights, adversarially trained, the last checkpoint of a run."""
    found = []
    for path in sorted(Path("results").glob("*/*/*-last/weights.safetensors")):
        card = json.loads((path.parent / "card.json").read_text())
        if card["objective"] != "natural":
            found.append(path.parent)
    return found


def packed(answer: dict[str, np.ndarray]) -> bytes:
    """A compressed .npz archive."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **answer)  # type: ignore[arg-type]
    return buffer.getvalue()


def main() -> int:
    """Collects what is missing, one network and seed after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [(seed, folder) for seed in a.seeds for folder in networks() if a.only in folder.name]
    for number, (seed, folder) in enumerate(jobs):
        path = a.out / f"{folder.parent.parent.name}-{folder.name}-{seed}.npz"
        stored: dict[str, np.ndarray] = {}
        if path.exists():
            with np.load(path, allow_pickle=False) as saved:
                stored = {name: saved[name] for name in saved.files if name != "nearest"}
        if set(DEAR) <= set(stored):
            continue
        started = time.monotonic()
        write_atomic(path, packed(collect(folder, seed, stored)))
        took = time.monotonic() - started
        print(f"{number + 1}/{len(jobs)} {path.name}: {took:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
