"""Published numbers of other people's models, never measured here: which may stand beside ours.

A percentage keeps the digits of its source. The only thing added is Wilson's interval, where the
number of images behind it is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated

from pydantic import Field, model_validator

from bench.catalogue import DATASETS
from bench.notation import plain
from bench.schema import Name, Text, ThreatModel
from bench.schema.frozen import Frozen
from bench.stats.intervals import Interval, wilson

MARK = "published, not measured here"
NOT_STATED = "not stated"
LIKELY = "likely: its code defaults to AWP"
AUTOATTACK = "AutoAttack"
# Radii that the field treats as one: 0.031 stands on boards of 8/255, 128/255 on those of 0.5.
SAME_RADIUS = Decimal("0.02")
_IMAGENET_IMAGES = 5000  # RobustBench's subset of the validation images
# Sources that attack all test images, by their own words.
_WHOLE_TEST_SET = ("RobustBench/robustbench", "fra31/auto-attack", "csdongxian/AWP")

Percent = Annotated[Decimal, Field(ge=0, le=100, max_digits=12)]
Key = tuple[str, ThreatModel]  # data set and threat: what published rows have in common
BesideOurs = Mapping[Key, Sequence["PublishedRow"]]


class PublishedRow(Frozen):
    """One published measurement of one model."""

    dataset: Name
    threat: ThreatModel  # as attacked; a board may hold near radii, see SAME_RADIUS
    name: Text  # RobustBench's id, or the training method
    attack: Text  # "AutoAttack", "PGD-20": what `robust` is the accuracy under
    robust: Percent
    clean: Percent | None = None
    best_known: Percent | None = None  # a lower accuracy that others found later
    reported: Percent | None = None  # by the model's authors
    architecture: Text = ""
    method: Text = ""
    awp: bool | None = None  # None: the source does not say
    # Nobody says so, but its training code defaults to AWP. `awp` stays None: what is likely counts as
    # AWP nowhere.
    awp_likely: bool = False
    awp_source: Text = ""  # who says so: repository, script, default and paper of what is likely
    extra_data: bool | None = None
    checkpoint: Text = ""  # "best", "last", "last5_mean", "released"
    forward_passes: int | None = Field(default=None, ge=0)  # of one prediction
    unreliable: bool | None = None  # marked so by the source
    title: Text = ""
    authors: Text = ""
    venue: Text = ""
    link: Text = ""
    source: Text  # repository, commit and file
    notes: Text = ""

    @model_validator(mode="after")
    def _likely_by_a_source(self) -> PublishedRow:
        if self.awp_likely and self.awp is not None:
            raise ValueError("awp_likely: expected only where the source does not state awp")
        if self.awp_likely and not plain(self.awp_source):
            raise ValueError(
                "awp_source: expected where AWP is likely: the repository, the script and its default, "
                "and the paper's arXiv id; got nothing"
            )
        return self

    @property
    def standing(self) -> Decimal:
        """The lowest accuracy known, by which rows under one attack are ordered."""
        return self.robust if self.best_known is None else min(self.robust, self.best_known)

    @property
    def n(self) -> int | None:
        """Test images behind the numbers; None where the source does not say."""
        if not self.source.startswith(_WHOLE_TEST_SET):
            return None
        if self.dataset == "imagenet":
            return _IMAGENET_IMAGES
        return DATASETS[self.dataset].n_test if self.dataset in DATASETS else None

    @cached_property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of `robust`, computed here; None without n, or for a mean."""
        if self.n is None or "mean" in self.checkpoint:
            return None
        return wilson(round(self.n * self.robust / 100), self.n)

    @property
    def texts(self) -> dict[str, str]:
        """What a table says of a row: heading -> text, one plain line each."""
        interval = NOT_STATED if self.n is None else "none"
        if self.interval is not None:
            interval = f"{100 * self.interval.low:.2f} – {100 * self.interval.high:.2f}"
        texts = {
            "model": self.name,
            "AWP": self.awp_text,
            "attack": self.attack,
            "robust": str(self.robust),
            "95 % (computed here)": interval,
            "best known": "" if self.best_known is None else str(self.best_known),
            "clean": "" if self.clean is None else str(self.clean),
            "extra data": _yes_no(self.extra_data),
            "arch": self.architecture,
            "checkpoint": self.checkpoint,
            "n": NOT_STATED if self.n is None else f"{self.n:,}",
            "remark": self.remark,
            "source": self.source,
        }
        return {heading: plain(text, 160) for heading, text in texts.items()}

    @property
    def awp_text(self) -> str:
        """yes, likely, no or not stated."""
        return "likely" if self.awp_likely else _yes_no(self.awp)

    @property
    def remark(self) -> str:
        """What to know before comparing: why AWP is likely, odd radii, doubts, notes."""
        likely = f"AWP {LIKELY} ({self.awp_source})" if self.awp_likely else ""
        eps = f"eps = {self.threat.eps}" if self.threat.eps in ("0.031", "0.50196") else ""
        doubt = "marked unreliable by its source" if self.unreliable else ""
        return "; ".join(filter(None, (likely, doubt, eps, self.notes)))


def _yes_no(value: bool | None) -> str:
    return NOT_STATED if value is None else "yes" if value else "no"


@dataclass(frozen=True)
class Published:
    """All published rows, and a note for each line or file that was skipped."""

    rows: tuple[PublishedRow, ...] = ()
    notes: tuple[str, ...] = ()


def likely_note(rows: Iterable[PublishedRow]) -> str:
    """What the likely AWP of some of these rows means; empty where none of them has any."""
    if not any(row.awp_likely for row in rows):
        return ""
    return f"AWP {LIKELY}, though nobody states it; such a row counts as AWP nowhere."


# ---------------------------------------------------------------- which rows stand together


def beside(rows: Iterable[PublishedRow], ours: Iterable[Key] = ()) -> dict[Key, list[PublishedRow]]:
    """(data set, threat) -> the rows that may be shown there, AutoAttack first, best known first.

    `ours` are the tables to stand beside; rows near none of them gather around the radius that most
    of them use.
    """
    rows = list(rows)
    often = Counter((row.dataset, row.threat) for row in rows)
    keys = [*dict.fromkeys(ours), *(key for key, _ in often.most_common())]
    found: dict[Key, list[PublishedRow]] = {}
    for key in keys:
        mine = [row for row in rows if _near(row, key)]
        if mine and key not in found:
            found[key] = sorted(mine, key=_order)
            rows = [row for row in rows if not _near(row, key)]
    return found


def _near(row: PublishedRow, key: Key) -> bool:
    dataset, threat = key
    if (row.dataset, row.threat.norm) != (dataset, threat.norm):
        return False
    return abs(row.threat.fraction / threat.fraction - 1) <= SAME_RADIUS


def _order(row: PublishedRow) -> tuple[object, ...]:
    return (row.attack != AUTOATTACK, row.attack, -row.standing, row.name, row.checkpoint)
