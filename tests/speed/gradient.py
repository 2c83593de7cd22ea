"""Rows of one gradient attack each: FGSM, PGD-20 and margin PGD-100 ("CW-inf") on a ResNet-18.

The attacks themselves, not a whole measurement: images in, adversarial images out. Only images that
the network gets right are attacked, so no side gains by skipping the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.attacks import ATTACKS, Problem, Search
from bench.attacks.geometry import admissible
from bench.judge import Judge
from bench.measure.search import Prepared, mixed, prepare, verdict
from bench.protocols import COLUMNS, protocol
from bench.schema import AttackSpec, Scalar
from bench.streams import Streams
from tests.speed.contest import Contest, Row, Settings, correct_subject
from tests.speed.networks import Subject, Unavailable
from tests.speed.peers import MODULES, PEER_ATTACKS, library, version
from tests.speed.report import Comparison, Target
from tests.speed.timing import Side

IMAGES, QUICK_IMAGES = 64, 4
ADV_LIB = "any of the iterates 0 to steps - 1, without dropping"
NOTES = {  # how a peer's PGD differs from the loop of the same length
    "torchattacks": "last iterate, without dropping",
    "foolbox": "last iterate, without dropping",
    "adv-lib": ADV_LIB,
}


def _ours(subject: Subject, spec: AttackSpec, prepared: Callable[[Subject], Prepared]) -> Tensor:
    """Our attack as a measurement runs it: its streams, a prepared copy, verdicts by the judge."""
    streams = Streams.for_images(subject.x, 0).at(spec.name)
    searched = prepared(subject)
    near = torch.zeros(len(subject.x), dtype=torch.bool)
    search = Search(rows=64, verdict=verdict(searched, Judge(subject.model), near))
    problem = Problem(searched.model, subject.x, subject.y, subject.threat, streams, search)
    return ATTACKS[spec.name].function(problem, **spec.params)


@functools.lru_cache(maxsize=1)
def _exact(subject: Subject) -> Prepared:
    """The searched copy, made once a network, in the warm-up: a measurement makes it once for all."""
    return prepare(subject.model, subject.x[:64])


@functools.lru_cache(maxsize=1)
def _mixed(subject: Subject) -> Prepared:
    """The same in bfloat16, where processor and network bear it; Unavailable with the reason."""
    exact = _exact(subject)
    found = mixed(exact, subject.x, subject.y)
    if found.model is exact.model:
        raise Unavailable(found.notes)
    return found


def broken_images(subject: Subject, x_adv: Tensor) -> np.ndarray:
    """(n,) bool: inside ball and box, and misclassified by the untouched float32 network."""
    inside = admissible(subject.x, x_adv.detach(), subject.threat, protocol("standard"))
    return (Judge(subject.model)(x_adv.detach(), subject.y).broken & inside).numpy()


def attack_side(
    name: str,
    subject: Subject,
    run: Callable[..., Tensor],
    *,
    steps: int,
    note: str,
    peer: str | None = None,
) -> Side:
    """A side that attacks; run() is the attack, run(steps=1) its warm-up."""
    return Side(
        name=name,
        run=run,
        forward_passes=3.0 * steps * len(subject),
        note=note,
        warm_up=partial(run, steps=1) if steps > 1 else None,
        version=version(peer) if peer else "",
        broken=partial(broken_images, subject),
    )


def peer_sides(
    subject: Subject, attack: str, *, peers: tuple[str, ...], settings: dict[str, Any]
) -> tuple[list[Side], tuple[str, ...]]:
    """The peers that can be imported as sides, and why the others cannot."""
    sides, absent = [], []
    for peer in peers:
        try:
            library(MODULES[peer])
        except Unavailable as error:
            absent.append(f"{peer}: {error}")
            continue
        run = partial(
            PEER_ATTACKS[peer, attack], subject.model, subject.x, subject.y, subject.threat,
            **settings,
        )  # fmt: skip
        note = NOTES[peer] if settings else ""
        steps = int(settings.get("steps", 1))
        sides.append(attack_side(peer, subject, run, steps=steps, note=note, peer=peer))
    return sides, tuple(absent)


def _fgsm(settings: Settings) -> Contest:
    subject = correct_subject("resnet18", settings, IMAGES, quick_n=QUICK_IMAGES)
    (spec,) = COLUMNS["fgsm"]("linf", 10).attacks
    ours = attack_side("ours", subject, partial(_ours, subject, spec, _exact), steps=1, note="")
    peers, absent = peer_sides(subject, "fgsm", peers=("torchattacks", "foolbox"), settings={})
    targets = {"torchattacks": Target(bound=">=", value=1.2)}
    comparisons = tuple(
        Comparison(longer=p.name, shorter="ours", target=targets.get(p.name)) for p in peers
    )
    sides = (ours, *peers)
    return Contest(len(subject), subject.model, subject.x, sides, comparisons, absent)


def _both_modes(column: str, attack: str, peers: tuple[str, ...], settings: Settings) -> Contest:
    """Ours as the peers do it, and ours as the column asks; each peer runs once for both."""
    subject = correct_subject("resnet18", settings, IMAGES, quick_n=QUICK_IMAGES)
    (spec,) = COLUMNS[column]("linf", 10).attacks
    steps = int(spec.params["steps"])

    def ours(iterate: str, *, steps: int = steps) -> Tensor:
        changed: dict[str, Scalar] = {"iterate": iterate, "steps": steps}
        return _ours(subject, AttackSpec(name=spec.name, params=spec.params | changed), _exact)

    last = attack_side(
        "ours, last iterate", subject, partial(ours, "last"), steps=steps, note="without dropping"
    )
    any_iterate = attack_side(
        "ours, any iterate", subject, partial(ours, "any"), steps=steps,
        note=f"the column {column}: broken images leave",
    )  # fmt: skip
    parameters = {"steps": steps, "relative_step": float(spec.params["relative_step"])}
    others, absent = peer_sides(subject, attack, peers=peers, settings=parameters)
    target = Target(bound=">=", value=2.5)
    comparisons = [Comparison(longer=p.name, shorter=last.name) for p in others]
    comparisons += [
        Comparison(
            longer=p.name, shorter=any_iterate.name,
            target=target if p.name in ("torchattacks", "adv-lib") else None,
        )
        for p in others
    ]  # fmt: skip
    sides = (last, any_iterate, *others)
    return Contest(len(subject), subject.model, subject.x, sides, tuple(comparisons), absent)


def _in_mixed_precision(
    column: str, attack: str, peers: tuple[str, ...], target: float, settings: Settings
) -> Contest:
    """A column's attack searched in bfloat16, against the attack of the peers in float32.

    A measurement also audits the copy by PGD-20 on up to 256 images; that is not in here.
    """
    subject = correct_subject("resnet18", settings, IMAGES, quick_n=QUICK_IMAGES)
    (spec,) = COLUMNS[column]("linf", 10).attacks
    _mixed(subject)  # says why where it is refused
    parameters = {k: spec.params[k] for k in ("steps", "relative_step") if "steps" in spec.params}
    others, absent = peer_sides(subject, attack, peers=peers, settings=parameters)
    ours = attack_side(
        "ours, mixed", subject, partial(_ours, subject, spec, _mixed),
        steps=1, note=f"the column {column}; what could be mistaken is judged in float32",
    )  # fmt: skip
    comparisons = tuple(
        Comparison(longer=p.name, shorter=ours.name, target=Target(bound=">=", value=target))
        for p in others
    )
    return Contest(len(subject), subject.model, subject.x, (ours, *others), comparisons, absent)


ROWS: dict[str, Row] = {
    "fgsm-resnet18": Row("FGSM at 8/255", 5, _fgsm),
    "pgd20-resnet18": Row(
        "PGD-20 at 8/255, steps of eps/4, uniform start, cross-entropy",
        5,
        partial(_both_modes, "pgd20", "pgd", ("torchattacks", "foolbox", "adv-lib")),
    ),
    # torchattacks has no PGD on the margin; its CW is the minimum-norm L2 attack, another problem.
    "cw-resnet18": Row(
        "margin PGD-100 at 8/255, steps of eps/4, uniform start",
        5,
        partial(_both_modes, "cw", "margin-pgd", ("foolbox", "adv-lib")),
    ),
    "fgsm-resnet18-mixed": Row(
        "FGSM at 8/255, ours searching in bfloat16",
        5,
        partial(_in_mixed_precision, "fgsm", "fgsm", ("torchattacks",), 3.5),
    ),
    "pgd20-resnet18-mixed": Row(
        "PGD-20 at 8/255, ours searching in bfloat16",
        5,
        partial(_in_mixed_precision, "pgd20", "pgd", ("torchattacks", "adv-lib"), 6.0),
    ),
    "cw-resnet18-mixed": Row(
        "margin PGD-100 at 8/255, ours searching in bfloat16",
        5,
        partial(_in_mixed_precision, "cw", "margin-pgd", ("adv-lib",), 6.0),
    ),
}
