"""Rows against other libraries' attacks, and rows of whole measurements.

A row of one gradient attack is the attack alone, images in, adversarial images out, on images that the
network gets right, so that no side gains by skipping the others. A row of a measurement is the whole
call of measure(): flags, attacks, judging, evidence, record. Its peer only attacks, so the ratios are
what a user gains, and no more.
"""

from __future__ import annotations

import functools
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.attacks import ATTACKS, Problem, Search, attack_cost
from bench.datasets import Examples
from bench.judge import Judge
from bench.measure.evaluate import Measurement, measure
from bench.measure.request import Precision
from bench.measure.search import Prepared, mixed, prepare, verdict
from bench.protocols import COLUMNS, protocol
from bench.schema import MeasurementFailed, Protocol, Scalar
from bench.streams import Streams
from bench.verify import Verification, check
from tests.speed.networks import Subject, Unavailable, as_they_come, only_right
from tests.speed.peers import MODULES, NOTES, PEER_ATTACKS, library
from tests.speed.report import versus
from tests.speed.timing import Contest, Row, Settings, Side

IMAGES, QUICK_IMAGES = 64, 4
WHOLE_CALL = "measure(): with flags, judging and evidence"


# ---------------------------------------------------------------- one gradient attack


@functools.lru_cache(maxsize=1)
def _exact(subject: Subject) -> Prepared:
    """The searched copy, made once a network, in the warm-up: a measurement makes it once for all."""
    return prepare(subject.model, subject.x[:64])


@functools.lru_cache(maxsize=1)
def _mixed(subject: Subject) -> Prepared:
    """The same in bfloat16, where processor and network bear it; Unavailable with the reason.

    A measurement also audits the copy by PGD-20 on up to 256 images; that is not in here.
    """
    exact = _exact(subject)
    found = mixed(exact, subject.x, subject.y)
    if found.model is exact.model:
        raise Unavailable(found.notes)
    return found


class Mode(NamedTuple):
    """A way in which ours does a column's attack."""

    note: str
    changed: dict[str, Scalar]  # of the column's parameters
    prepared: Callable[[Subject], Prepared] = _exact


AS_IT_IS = {"ours": Mode("", {})}
# As the peers do it, and as the column asks; each peer runs once for both.
BOTH = {
    "ours, last iterate": Mode("without dropping", {"iterate": "last"}),
    "ours, any iterate": Mode("the column {column}: broken images leave", {"iterate": "any"}),
}
MIXED = {
    "ours, mixed": Mode(
        "the column {column}; what could be mistaken is judged in float32", {}, _mixed
    )
}


def _attack(
    settings: Settings, *, column: str, modes: Mapping[str, Mode], peers: Mapping[str, float | None]
) -> Contest:
    """A column's attack in our modes against that of the peers; their targets are the last mode's."""
    subject = only_right("resnet18", settings, IMAGES, quick_n=QUICK_IMAGES)
    (spec,) = COLUMNS[column]("linf", 10).attacks
    steps = int(spec.params.get("steps", 1))
    iterated = {k: spec.params[k] for k in ("steps", "relative_step")} if steps > 1 else {}

    def ours(mode: Mode, **fewer: Scalar) -> Tensor:
        """As a measurement runs it: its streams, a prepared copy, verdicts by the judge."""
        searched = mode.prepared(subject)
        near = torch.zeros(len(subject), dtype=torch.bool)
        search = Search(rows=64, verdict=verdict(searched, Judge(subject.model), near))
        streams = Streams.for_images(subject.x, 0).at(spec.name)
        problem = Problem(searched.model, subject.x, subject.y, subject.threat, streams, search)
        return ATTACKS[spec.name].function(problem, **(spec.params | mode.changed | fewer))

    side = partial(Side, forward_passes=3.0 * steps * len(subject), broken=subject.broken)
    sides, absent = [], []
    for name, mode in modes.items():
        mode.prepared(subject)  # says why where it is refused
        short = partial(ours, mode, steps=1) if steps > 1 and mode.prepared is _exact else None
        note = mode.note.format(column=column)
        sides.append(side(name=name, run=partial(ours, mode), note=note, warm_up=short))
    for peer in peers:
        try:
            library(MODULES[peer])
        except Unavailable as error:
            absent.append(f"{peer}: {error}")
            continue
        run = partial(
            PEER_ATTACKS[peer, column], subject.model, subject.x, subject.y, subject.threat
        )
        sides.append(
            side(
                name=peer, run=partial(run, **iterated), note=NOTES[peer] if iterated else "",
                warm_up=partial(run, **iterated | {"steps": 1}) if iterated else None,
                version=importlib.metadata.version(peer),
            )
        )  # fmt: skip
    last = list(modes)[-1]
    comparisons = [
        versus(other.name, name, peers[other.name] if name == last else None)
        for name in modes
        for other in sides[len(modes) :]
    ]
    return Contest(subject.model, subject.x, sides, comparisons, absent)


# ---------------------------------------------------------------- whole measurements


def measured(
    subject: Subject, protocol: Protocol, workers: int, precision: Precision = "float32"
) -> Measurement:
    """A whole measurement with our engine. Raises MeasurementFailed where its record is a failure."""
    found = measure(
        subject.model, subject.x, subject.y, threat=subject.threat, protocol=protocol,
        engine="ours", workers=workers, precision=precision,
    )  # fmt: skip
    if found.record.failure is not None:
        raise MeasurementFailed(found.record.failure)
    return found


def _fallen(found: Measurement | Verification) -> np.ndarray:
    """(n,) bool: the images that no column leaves standing."""
    return ~found.record.worst_case_standing


def _passes(protocol: Protocol, n: int) -> float:
    return n * sum(attack_cost(spec) for column in protocol.columns for spec in column.attacks)


def _autoattack(
    settings: Settings, *, network: str, n: int, quick_n: int, target: float | None,
    precision: Precision = "float32",
) -> Contest:  # fmt: skip
    subject = as_they_come(network, settings, n, quick_n=quick_n)
    standard = protocol("autoattack")
    side = partial(
        Side, forward_passes=_passes(standard, len(subject)),
        warm_up=partial(subject.broken, subject.x),
    )  # fmt: skip
    ours = side(
        name="ours", run=partial(measured, subject, standard, settings.threads, precision),
        note=f"{WHOLE_CALL}; {settings.threads} workers", broken=_fallen,
    )  # fmt: skip
    attack = PEER_ATTACKS["pyautoattack", "autoattack"]
    peer = side(
        name="pyautoattack",
        run=partial(attack, subject.model, subject.x, subject.y, subject.threat),
        note="its own driver, one batch, seed 0; torch threads, one process",
        version=importlib.metadata.version("pyautoattack"), broken=subject.broken,
    )  # fmt: skip
    comparisons = [versus("pyautoattack", "ours", target)]
    return Contest(subject.model, subject.x, (ours, peer), comparisons)


def _verify(settings: Settings, *, network: str) -> Contest:
    """Re-proving every broken bit of a record, against attacking again (without a sample of it)."""
    subject = as_they_come(network, settings, 200, quick_n=4)
    standard = protocol("standard")
    attack = functools.partial(measured, subject, standard, settings.threads)
    made: list[Measurement] = []  # of the warm-up; what is proven

    def prove() -> Verification:
        record = made[0].record
        data = Examples("unnamed", "", subject.x, subject.y, record.card.class_count)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "evidence.npz"
            path.write_bytes(made[0].evidence)
            found = check(record, subject.model, data, evidence.from_bytes(path.read_bytes()))
        if not found.proven:
            raise MeasurementFailed("; ".join(found.problems))
        return found

    again = Side(
        "attacking again", attack, _passes(standard, len(subject)),
        f"protocol standard, {WHOLE_CALL}", lambda: made.append(attack()), broken=_fallen,
    )  # fmt: skip
    proving = Side(
        "proving", prove, len(subject) * (1.0 + len(standard.columns)),
        "verify.check(): evidence read, every broken bit judged again", broken=_fallen,
    )  # fmt: skip
    comparisons = [versus(again.name, proving.name, 300)]
    return Contest(subject.model, subject.x, (again, proving), comparisons)


def _workers(settings: Settings) -> Contest:
    subject = as_they_come("cnn-a-cifar10", settings, 512, quick_n=8)
    standard = protocol("autoattack")

    def one() -> Measurement:
        torch.set_num_threads(1)
        try:
            return measured(subject, standard, 1)
        finally:
            torch.set_num_threads(settings.threads)

    sides = [
        Side(
            name, run, _passes(standard, len(subject)), f"{WHOLE_CALL}; one torch thread each",
            partial(subject.broken, subject.x), broken=_fallen,
        )
        for name, run in (
            ("one worker", one),
            ("two workers", partial(measured, subject, standard, 2)),
        )
    ]  # fmt: skip
    return Contest(subject.model, subject.x, sides, [versus("one worker", "two workers", 1.8)])


# ---------------------------------------------------------------- the rows


_SMALL = {"network": "cnn-a", "n": 200, "quick_n": 4}
_LARGE = {"network": "resnet18", "n": 16, "quick_n": 1}
_PROVING = "re-proving the broken bits of a record"
# name: what, repetitions, how it is made ready
_ROWS: dict[str, tuple[str, int, Callable[..., Contest], dict[str, object]]] = {
    "fgsm-resnet18": (
        "FGSM at 8/255", 5, _attack,
        {"column": "fgsm", "modes": AS_IT_IS, "peers": {"torchattacks": 1.2, "foolbox": None}},
    ),
    "pgd20-resnet18": (
        "PGD-20 at 8/255, steps of eps/4, uniform start, cross-entropy", 5, _attack,
        {"column": "pgd20", "modes": BOTH,
         "peers": {"torchattacks": 2.5, "foolbox": None, "adv-lib": 2.5}},
    ),
    "cw-resnet18": (
        "margin PGD-100 at 8/255, steps of eps/4, uniform start", 5, _attack,
        {"column": "cw", "modes": BOTH, "peers": {"foolbox": None, "adv-lib": 2.5}},
    ),
    "fgsm-resnet18-mixed": (
        "FGSM at 8/255, ours searching in bfloat16", 5, _attack,
        {"column": "fgsm", "modes": MIXED, "peers": {"torchattacks": 3.5}},
    ),
    "pgd20-resnet18-mixed": (
        "PGD-20 at 8/255, ours searching in bfloat16", 5, _attack,
        {"column": "pgd20", "modes": MIXED, "peers": {"torchattacks": 6.0, "adv-lib": 6.0}},
    ),
    "cw-resnet18-mixed": (
        "margin PGD-100 at 8/255, ours searching in bfloat16", 5, _attack,
        {"column": "cw", "modes": MIXED, "peers": {"adv-lib": 6.0}},
    ),
    "autoattack-resnet18": (
        "AutoAttack standard, ResNet-18 at 8/255", 1, _autoattack, {**_LARGE, "target": 1.5},
    ),
    "autoattack-cnn-a": (
        "AutoAttack standard, CNN-A at 2/255", 3, _autoattack, {**_SMALL, "target": 4.0},
    ),
    "autoattack-digits": (
        "AutoAttack standard, a digits network at 0.15", 3, _autoattack,
        {**_SMALL, "network": "digits", "target": None},
    ),
    "autoattack-resnet18-mixed": (
        "AutoAttack standard, mixed precision, ResNet-18 at 8/255", 1, _autoattack,
        {**_LARGE, "target": 4.0, "precision": "mixed"},
    ),
    "verify-cnn-a": (f"{_PROVING}, CNN-A at 2/255", 3, _verify, {"network": "cnn-a"}),
    "verify-digits": (
        f"{_PROVING}, a digits network at 0.15", 3, _verify, {"network": "digits"},
    ),
    "workers-cnn-a": (
        "two workers against one, AutoAttack standard, CNN-A at 2/255", 3, _workers, {},
    ),
}  # fmt: skip
ROWS = {
    name: Row(what, repetitions, partial(made, **asked))
    for name, (what, repetitions, made, asked) in _ROWS.items()
}
