"""Two models attacked image after image, until they are told apart or the budget ends.

Images come in an order that anyone can compute again. They are attacked in blocks, and an image counts
only once both models have finished the whole protocol on it: a network that hides its gradients looks
strong until the last attack. Finished parts stay in the work folder, so a larger budget goes on from
there. What comes out is no record, is not checked for flags, and never ranks.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.attacks.problem import Model
from bench.judge import guarded
from bench.measure import processes
from bench.measure.given import check_card, check_classes, given
from bench.measure.question import default_rows, engine_version
from bench.measure.request import Request
from bench.measure.shards import AUDITED, Shards
from bench.protocols import protocol as named_protocol
from bench.records.lock import locked
from bench.schema import InvalidInput, ModelCard, OutOfTime, Protocol, ThreatModel
from bench.sources.unregistered import device_of
from bench.stats.paired import Look, first_look

BLOCK = 32  # images attacked at once; a budget that ends within a block leaves the rest of it aside
Told = Callable[[float, Look], None]  # (share of the budget used, what is known)


@dataclass(frozen=True)
class Comparison:
    """What is known of A minus B, and what it took."""

    look: Look
    order: np.ndarray  # (n,) the images in the order they come in, as places in the test set
    measured: int  # images that both have finished; the last few may be more than `look` needed
    passes: int  # forward and backward passes of both over these
    prior: int  # images of `measured` that were finished before this call

    @property
    def n(self) -> int:
        """All the images there are."""
        return len(self.order)

    @property
    def passes_saved(self) -> int:
        """About how many more all n images would have taken, at the rate of those measured."""
        return round(self.passes / self.measured * (self.n - self.measured))


def image_order(n: int, examples_sha256: str, seed: int) -> np.ndarray:
    """(n,) places 0..n-1 sorted by sha256 of "seed examples_sha256 place": the same anywhere."""
    digests = [
        hashlib.sha256(f"{seed} {examples_sha256} {place}".encode()).digest() for place in range(n)
    ]
    return np.array(sorted(range(n), key=digests.__getitem__))


def compare_until_sure(
    a: tuple[Model, ModelCard],
    b: tuple[Model, ModelCard],
    x: Any,
    y: Any = None,
    *,
    threat: str | ThreatModel,
    protocol: str | Protocol = "standard",
    level: float = 0.05,
    max_n: int | None = None,
    stop: bool = True,
    seed: int = 0,
    batch: int | None = None,
    workers: int = 1,
    max_seconds: float | None = None,
    work: Path = Path("var/compare"),
    told: Told | None = None,
) -> Comparison:
    """Attacks two models (in eval mode) on the same images until first_look separates them.

    x (N, C, H, W) and y (N,) are as `evaluate` takes them, all of the test set in its own order: max_n
    (default: all) is the budget and chooses no images by itself. stop False: on to the budget though
    they are separated. seed is of the attacks and of the order. workers are processes over blocks and
    models. Raises InvalidInput on a wrong call, MeasurementFailed where a model cannot be measured, and
    OutOfTime after max_seconds; what is finished is kept in `work`.
    """
    threat = ThreatModel.asked(threat)
    handed = given(x, y)
    x, y, sha256 = handed.x, handed.y, handed.sha256
    for _, card in (a, b):
        check_card(card, x)
    budget = len(y) if max_n is None else max_n
    classes = _common_classes(a[1], b[1], y, budget, level)
    if isinstance(protocol, str):
        protocol = named_protocol(protocol, norm=threat.norm, classes=classes)
    if protocol.passes > 1:
        raise InvalidInput(
            f"{protocol.name} is for randomised models, which answer otherwise at the next call; "
            "measure each with: python -m bench evaluate"
        )
    order = image_order(len(y), sha256, seed)
    ends = [min(k + BLOCK, len(y)) for k in range(0, budget, BLOCK)]
    blocks = [slice(k * BLOCK, end) for k, end in enumerate(ends)]
    taken = torch.from_numpy(order[: max(ends[-1], AUDITED)])  # AUDITED: prepare tries some images
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    both = []
    for model, card in (a, b):
        device = device_of(model)
        rows = batch or default_rows(x, card.n_parameters, "ours", device.type)
        version = engine_version("ours", rows)
        request = Request(
            card.weights_sha256, sha256, threat, protocol, seed, "ours", version, "float32"
        )
        folder = work / request.id  # named by the question that its parts answer
        both.append(Shards(request, model, x[taken], y[taken], device, rows, folder, deadline))
    bits: list[list[np.ndarray]] = [[], []]
    passes = measured = prior = 0
    at_once = max(1, workers // 2)
    with ExitStack() as held:
        for shards, (_, card) in zip(both, (a, b), strict=True):
            lock = shards.folder.with_suffix(".lock")
            held.enter_context(locked(lock, f"a comparison of {card.name}"))
            shards.own_logits()
        for first in range(0, len(blocks), at_once):
            chosen = blocks[first : first + at_once]
            there = [block for block in chosen if all(_finished(shards, block) for shards in both)]
            prior += sum(block.stop - block.start for block in there)
            for which, standing, cost in _attacked(both, chosen, workers):
                bits[which].append(standing)
                passes += cost
            measured = chosen[-1].stop
            seen = [np.concatenate(each)[:budget] for each in bits]
            look = first_look(*seen, level=level, stop=stop)
            if told is not None:
                told(measured / blocks[-1].stop, look)
            if stop and look.separated:
                break
    return Comparison(look, order, measured, passes, prior)


def _common_classes(a: ModelCard, b: ModelCard, y: Tensor, budget: int, level: float) -> int:
    """How many classes both models have. Raises InvalidInput where they cannot be compared."""
    if not 1 <= budget <= len(y):
        raise InvalidInput(f"max_n must lie in 1..{len(y)}, got {budget}")
    if not 0 < level < 1:
        raise InvalidInput(f"level must lie between 0 and 1, such as 0.05, got {level:g}")
    if a.weights_sha256 == b.weights_sha256:
        raise InvalidInput(f"{a.name} and {b.name} have the same weights: nothing to compare")
    if a.class_count != b.class_count:
        raise InvalidInput(
            f"expected two models for labels up to {int(y.max())}, got {a.class_count} and "
            f"{b.class_count} classes"
        )
    check_classes(y, a.class_count)
    return a.class_count


def _attacked(
    both: Sequence[Shards], blocks: Sequence[slice], workers: int
) -> list[tuple[int, np.ndarray, int]]:
    """(which model, bits of the block, passes), block after block; parts are left on disk."""
    calls = [(which, block) for block in blocks for which in range(len(both))]
    for shards in both:
        guarded(partial(getattr, shards, "prepared"))  # once, before processes are forked
    if all(_finished(both[which], block) for which, block in calls):
        workers = 1  # reading needs no processes

    def one(place: int, report: Callable[[float, Any], None]) -> tuple[int, np.ndarray, int]:
        which, block = calls[place]
        shards = both[which]
        x, y = shards.x[block].to(shards.device), shards.y[block].to(shards.device)
        correct = ~guarded(lambda: shards.judge(x, y)).broken.cpu().numpy()
        return which, *shards.run(np.arange(block.start, block.stop), correct)

    try:
        return processes.run_here(one, len(calls), workers, lambda *news: None)
    except OutOfTime as late:
        raise OutOfTime(f"{late}; the same command goes on from the finished images") from None


def _finished(shards: Shards, block: slice) -> bool:
    """Whether every attack on a block is on disk."""
    return all(path.exists() for path in shards.paths(np.arange(block.start, block.stop)))
