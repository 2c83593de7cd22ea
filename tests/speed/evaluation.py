"""Rows of whole measurements: AutoAttack standard, re-proving a record, two workers, mixed precision.

Ours is the whole call of measure(): flags, attacks, judging, evidence, record. The peer is its attack
alone, so the ratios are what a user gains, and no more.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import evidence
from bench.attacks import attack_cost
from bench.datasets import Examples
from bench.measure.evaluate import Measurement, measure
from bench.protocols import protocol as named_protocol
from bench.schema import MeasurementFailed, Protocol
from bench.verify import Verification, check
from tests.speed.contest import Contest, Row, Settings, subject
from tests.speed.gradient import broken_images
from tests.speed.networks import Subject, Unavailable
from tests.speed.peers import PEER_ATTACKS, version
from tests.speed.report import Comparison, Target
from tests.speed.timing import Side

WHOLE_CALL = "measure(): with flags, judging and evidence"


def supports(keyword: str) -> bool:
    """Whether measure() takes a keyword."""
    return keyword in inspect.signature(measure).parameters


def measured(
    subject: Subject, protocol: Protocol, *, workers: int, precision: str = "float32"
) -> Measurement:
    """A whole measurement with our engine. Raises MeasurementFailed where its record is a failure."""
    settings: dict[str, Any] = {}
    if supports("workers"):
        settings["workers"] = workers
    if precision != "float32":
        settings["precision"] = precision
    found = measure(
        subject.model, subject.x, subject.y,
        threat=subject.threat, protocol=protocol, engine="ours", **settings,
    )  # fmt: skip
    if found.record.failure is not None:
        raise MeasurementFailed(found.record.failure)
    return found


def measured_side(
    name: str, subject: Subject, protocol: Protocol, *, workers: int, precision: str = "float32"
) -> Side:
    """measure() as a side; broken are the images that no column leaves standing."""
    parallel = f"{workers} workers" if supports("workers") else "torch threads, one process"
    return Side(
        name=name,
        run=partial(measured, subject, protocol, workers=workers, precision=precision),
        forward_passes=_passes(protocol, len(subject)),
        note=f"{WHOLE_CALL}; {parallel}",
        warm_up=partial(broken_images, subject, subject.x),
        broken=lambda found: ~found.record.worst_case_standing,
    )


def _passes(protocol: Protocol, n: int) -> float:
    return n * sum(attack_cost(spec) for column in protocol.columns for spec in column.attacks)


def _needs_precision() -> None:
    if not supports("precision"):
        raise Unavailable("measure() has no keyword precision")


# ---------------------------------------------------------------- AutoAttack


def _autoattack(
    name: str,
    n: int,
    quick_n: int,
    target: float | None,
    precision: str,
    settings: Settings,
) -> Contest:
    if precision != "float32":
        _needs_precision()
    chosen = subject(name, settings, n, quick_n=quick_n)
    standard = named_protocol("autoattack")
    ours = measured_side("ours", chosen, standard, workers=settings.threads, precision=precision)
    peer = Side(
        name="pyautoattack",
        run=partial(
            PEER_ATTACKS["pyautoattack", "autoattack"],
            chosen.model, chosen.x, chosen.y, chosen.threat,
        ),
        forward_passes=_passes(standard, len(chosen)),
        note="its own driver, one batch, seed 0; torch threads, one process",
        warm_up=ours.warm_up,
        version=version("pyautoattack"),
        broken=partial(broken_images, chosen),
    )  # fmt: skip
    comparison = Comparison(
        longer="pyautoattack", shorter="ours",
        target=Target(bound=">=", value=target) if target else None,
    )  # fmt: skip
    return Contest(len(chosen), chosen.model, chosen.x, (ours, peer), (comparison,))


# ---------------------------------------------------------------- verify


def _verify(name: str, n: int, settings: Settings) -> Contest:
    """Re-proving every broken bit of a record, against attacking again (without a sample of it)."""
    chosen = subject(name, settings, n, quick_n=4)
    standard = named_protocol("standard")
    made: list[Measurement] = []  # of the warm-up; what is proven

    def first_time() -> None:
        made.append(measured(chosen, standard, workers=settings.threads))

    def prove() -> Verification:
        record = made[0].record
        data = Examples("unnamed", "", chosen.x, chosen.y, record.card.class_count)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "evidence.npz"
            path.write_bytes(made[0].evidence)
            found = check(record, chosen.model, data, evidence.read(path))
        if not found.proven:
            raise MeasurementFailed("; ".join(found.problems))
        return found

    again = Side(
        name="attacking again",
        run=partial(measured, chosen, standard, workers=settings.threads),
        forward_passes=_passes(standard, len(chosen)),
        note=f"protocol standard, {WHOLE_CALL}",
        warm_up=first_time,
        broken=lambda found: ~found.record.worst_case_standing,
    )
    proving = Side(
        name="proving",
        run=prove,
        forward_passes=len(chosen) * (1.0 + len(standard.columns)),
        note="verify.check(): evidence read, every broken bit judged again",
        broken=lambda found: _proven(found, len(chosen)),
    )
    comparison = Comparison(
        longer=again.name, shorter=proving.name, target=Target(bound=">=", value=300)
    )
    return Contest(len(chosen), chosen.model, chosen.x, (again, proving), (comparison,))


def _proven(found: Verification, n: int) -> np.ndarray:
    """(n,) bool: not standing in the record, all of it proven."""
    assert found.proven and found.record.n == n
    return ~found.record.worst_case_standing


# ---------------------------------------------------------------- workers


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _workers(settings: Settings) -> Contest:
    if not supports("workers"):
        raise Unavailable("measure() has no keyword workers")
    chosen = subject("cnn-a-cifar10", settings, 512, quick_n=8)
    standard = named_protocol("autoattack")

    def one() -> Measurement:
        with _threads(1):
            return measured(chosen, standard, workers=1)

    sides = tuple(
        Side(
            name=name,
            run=run,
            forward_passes=_passes(standard, len(chosen)),
            note=f"{WHOLE_CALL}; one torch thread each",
            warm_up=partial(broken_images, chosen, chosen.x),
            broken=lambda found: ~found.record.worst_case_standing,
        )
        for name, run in (
            ("one worker", one),
            ("two workers", partial(measured, chosen, standard, workers=2)),
        )
    )
    comparison = Comparison(
        longer="one worker", shorter="two workers", target=Target(bound=">=", value=1.8)
    )
    return Contest(len(chosen), chosen.model, chosen.x, sides, (comparison,))


def _autoattack_row(
    name: str, where: str, repetitions: int, n: int, quick_n: int, target: float | None,
    precision: str = "float32",
) -> Row:  # fmt: skip
    searched = "" if precision == "float32" else f", {precision} precision"
    return Row(
        f"AutoAttack standard{searched}, {where}",
        repetitions,
        partial(_autoattack, name, n, quick_n, target, precision),
    )


ROWS: dict[str, Row] = {
    "autoattack-resnet18": _autoattack_row("resnet18", "ResNet-18 at 8/255", 1, 16, 1, 1.5),
    "autoattack-cnn-a": _autoattack_row("cnn-a", "CNN-A at 2/255", 3, 200, 4, 4.0),
    "autoattack-digits": _autoattack_row("digits", "a digits network at 0.15", 3, 200, 4, None),
    "autoattack-resnet18-mixed": _autoattack_row(
        "resnet18", "ResNet-18 at 8/255", 1, 16, 1, 4.0, "mixed"
    ),
    "verify-cnn-a": Row(
        "re-proving the broken bits of a record, CNN-A at 2/255", 3,
        partial(_verify, "cnn-a", 200),
    ),
    "verify-digits": Row(
        "re-proving the broken bits of a record, a digits network at 0.15", 3,
        partial(_verify, "digits", 200),
    ),
    "workers-cnn-a": Row(
        "two workers against one, AutoAttack standard, CNN-A at 2/255", 3, _workers
    ),
}  # fmt: skip
