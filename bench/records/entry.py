"""What the tables need of one record: all but what its own page alone shows.

A record of 1,000 images takes half a millisecond to read and to check, and forty kilobytes of memory;
an entry of it takes eight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from bench.records import store
from bench.records.one_read import sha256_of_bytes
from bench.records.store import Stamp
from bench.reliability.flags import counted_flags
from bench.schema import ModelCard, Protocol, ThreatModel
from bench.schema.packing import bits_of
from bench.schema.record import AttackOutcome, Audited, EvaluationRecord, Flag, Standing

# Fields that are text, a number or nothing, of the same name in a record.
PLAIN = (
    *("id", "dataset", "split", "n", "examples_sha256", "seed"),
    *("engine", "engine_version", "precision", "audit", "created", "failure", "seconds"),
)


@dataclass(frozen=True, eq=False)
class Entry(Standing):
    """A record by its card, its question and the bits standing at the end of every column."""

    path: Path
    sha256: str  # of the file
    id: str
    name: str  # of the card
    weights_sha256: str
    class_count: int  # that its card says, or more where its labels or answers show more
    dataset: str
    split: str
    n: int
    examples_sha256: str
    labels_sha256: str  # of the label vector, however it is packed; empty of a failed record
    threat: ThreatModel
    protocol: Protocol
    protocol_id: str  # hashed once, not once a comparison
    seed: int
    engine: str
    engine_version: str
    precision: str
    audit: str
    created: str
    flags: tuple[Flag, ...]  # as recorded; bench.reliability.flags.reading says what they amount to
    counted: tuple[Flag, ...]  # what its own answers and counts say
    failure: str | None
    seconds: float  # that the measurement took, on the machine of the record
    passes: int  # as passes_of
    columns: tuple[str, ...]  # names, in the order of the record
    bits: bytes  # (n,) of the clean-correct images, then of those standing in every column
    audits: tuple[Audited, ...]
    hits: bytes  # (n,) bits of the images that an audit broke; empty without audits
    card_json: str

    @cached_property
    def card(self) -> ModelCard:
        """Checked when the record was read; made again where it is shown."""
        return ModelCard.model_validate_json(self.card_json)

    @property
    def place(self) -> Path:
        """The path of `<id>.json`, also of a record that failed: what a withdrawal lies beside."""
        return self.path.with_name(f"{self.id}.json")

    @property
    def whole(self) -> EvaluationRecord:
        """The record itself, read from its file. Raises InvalidInput where it is gone or damaged."""
        try:
            status = self.path.stat()
        except OSError:
            return store.read(self.path)  # which says what is wrong
        return _whole(self.path, Stamp(status.st_size, status.st_mtime_ns, status.st_ino))

    @property
    def audit_hits(self) -> np.ndarray:
        return bits_of(self.hits, self.n) if self.hits else np.zeros(self.n, dtype=bool)

    def packed(self, place: int) -> bytes:
        width = -(-self.n // 8)  # bytes
        return self.bits[place * width : (place + 1) * width]


def passes_of(record: EvaluationRecord) -> int:
    """What a measurement cost on any machine: images that its attacks sent forward, and backward.

    Its audits are told apart: they are `audit_passes_of`.
    """
    return _summed(column.outcomes for column in record.columns.values())


def audit_passes_of(record: EvaluationRecord) -> int:
    """The same of the audits of a record."""
    audits = (column.audit for column in record.columns.values())
    return _summed(audit.outcomes for audit in audits if audit is not None)


def directions_of(record: EvaluationRecord) -> tuple[int, int]:
    """What passes_of sums: images that its attacks sent forward, and those sent backward."""
    outcomes = [outcome for column in record.columns.values() for outcome in column.outcomes]
    return sum(o.forward_passes for o in outcomes), sum(o.backward_passes for o in outcomes)


def _summed(columns: Iterable[Iterable[AttackOutcome]]) -> int:
    return sum(o.forward_passes + o.backward_passes for outcomes in columns for o in outcomes)


def cost_of(record: EvaluationRecord) -> str:
    """Passes an image and a standing image, those of audits, seconds: what no machine changes first."""
    if record.failure is not None:
        return f"{record.seconds:,.0f} s"
    standing = record.worst_case_count
    *passes, seconds = cost_texts(passes_of(record), record.n, standing, record.seconds)
    more = [f"{audit_passes_of(record):,} passes of audits"] if record.audits else []
    return ", ".join([*passes, *more, seconds])


def passes_a_standing_image(passes: int, standing: int) -> float | None:
    """The passes spent over the images that stand in the end; None where none does."""
    return passes / standing if standing else None


def cost_texts(passes: int, n: int, standing: int, seconds: float) -> tuple[str, str, str]:
    """`1,234 passes an image`, `2,345 a standing image`, `12 s`: what no machine changes first."""
    each = passes_a_standing_image(passes, standing)
    stands = "no image stands" if each is None else f"{each:,.0f} a standing image"
    return f"{passes / n:,.0f} passes an image", stands, f"{seconds:,.0f} s"


@lru_cache(maxsize=16)
def _whole(path: Path, stamp: Stamp) -> EvaluationRecord:
    return store.read(path)


def _classes(record: EvaluationRecord) -> int:
    """How many classes there are at least: fewer on a card would pass off weaker attacks as ours."""
    shown = max(record.label_array.max(), record.clean_prediction_array.max())
    return max(record.card.class_count, int(shown) + 1)


def read(path: Path) -> Entry:
    """What the tables need of the record at a path. Raises InvalidInput as store.read."""
    record, sha256 = store.read_hashed(path)
    failed = record.failure is not None
    return Entry(
        path=path,
        sha256=sha256,
        labels_sha256="" if failed else sha256_of_bytes(record.label_array.tobytes()),
        name=record.card.name,
        weights_sha256=record.card.weights_sha256,
        class_count=record.card.class_count if failed else _classes(record),
        threat=record.threat,
        protocol=record.protocol,
        protocol_id=record.protocol.protocol_id,
        flags=record.flags,
        counted=counted_flags(record),
        audits=() if failed else record.audits,
        hits=np.packbits(record.audit_hits).tobytes() if record.audits else b"",
        passes=passes_of(record),
        columns=() if failed else tuple(record.columns),
        bits=b"" if failed else b"".join(map(record.packed, range(1 + len(record.columns)))),
        card_json=record.card.model_dump_json(),
        **{name: getattr(record, name) for name in PLAIN},
    )
