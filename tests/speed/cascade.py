"""Rows of whole attacks on one network: the published AutoAttack, our column of it, and the cascade.

Each side says how many images stand, and what that cost in passes and in seconds. The passes of all
three are counted by one counter, around the model that is searched.
"""

from __future__ import annotations

import importlib.metadata
from functools import partial
from typing import NamedTuple

from torch import Tensor

from bench.judge import Watched
from bench.measure.evaluate import Measurement
from bench.records.entry import passes_of
from tests.speed.attacks import WHOLE_CALL, Whole
from tests.speed.report import versus
from tests.speed.sides import MODULES, PEER_ATTACKS, Subject, library
from tests.speed.timing import Contest, Row, Settings, Side

PEER, PUBLISHED, OURS, CASCADE = "pyautoattack", "autoattack", "our autoattack", "our cascade"


class Counted(NamedTuple):
    """What a peer answers, and what it cost."""

    x_adv: Tensor  # (N, C, H, W)
    passes: int


def counted(subject: Subject) -> Counted:
    """The published AutoAttack through our counter, which copies and compares its images each time."""
    watched = Watched(subject.model).eval()
    x_adv = PEER_ATTACKS[PEER, PUBLISHED](watched, subject.x, subject.y, subject.threat)
    return Counted(x_adv, watched.forward_passes + watched.backward_passes)


def _spent(found: Measurement) -> int:
    return passes_of(found.record)


def _contest(settings: Settings, network: str, n: int, quick_n: int) -> Contest:
    library(MODULES[PEER])  # says why where it is not here
    sides = []
    for name, asked in ((OURS, PUBLISHED), (CASCADE, "cascade")):
        whole = Whole(settings, network, n, quick_n, asked)
        unaudited = ", without an audit" if whole.audit == "none" else ""
        note = f"{WHOLE_CALL}{unaudited}; {settings.threads} workers; passes of its attacks alone"
        run = partial(whole.measured, settings.threads)
        sides.append(whole.side(name, run, note, passes=_spent))
    s, (ours, cascade) = whole.subject, sides
    peer = Side(
        PEER, partial(counted, s), ours.forward_passes, warm_up=ours.warm_up,
        note="its own driver, one batch, seed 0; torch threads, one process; passes with its checks",
        version=importlib.metadata.version(PEER),
        broken=lambda found: s.broken(found.x_adv), passes=lambda found: found.passes,
    )  # fmt: skip
    comparisons = [versus(PEER, OURS), versus(PEER, CASCADE), versus(OURS, CASCADE)]
    return Contest(s.model, s.x, (peer, ours, cascade), comparisons)


_WHAT = "AutoAttack standard, published and ours, and the cascade"
ROWS = {
    "cascade-digits": Row(
        f"{_WHAT}, a digits network at 0.15", 3,
        partial(_contest, network="digits", n=200, quick_n=4),
    ),
    "cascade-cnn-a": Row(
        f"{_WHAT}, CNN-A at 2/255", 1, partial(_contest, network="cnn-a", n=200, quick_n=4)
    ),
    "cascade-resnet18": Row(
        f"{_WHAT}, ResNet-18 at 8/255", 1, partial(_contest, network="resnet18", n=16, quick_n=1)
    ),
}  # fmt: skip
