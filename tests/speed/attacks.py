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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.attacks import ATTACKS, Problem, Search, attack_cost
from bench.datasets import Examples
from bench.judge import Judge
from bench.measure.audits import audited_columns
from bench.measure.evaluate import Measurement, measure
from bench.measure.request import Precision
from bench.measure.search import Prepared, mixed, prepare, verdict
from bench.protocols import COLUMNS, protocol
from bench.schema import MeasurementFailed, Protocol, Scalar
from bench.schema.record import AuditSize
from bench.streams import Streams
from bench.verify import Verification, check
from tests.speed.report import versus
from tests.speed.sides import MODULES, NOTES, PEER_ATTACKS, SUBJECTS, Subject, as_they_come, library
from tests.speed.timing import Contest, Row, Settings, Side, Unavailable

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

    note: str = ""
    changed: Mapping[str, Scalar] = {}  # of the column's parameters
    prepared: Callable[[Subject], Prepared] = _exact


AS_IT_IS = {"ours": Mode()}
# As the peers do it, and as the column asks; each peer runs once for both.
BOTH = {
    "ours, last iterate": Mode("without dropping", {"iterate": "last"}),
    "ours, any iterate": Mode("the column {column}: broken images leave", {"iterate": "any"}),
}
MIXED = {
    "ours, mixed": Mode(
        "the column {column}; what could be mistaken is judged in float32", prepared=_mixed
    )
}


def _attack(
    settings: Settings, column: str, modes: Mapping[str, Mode], peers: Mapping[str, float | None]
) -> Contest:
    """A column's attack in our modes against that of the peers; their targets are the last mode's."""
    right = SUBJECTS["resnet18"](settings.networks).right()
    subject = right.first(QUICK_IMAGES if settings.quick else IMAGES)
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
        return ATTACKS[spec.name].function(problem, **{**spec.params, **mode.changed, **fewer})

    side = partial(Side, forward_passes=3.0 * steps * len(subject), broken=subject.broken)
    sides, comparisons, absent = [], [], []
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
    *_, last = modes
    for name in modes:
        for other in sides[len(modes) :]:
            hoped = peers[other.name] if name == last else None
            comparisons.append(versus(other.name, name, hoped))
    return Contest(subject.model, subject.x, sides, comparisons, absent)


# ---------------------------------------------------------------- whole measurements


class Whole:
    """Measurements of the first images of a subject under a protocol, as sides of a row."""

    def __init__(
        self, settings: Settings, network: str, n: int, quick_n: int,
        asked: Protocol | str = "autoattack",
    ) -> None:  # fmt: skip
        self.subject = as_they_come(network, settings, n, quick_n=quick_n)
        self.protocol = protocol(asked) if isinstance(asked, str) else asked
        # The search is timed: an audit is told apart, and costs what its attacks cost.
        self.audit: AuditSize = "none" if audited_columns(self.protocol) else "sample"
        self.passes = len(self.subject) * sum(
            attack_cost(spec) for column in self.protocol.columns for spec in column.attacks
        )

    def measured(self, workers: int, precision: Precision = "float32") -> Measurement:
        """With our engine. Raises MeasurementFailed where its record is a failure."""
        s = self.subject
        found = measure(
            s.model, s.x, s.y, threat=s.threat, protocol=self.protocol, engine="ours",
            workers=workers, precision=precision, audit=self.audit,
        )  # fmt: skip
        if found.record.failure is not None:
            raise MeasurementFailed(found.record.failure)
        return found

    def side(self, name: str, run: Callable[[], Any], note: str, **more: Any) -> Side:
        """A side that breaks what no column leaves standing, with a pass of the judge to warm up."""
        usual = {
            "forward_passes": self.passes, "broken": _fallen,
            "warm_up": partial(self.subject.broken, self.subject.x),
        }  # fmt: skip
        return Side(name, run, note=note, **{**usual, **more})


def _fallen(found: Measurement | Verification) -> np.ndarray:
    """(n,) bool: the images that no column leaves standing."""
    return ~found.record.worst_case_standing


def _autoattack(
    settings: Settings, network: str, n: int, quick_n: int, target: float | None,
    precision: Precision = "float32",
) -> Contest:  # fmt: skip
    whole = Whole(settings, network, n, quick_n)
    library(MODULES["pyautoattack"])  # says why where it is not here
    s, attack = whole.subject, PEER_ATTACKS["pyautoattack", "autoattack"]
    ours = whole.side(
        "ours", partial(whole.measured, settings.threads, precision),
        f"{WHOLE_CALL}; {settings.threads} workers",
    )  # fmt: skip
    peer = whole.side(
        "pyautoattack", partial(attack, s.model, s.x, s.y, s.threat),
        "its own driver, one batch, seed 0; torch threads, one process",
        version=importlib.metadata.version("pyautoattack"), broken=s.broken,
    )  # fmt: skip
    return Contest(s.model, s.x, (ours, peer), [versus("pyautoattack", "ours", target)])


def _verify(settings: Settings, network: str) -> Contest:
    """Re-proving every broken bit of a record, against attacking again (without a sample of it)."""
    whole = Whole(settings, network, 200, 4, "standard")
    made: list[Measurement] = []  # of the warm-up; what is proven

    def attack() -> Measurement:
        return whole.measured(settings.threads)

    def prove() -> Verification:
        record, s = made[0].record, whole.subject
        data = Examples("unnamed", "", s.x, s.y, record.card.class_count)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "evidence.npz"
            path.write_bytes(made[0].evidence)
            found = check(record, s.model, data, evidence.from_bytes(path.read_bytes()))
        if not found.proven:
            raise MeasurementFailed("; ".join(found.problems))
        return found

    again = whole.side(
        "attacking again", attack, f"protocol standard, {WHOLE_CALL}",
        warm_up=lambda: made.append(attack()),
    )  # fmt: skip
    proving = whole.side(
        "proving", prove, "verify.check(): evidence read, every broken bit judged again",
        forward_passes=len(whole.subject) * (1.0 + len(whole.protocol.columns)), warm_up=None,
    )  # fmt: skip
    s = whole.subject
    return Contest(s.model, s.x, (again, proving), [versus(again.name, proving.name, 300)])


def _workers(settings: Settings) -> Contest:
    whole = Whole(settings, "cnn-a-cifar10", 512, 8)

    def one() -> Measurement:
        torch.set_num_threads(1)
        try:
            return whole.measured(1)
        finally:
            torch.set_num_threads(settings.threads)

    note = f"{WHOLE_CALL}; one torch thread each"
    runs = (("one worker", one), ("two workers", partial(whole.measured, 2)))
    first, second = (whole.side(name, run, note) for name, run in runs)
    comparisons = [versus(first.name, second.name, 1.8)]
    return Contest(whole.subject.model, whole.subject.x, (first, second), comparisons)


# ---------------------------------------------------------------- the rows


_PROVING = "re-proving the broken bits of a record"
_large = partial(_autoattack, network="resnet18", n=16, quick_n=1)
_small = partial(_autoattack, n=200, quick_n=4)
ROWS = {
    "fgsm-resnet18": Row(
        "FGSM at 8/255", 5,
        partial(_attack, column="fgsm", modes=AS_IT_IS,
                peers={"torchattacks": 1.2, "foolbox": None}),
    ),
    "pgd20-resnet18": Row(
        "PGD-20 at 8/255, steps of eps/4, uniform start, cross-entropy", 5,
        partial(_attack, column="pgd20", modes=BOTH,
                peers={"torchattacks": 2.5, "foolbox": None, "adv-lib": 2.5}),
    ),
    "cw-resnet18": Row(
        "margin PGD-100 at 8/255, steps of eps/4, uniform start", 5,
        partial(_attack, column="cw", modes=BOTH, peers={"foolbox": None, "adv-lib": 2.5}),
    ),
    "fgsm-resnet18-mixed": Row(
        "FGSM at 8/255, ours searching in bfloat16", 5,
        partial(_attack, column="fgsm", modes=MIXED, peers={"torchattacks": 3.5}),
    ),
    "pgd20-resnet18-mixed": Row(
        "PGD-20 at 8/255, ours searching in bfloat16", 5,
        partial(_attack, column="pgd20", modes=MIXED,
                peers={"torchattacks": 6.0, "adv-lib": 6.0}),
    ),
    "cw-resnet18-mixed": Row(
        "margin PGD-100 at 8/255, ours searching in bfloat16", 5,
        partial(_attack, column="cw", modes=MIXED, peers={"adv-lib": 6.0}),
    ),
    "autoattack-resnet18": Row(
        "AutoAttack standard, ResNet-18 at 8/255", 1, partial(_large, target=1.5),
    ),
    "autoattack-cnn-a": Row(
        "AutoAttack standard, CNN-A at 2/255", 3, partial(_small, network="cnn-a", target=4.0),
    ),
    "autoattack-digits": Row(
        "AutoAttack standard, a digits network at 0.15", 3,
        partial(_small, network="digits", target=None),
    ),
    "autoattack-resnet18-mixed": Row(
        "AutoAttack standard, mixed precision, ResNet-18 at 8/255", 1,
        partial(_large, target=4.0, precision="mixed"),
    ),
    "verify-cnn-a": Row(f"{_PROVING}, CNN-A at 2/255", 3, partial(_verify, network="cnn-a")),
    "verify-digits": Row(
        f"{_PROVING}, a digits network at 0.15", 3, partial(_verify, network="digits"),
    ),
    "workers-cnn-a": Row(
        "two workers against one, AutoAttack standard, CNN-A at 2/255", 3, _workers,
    ),
}  # fmt: skip
