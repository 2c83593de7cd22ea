"""A row: one model in one table, the record that speaks for it, and what it says of every measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.notation import harmless, percent, plain
from bench.records.card_text import awp_text, kept_text, marked, method_text
from bench.records.entry import Entry
from bench.records.selection import CLEAN, WORST_CASE, SeedRange
from bench.reliability.flags import reading, unranking
from bench.schema import ModelCard
from bench.schema.challenge import Challenge
from bench.stats import audit
from bench.stats.intervals import Interval, wilson
from bench.stats.ranks import range_text

STRANGE = "neither measured here nor proven"


@dataclass(frozen=True, eq=False)
class Member:
    """A model of a group before it is ranked: the record that speaks for it, and those beside it."""

    record: Entry
    proven: bool
    known: bool  # proven, or measured here
    strange: bool  # not known, in a folder of which others are: it stands alone
    attacked: Sequence[Entry]  # itself and all proven ones of the same weights, images and ball
    reseeded: Sequence[Entry]  # of those, all that differ in the attack seed alone
    challenges: tuple[Challenge, ...] = ()  # proven, of the same weights, images and ball

    @property
    def best_known(self) -> np.ndarray:
        """(n,) bool: standing under all records of these weights and all that others handed in."""
        standing = np.logical_and.reduce([record.never_broken for record in self.attacked])
        for challenge in self.challenges:
            standing &= ~challenge.broken_bits
        return standing

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it has no rank: the names of flags, or that nothing vouches for it."""
        return (*unranking(self.record), *([STRANGE] if self.strange else []))


@dataclass(frozen=True, eq=False)
class Row:
    """One model in one table: the record that speaks for it, and where it ranks."""

    rank: int | None  # 1-based; rows with as many images standing share it; None: unranked
    member: Member
    # The places that the tests leave open; None: unranked.
    rank_range: tuple[int, int] | None = None
    seed_range: SeedRange | None = None  # None: attacked from one seed alone

    @property
    def record(self) -> Entry:
        """What speaks for it; record.whole is all of it, read from its file."""
        return self.member.record

    @property
    def attacked(self) -> Sequence[Entry]:
        """Itself and all proven ones of the same weights, images and ball."""
        return self.member.attacked

    @property
    def challenges(self) -> tuple[Challenge, ...]:
        """Proven challenges of the same weights, images and ball, oldest first."""
        return self.member.challenges

    @property
    def proven(self) -> bool:
        """Whether our list holds its record as proven."""
        return self.member.proven

    @property
    def known(self) -> bool:
        """Whether our list holds its record at all: proven, or measured here."""
        return self.member.known

    @property
    def strange(self) -> bool:
        """Whether our list does not hold it, while it holds others of the folder."""
        return self.member.strange

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it has no rank."""
        return self.member.doubts

    @property
    def card(self) -> ModelCard:
        return self.record.card

    @property
    def path(self) -> Path:
        return self.record.path

    @property
    def record_count(self) -> int:
        """How many records best_known rests on."""
        return len(self.attacked)

    @cached_property
    def standing(self) -> dict[str, np.ndarray]:
        """Measure -> (n,) bool: clean, every column, worst case."""
        record = self.record
        columns = {name: record.standing(name) for name in record.columns}
        return {CLEAN: record.clean_correct, **columns, WORST_CASE: record.worst_case_standing}

    @property
    def best_known(self) -> np.ndarray:
        """(n,) bool: standing under this record, its audit, and all proven ones of these weights.

        What others handed in counts too, where it is proven. It moves no rank.
        """
        return self.member.best_known

    @property
    def best_known_basis(self) -> str:
        """`all 3 records and 1 challenge`: what best_known rests on; empty where this record alone."""
        many = [f"all {self.record_count} records"] if self.record_count > 1 else []
        if self.challenges:
            many += [*([] if many else ["this record"]), counted(len(self.challenges), "challenge")]
        return " and ".join(many)

    @property
    def challengers(self) -> str:
        """`A, B`: who handed in what lowered best known, oldest first; empty where nobody did."""
        return ", ".join(dict.fromkeys(plain(each.by, 60) for each in self.challenges))

    @property
    def challenge_text(self) -> str:
        """`challenged by A, B: best known 41.0 %, which moves no rank`; empty where nobody did."""
        if not self.challenges:
            return ""
        known = percent(self.best_known_rate.estimate, self.record.n)
        return f"challenged by {self.challengers}: best known {known} %, which moves no rank"

    @property
    def unranked(self) -> str:
        """`unranked: zero-gradients`: why the row has no rank; empty where it has one."""
        return f"unranked: {', '.join(self.doubts)}" if self.rank is None else ""

    @property
    def rank_text(self) -> str:
        """The rank, or why there is none."""
        return self.unranked or str(self.rank)

    @property
    def range_text(self) -> str:
        return range_text(self.rank_range)

    @cached_property
    def rates(self) -> dict[str, Interval]:
        """Measure -> share of all n images still right, with Wilson's 95 % interval."""
        record = self.record
        measures = (CLEAN, *record.columns, WORST_CASE)
        counts = (*record.counts, record.worst_case_count)
        return {m: wilson(count, record.n) for m, count in zip(measures, counts, strict=True)}

    @property
    def audit_text(self) -> str:
        """What the audits of its record say, in short; empty where its protocol has none."""
        audited = [column for column in self.record.protocol.columns if column.audit is not None]
        if not audited:
            return ""
        if not self.record.audits:
            return "not audited" if self.record.audit == "none" else "AutoAttack on all that stood"
        return "; ".join(map(audit.short, self.record.audits))

    @cached_property
    def best_known_rate(self) -> Interval:
        return wilson(int(self.best_known.sum()), self.record.n)

    @cached_property
    def texts(self) -> dict[str, str]:
        """What every table says about a row besides its rates: heading -> text."""
        record, card = self.record, self.card
        flags = [flag.name for flag in reading(record).flags] + [STRANGE] * self.strange
        return {
            "method": method_text(card),
            "AWP": marked(card, awp_text(card), "awp"),
            "arch": harmless(plain(card.arch or "unregistered", 60)),
            "seed": "" if card.seed is None else str(card.seed),
            "epoch kept": kept_text(card),
            "flags": ", ".join(dict.fromkeys(flags)),
            "engine": f"{record.engine} {plain(record.engine_version, 40)}",
            "precision": record.precision,
            "n": str(record.n),
            "date": harmless(plain(record.created[:10])),
        }


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
