"""What a row of the benchmark consists of: sides to be timed, comparisons to be made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.records.store import now
from tests.speed.networks import SUBJECTS, Subject
from tests.speed.report import Comparison, Result, SideResult, machine
from tests.speed.timing import Side, Timed, alternate


@dataclass(frozen=True)
class Settings:
    """What is the same for all rows of a run."""

    networks: Path  # the folder with external/ and data/
    threads: int  # of either side: torch threads, or workers of one thread each
    quick: bool = False  # reduced sizes, to see that every row works


@dataclass(frozen=True)
class Contest:
    """A row made ready: everything loaded, nothing timed."""

    n: int  # images
    model: nn.Module  # one forward pass of it on x is the unit of the estimate
    x: Tensor
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
    absent: tuple[str, ...] = ()  # sides that cannot be run, with the reason
    facts: Callable[[Mapping[str, Timed]], dict[str, float | str]] = lambda timed: {}


@dataclass(frozen=True)
class Row:
    """A named line of the benchmark. `prepare` raises Unavailable where something is not here."""

    what: str
    repetitions: int
    prepare: Callable[[Settings], Contest]


def subject(name: str, settings: Settings, n: int, *, quick_n: int) -> Subject:
    """The first n images of a subject as they come, wrong ones included.

    Quick: quick_n images that one step of FGSM breaks, because a robust image takes minutes.
    """
    found = SUBJECTS[name](settings.networks)
    if not settings.quick:
        return found.first(n)
    return easiest(found).first(quick_n)


def correct_subject(name: str, settings: Settings, n: int, *, quick_n: int) -> Subject:
    """The first n images that the network gets right: where every column of a record starts."""
    found = SUBJECTS[name](settings.networks)
    return found.correct().first(quick_n if settings.quick else n)


def easiest(found: Subject) -> Subject:
    """The images that FGSM breaks, of the first 64 that are right."""
    right = found.correct()
    right = right.first(min(64, len(right)))
    x = right.x.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(right.model(x), right.y, reduction="sum")
    (grad,) = torch.autograd.grad(loss, x)
    stepped = (right.x + right.threat.epsilon * grad.sign()).clamp(0, 1)
    with torch.no_grad():
        wrong = right.model(stepped).argmax(1) != right.y
    return Subject(right.model, right.x[wrong], right.y[wrong], right.threat)


def estimate_seconds(contest: Contest, repetitions: int) -> float:
    """Seconds at most, from the fastest of a few passes: as if every image stayed robust."""
    batch, seconds = contest.x[:64], []
    with torch.no_grad():
        for _ in range(4):
            started = time.perf_counter()
            contest.model(batch)
            seconds.append(time.perf_counter() - started)
    per_image = min(seconds) / len(batch)
    runs = [repetitions + (side.warm_up is None) for side in contest.sides]
    passes = sum(s.forward_passes * r for s, r in zip(contest.sides, runs, strict=True))
    return passes * per_image


def run(
    name: str,
    row: Row,
    contest: Contest,
    settings: Settings,
    repetitions: int,
    report: Callable[[str], None],
) -> Result:
    """Times a row and judges what its sides found."""
    timed = alternate(contest.sides, repetitions, report=lambda text: report(f"{name}: {text}"))
    report(f"{name}: judging")
    return Result(
        row=name,
        what=row.what,
        n=contest.n,
        threads=settings.threads,
        repetitions=repetitions,
        quick=settings.quick,
        sides=tuple(_result(side, timed[side.name]) for side in contest.sides),
        comparisons=contest.comparisons,
        facts=contest.facts(timed),
        absent=contest.absent,
        machine=machine(),
        created=now(),
    )


def _result(side: Side, timed: Timed) -> SideResult:
    broken = None
    if side.broken is not None:
        broken = tuple(side.broken(timed.answer).nonzero()[0].tolist())
    return SideResult(
        name=side.name,
        note=side.note,
        version=side.version,
        wall=tuple(round(s, 6) for s in timed.wall),
        cpu=tuple(round(s, 6) for s in timed.cpu),
        broken=broken,
    )
