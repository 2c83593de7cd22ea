"""bench landscape: the loss under attack along random directions of weights, point by point."""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cli.arguments import SMALL, answer, confirm, failed
from bench.landscape import curves, record
from bench.landscape.record import Landscape, Part, Point, Setting
from bench.landscape.subject import IMAGES, Subject, opened
from bench.measure import estimate, keeping, processes, sweep
from bench.measure.processes import Report
from bench.notation import aligned, percent
from bench.schema import AttackSpec, BenchError, Column, InvalidInput, Protocol
from bench.sources import checkpoint
from bench.stats.intervals import Interval


def run(a: argparse.Namespace) -> int:
    """Looks at the points that are missing of every checkpoint and prints its curves."""
    alphas = record.alphas_of(a.points, a.reach)
    status, found = 0, []
    for folder in a.checkpoint:
        subject = subject_of(folder, a)
        try:
            landscape, failure = _landscape(subject, alphas, a)
        except BenchError as error:
            status = max(status, failed(error, "" if str(folder) in str(error) else folder))
            continue
        status = max(status, failure)
        found.append(landscape)
    text = "\n\n".join(summary(each, alphas, a.directions) for each in found)
    answer([as_json(each, alphas, a.directions) for each in found], text, as_json=a.json)
    return status


def subject_of(folder: Path, a: argparse.Namespace) -> Subject:
    """What a command line asks of a checkpoint."""
    device = sweep.pick_device(a.device)
    n = IMAGES if a.n is None else a.n
    return Subject(folder, threat=a.threat, n=n, split=a.split, source=a.dataset, device=device)


@dataclass(frozen=True)
class _Task:
    """One point to look at, in this process or another."""

    subject: Subject
    weights_sha256: str  # of the landscape: what the point must be of
    attack: str
    fixed: bool
    anew: bool
    seed: int
    direction: int
    alpha: float


def _landscape(
    subject: Subject, alphas: tuple[float, ...], a: argparse.Namespace
) -> tuple[Landscape, int]:
    if subject.device == "cpu" and checkpoint.read_card(subject.folder).n_parameters < SMALL:
        torch.set_num_threads(1)
    held = opened(subject)
    curves.matrices(held.model)
    if a.batchnorm == "anew":
        curves.batchnorms(held.model)
    spec = record.attack_named(a.attack, held.threat)
    setting = Setting(
        name=held.card.name, weights_sha256=held.card.weights_sha256,
        dataset=next(iter(held.parts.values())).name, images=held.images(), threat=held.threat,
        attack=spec, examples=a.examples, batchnorm=a.batchnorm, seed=a.seed, version=curves.VERSION,
    )  # fmt: skip
    landscape = record.begin(setting, a.out)
    tasks = [
        _Task(
            subject, setting.weights_sha256, a.attack, a.examples == "fixed",
            a.batchnorm == "anew", a.seed, direction, alpha,
        )
        for direction, alpha in curves.places(alphas, a.directions)
        if landscape.point(direction, alpha) is None
    ]  # fmt: skip
    if not tasks:
        return landscape, 0
    path = record.path_of(setting, a.out)
    keeping.refuse_unwritable(path.parent)
    workers = 1 if subject.device.startswith("cuda") else a.workers or processes.cores()
    images = sum(len(part) for part in held.parts.values())
    seconds = seconds_of(held.model, held.parts, spec, images * len(tasks))
    what = f"{setting.name}: {len(tasks)} points, {images:,} images each"
    confirm(seconds / min(workers, len(tasks)), what, yes=a.yes)
    status = 0
    for _, point in processes.run(_run, tasks, workers=workers, label="landscape", quiet=a.json):
        if isinstance(point, BenchError):
            status = max(status, failed(point))
        else:
            landscape = record.keep([point], setting, a.out)
    print(path, file=sys.stderr)
    return landscape, status


def seconds_of(model: Any, parts: Any, spec: AttackSpec, images: int) -> float:
    """At most so many seconds for an attack on so many images, on one process."""
    column = Column(name="landscape", attacks=(spec,))
    x = next(iter(parts.values()))[:64].x
    whole = Protocol(name="landscape", version=1, columns=(column,))
    return estimate.estimate_seconds(model, x, whole, images)


def _run(task: _Task, report: Report) -> Point:
    held = opened(task.subject)
    if held.card.weights_sha256 != task.weights_sha256:
        raise InvalidInput(f"{task.subject.folder} was replaced meanwhile; start again")
    spec = record.attack_named(task.attack, held.threat)
    look = curves.Look(
        held.threat, curves.crafted(spec), fixed=task.fixed, anew=task.anew, seed=task.seed
    )
    made = _made(task.subject, task.attack, task.seed) if task.fixed else None
    where = f"{held.card.name}, direction {task.direction}, alpha {task.alpha:+g}"
    return curves.look_at(
        held.model, held.tensors(task.subject.device), look, direction=task.direction,
        alpha=task.alpha, made=made, tick=lambda share: report(share, where),
    )  # fmt: skip


@functools.lru_cache(maxsize=1)  # made once a process and network
def _made(subject: Subject, attack: str, seed: int) -> dict[Part, Tensor]:
    held = opened(subject)
    craft = curves.crafted(record.attack_named(attack, held.threat))
    look = curves.Look(held.threat, craft, seed=seed)
    return curves.fixed_examples(held.model, held.tensors(subject.device), look)


# ---------------------------------------------------------------- the answer


def summary(found: Landscape, alphas: tuple[float, ...], directions: int) -> str:
    """A table that can be pasted: a line an alpha, means over directions, and the gaps by name."""
    s = found.setting
    parts = [p for p in record.PARTS if p in s.images]
    head = ("alpha", *(f"{p} {what}" for p in parts for what in ("loss", "minus at 0", "error %")))
    rows = [head, *(_row(found, alphas, directions, i) for i in range(len(alphas)))]
    gaps = [
        f"  gap: direction {p.direction}, alpha {p.alpha:+g}: {p.gap}"
        for p in found.points
        if p.gap
    ]
    images = "; ".join(
        f"{part} {image.split} (n = {image.n:,})" for part, image in s.images.items()
    )
    return "\n".join(
        [
            f"{s.name}, {s.dataset} {s.threat}, {s.attack}",
            f"  {images}; examples {s.examples}, BatchNorm {s.batchnorm}, directions {directions}, "
            f"seed {s.seed}",
            *(f"  {line}" for line in aligned(rows, range(len(head)))),
            *gaps,
        ]
    )


def _row(
    found: Landscape, alphas: tuple[float, ...], directions: int, place: int
) -> tuple[str, ...]:
    cells = [f"{alphas[place]:+g}"]
    for part in (p for p in record.PARTS if p in found.setting.images):
        heights = found.heights(part, alphas, directions)
        centre = heights[:, [alphas.index(0.0)]]
        cells += [
            _mean(record.spread(heights[:, place])),
            _mean(record.spread((heights - centre)[:, place]), "+"),
            _errors(found, part, alphas[place], directions),
        ]
    return tuple(cells)


def _mean(value: Interval | None, sign: str = "") -> str:
    """`1.25`, over several directions `1.25 [1.10, 1.40]`; `gap` where nothing is known."""
    if value is None:
        return "gap"
    text = f"{value.estimate:{sign}.3f}"
    if value.low == value.high or value.low == float("-inf"):
        return text
    return f"{text} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"


def _errors(found: Landscape, part: Part, alpha: float, directions: int) -> str:
    """Robust error, percent, over all directions."""
    n = found.setting.images[part].n
    seen = [p.seen[part] for d in range(directions) if (p := found.point(d, alpha)) and p.seen]
    if not seen:
        return "gap"
    return percent(sum(n - s.robust_correct for s in seen) / (n * len(seen)), n)


def as_json(found: Landscape, alphas: tuple[float, ...], directions: int) -> dict[str, Any]:
    """For programs: the setting and the points that were asked for."""
    places = curves.places(alphas, directions)
    points = [p.model_dump(mode="json") for p in found.points if p.place in places]
    return found.setting.model_dump(mode="json") | {"id": found.setting.id, "points": points}
