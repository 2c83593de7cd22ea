"""The record of one measured model: bits an image, from which every count and rate is derived."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from bench.schema.card import ModelCard
from bench.schema.errors import MeasurementFailed
from bench.schema.frozen import Frozen, Name, Scalar, Sha256, Text, content_hash
from bench.schema.packing import (
    INTS,
    as_number,
    bits_of,
    inflated,
    pack_bits,
    packed_bytes,
    unpack_bits,
    unpack_floats,
    unpack_ints,
)
from bench.schema.protocol import AttackSpec, AuditRule, Protocol
from bench.schema.threat import ThreatModel

AuditSize = Literal["sample", "all", "none"]  # how many standing images an audit attacks


class AttackOutcome(Frozen):
    """What one attack did within its column."""

    spec: AttackSpec
    engine: Text  # which implementation ran it, with its version
    attacked: int = Field(ge=0)  # images standing when it started
    broken: int = Field(ge=0)  # images it broke, as judged by the float32 model
    standing: str  # bits (n,): correct and unbroken after this attack
    adversarial_predictions: str  # ints (broken,): predicted class, in image order
    # Distance in the threat's norm, float64.
    largest_perturbation: float = Field(ge=0, allow_inf_nan=False)
    forward_passes: int = Field(default=0, ge=0)  # images sent forward, summed
    backward_passes: int = Field(default=0, ge=0)
    rejected: int = Field(default=0, ge=0)  # claimed examples that the judge did not accept
    # Of the images it broke, how many stay broken when rounded to 256 levels; None: not looked at.
    uint8_survivors: int | None = Field(default=None, ge=0)
    seconds: float = Field(default=0, ge=0)


class AuditOutcome(Frozen):
    """What stronger attacks did to a random sample of the images that a column left standing."""

    sampled: str  # bits (n,)
    outcomes: tuple[AttackOutcome, ...]  # in order, the first on all that were sampled


class ColumnOutcome(Frozen):
    """The outcomes of one column's attacks, in order.

    Where gradients are masked those of its audit follow, on all that stood.
    """

    column_id: str
    outcomes: tuple[AttackOutcome, ...]
    # None, and not in the file: no audit is asked for, or all of its attacks ran.
    audit: AuditOutcome | None = Field(default=None, exclude_if=lambda audit: audit is None)
    # Security curve: floats (n,), the smallest distance at which an image was seen misclassified (0
    # for a clean error, infinity where none was found): an upper bound. None: not measured.
    distances: str | None = None


def drawn(standing: np.ndarray, size: int, *asked: str) -> np.ndarray:
    """(n,) bool: so many of the standing images (n,), which ones being decided by all that is given.

    asked says whose images they are and what was asked; nobody picks the sample.
    """
    places = np.flatnonzero(standing)
    if size >= len(places):
        return standing.copy()
    seed = content_hash([*asked, pack_bits(standing)]).encode()
    order = sorted(places, key=lambda place: hashlib.sha256(b"%s %d" % (seed, place)).digest())
    chosen = np.zeros(len(standing), dtype=bool)
    chosen[order[:size]] = True
    return chosen


def sample(standing: np.ndarray, rule: AuditRule, size: AuditSize, *asked: str) -> np.ndarray:
    """(n,) bool: which of the standing images (n,) an audit of that size attacks, none for "none"."""
    count = int(standing.sum())
    sizes = {"none": 0, "all": count, "sample": rule.size(count)}
    return drawn(standing, sizes[size], *asked)


@dataclass(frozen=True)
class Audited:
    """An audit in numbers: of the images that a column left standing so many were drawn, and broken."""

    column: str
    standing: int
    drawn: int
    hits: int


class Flag(Frozen):
    """A reason to doubt a number, with the values that raised it."""

    name: Name
    message: Text
    values: dict[str, Scalar] = Field(default_factory=dict)


class Standing:
    """Counts and rates of n images, derived from the bits of those correct and those standing."""

    if TYPE_CHECKING:
        n: int
        protocol: Protocol
        columns: Collection[str]  # names
        failure: str | None

        @property
        def audit_hits(self) -> np.ndarray:
            """(n,) bool: left standing by a column and broken in its audit."""

        def packed(self, place: int) -> bytes:
            """Bits (n,) of the clean-correct images (0), or of those standing in column k (k)."""

    def numbers(self) -> list[int]:
        """Each vector of bits as one number: compared and counted in a few steps."""
        return [as_number(self.packed(k), self.n) for k in range(1 + len(self.columns))]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images that are classified correctly, then those standing under each column."""
        return tuple(number.bit_count() for number in self.numbers())

    @property
    def worst_case_count(self) -> int:
        """Images standing under all columns."""
        return functools.reduce(int.__and__, self.numbers()).bit_count()

    @property
    def clean_accuracy(self) -> float:
        return self.counts[0] / self.n

    @property
    def robust_accuracy(self) -> dict[str, float]:
        """Column name -> share of all n images still standing, in the order of the protocol."""
        counts = dict(zip(self.columns, self.counts[1:], strict=True))
        return {c.name: counts[c.name] / self.n for c in self.protocol.columns if c.name in counts}

    @property
    def worst_case(self) -> float:
        return self.worst_case_count / self.n

    @property
    def clean_correct(self) -> np.ndarray:
        """(n,) bool."""
        return bits_of(self.packed(0), self.n)

    def standing(self, column: str) -> np.ndarray:
        """(n,) bool: correct and unbroken after every attack of a column."""
        return bits_of(self.packed(1 + list(self.columns).index(column)), self.n)

    @property
    def worst_case_standing(self) -> np.ndarray:
        """(n,) bool: standing under all columns."""
        return np.logical_and.reduce([self.clean_correct, *map(self.standing, self.columns)])

    @property
    def never_broken(self) -> np.ndarray:
        """(n,) bool: standing under all columns, and not broken in an audit either."""
        return self.worst_case_standing & ~self.audit_hits


class EvaluationRecord(Frozen, Standing):
    """One measured model: per-image answers from which every number of the board is derived."""

    schema_version: Literal[1, 2, 3] = 3  # from 3 on, the file holds a checksum: records/store
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    card: ModelCard
    dataset: Name
    split: Text  # such as "test[0:1000]", official order
    n: int = Field(ge=1, le=10_000_000)
    examples_sha256: Sha256  # of exactly the images and labels used
    threat: ThreatModel
    protocol: Protocol
    seed: int
    engine: Literal["ours", "reference"]  # whose AutoAttack
    engine_version: Text
    precision: Literal["float32", "mixed"] = "float32"
    audit: AuditSize = Field(default="sample", exclude_if=lambda size: size == "sample")
    labels: str = ""  # ints (n,)
    clean_predictions: str = ""  # ints (n,)
    columns: dict[str, ColumnOutcome] = Field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    failure: Text | None = None  # why there are no numbers; such a record is never ranked
    environment: dict[str, str] = Field(default_factory=dict)
    created: str = ""  # UTC, ISO 8601
    seconds: float = Field(default=0, ge=0)
    evidence_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationRecord:
        """A record that contradicts itself does not load."""
        if self.failure is not None:
            return self
        missing = {c.name: c.column_id for c in self.protocol.columns}
        if missing != {name: c.column_id for name, c in self.columns.items()}:
            raise ValueError("the columns are not those of the protocol")
        asked = {c.name: c for c in self.protocol.columns}
        standing_at_start = as_number(self.packed(0), self.n)
        for name, column in self.columns.items():
            if not column.outcomes:
                raise ValueError(f"{name}: no attack ran")
            ran, rule = tuple(o.spec for o in column.outcomes), asked[name].audit
            stronger = rule.attacks if rule else ()
            if ran not in (asked[name].attacks, (*asked[name].attacks, *stronger)):
                raise ValueError(f"{name}: the attacks that ran are not those of the protocol")
            self._follows(name, column.outcomes, standing_at_start)
            self._audit_fits(name, column, rule, all_ran=ran != asked[name].attacks)
            if column.distances is not None:
                unpack_floats(column.distances, self.n)
        return self

    def _follows(self, name: str, outcomes: Sequence[AttackOutcome], before: int) -> None:
        """Raises ValueError where outcomes do not go on from the bits before them."""
        for outcome in outcomes:
            after = as_number(packed_bytes(outcome.standing, self.n), self.n)
            if after & ~before:
                raise ValueError(f"{name}: an image stands again after {outcome.spec.name}")
            broken = (before & ~after).bit_count()
            if outcome.broken != broken or outcome.attacked != before.bit_count():
                raise ValueError(f"{name}: the counts of {outcome.spec.name} are not its bits")
            inflated(outcome.adversarial_predictions, broken, INTS)
            before = after

    def _audit_fits(
        self, name: str, column: ColumnOutcome, rule: AuditRule | None, *, all_ran: bool
    ) -> None:
        """Raises ValueError where an audit is not the one that was asked for."""
        wanted = rule is not None and not all_ran and self.audit != "none"
        if column.audit is None or rule is None or not wanted:
            if wanted or column.audit is not None:
                raise ValueError(f"{name}: it {'lacks its' if wanted else 'has an'} audit")
            return
        if tuple(o.spec for o in column.audit.outcomes) != rule.attacks:
            raise ValueError(f"{name}: the attacks of its audit are not those of the protocol")
        standing = unpack_bits(column.outcomes[-1].standing, self.n)
        sampled = unpack_bits(column.audit.sampled, self.n)
        if not np.array_equal(sampled, self.sample(standing, rule, column.column_id)):
            raise ValueError(f"{name}: the sample of its audit is not the one that was to be drawn")
        start = as_number(packed_bytes(column.audit.sampled, self.n), self.n)
        self._follows(f"{name}, audit", column.audit.outcomes, start)

    def sample(self, standing: np.ndarray, rule: AuditRule, column_id: str) -> np.ndarray:
        """(n,) bool: which of the standing images (n,) an audit attacks."""
        return sample(
            standing, rule, self.audit, self.card.weights_sha256, self.examples_sha256, column_id
        )

    @property
    def label_array(self) -> np.ndarray:
        """(n,) int64."""
        return self._per_image(self.labels)

    @property
    def clean_prediction_array(self) -> np.ndarray:
        """(n,) int64."""
        return self._per_image(self.clean_predictions)

    def _per_image(self, packed: str) -> np.ndarray:
        """(n,) int64; MeasurementFailed where the measurement failed and there are none."""
        if self.failure is not None and not packed:
            raise MeasurementFailed(f"this record has no numbers: {self.failure}")
        return unpack_ints(packed, self.n)

    @property
    def clean_correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.clean_prediction_array == self.label_array

    def packed(self, place: int) -> bytes:
        if not place:
            return np.packbits(self.clean_correct).tobytes()
        column = list(self.columns.values())[place - 1]
        return packed_bytes(column.outcomes[-1].standing, self.n)

    @property
    def audits(self) -> tuple[Audited, ...]:
        """The audits that were made, in numbers."""
        return tuple(
            Audited(
                name, column.outcomes[-1].attacked - column.outcomes[-1].broken,
                column.audit.outcomes[0].attacked, sum(o.broken for o in column.audit.outcomes),
            )
            for name, column in self.columns.items() if column.audit is not None
        )  # fmt: skip

    @property
    def audit_hits(self) -> np.ndarray:
        hits = np.zeros(self.n, dtype=bool)
        for column in self.columns.values():
            if column.audit is not None:
                last = column.audit.outcomes[-1].standing
                hits |= unpack_bits(column.audit.sampled, self.n) & ~unpack_bits(last, self.n)
        return hits

    def adversarial_predictions(self, column: str) -> np.ndarray:
        """(n,) int64: predicted class of the verified adversarial image; -1 where none."""
        return self._predicted(self.columns[column].outcomes, self.clean_correct)

    def audit_predictions(self, column: str) -> np.ndarray:
        """The same of the images that an audit broke."""
        audit = self.columns[column].audit
        if audit is None:
            return np.full(self.n, -1, dtype=np.int64)
        return self._predicted(audit.outcomes, unpack_bits(audit.sampled, self.n))

    def _predicted(self, outcomes: Sequence[AttackOutcome], before: np.ndarray) -> np.ndarray:
        answer = np.full(self.n, -1, dtype=np.int64)
        for outcome in outcomes:
            after = unpack_bits(outcome.standing, self.n)
            answer[before & ~after] = unpack_ints(outcome.adversarial_predictions, outcome.broken)
            before = after
        return answer
