"""What the tables need of one record: all but what its own page alone shows.

A record of 1,000 images takes half a millisecond to read and to check, and forty kilobytes of memory;
an entry of it takes eight.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.records import store
from bench.records.store import Stamp
from bench.reliability.flags import counted_flags
from bench.schema import EvaluationRecord, Flag, ModelCard, Protocol, ThreatModel
from bench.schema.packing import packed_bytes

# Fields that are text, a number or nothing, of the same name in a record.
PLAIN = (
    *("id", "dataset", "split", "n", "examples_sha256", "seed"),
    *("engine", "engine_version", "precision", "created", "failure", "seconds"),
)


@dataclass(frozen=True, eq=False)
class Entry:
    """A record by its card, its question and the bits standing at the end of every column."""

    path: Path
    id: str
    name: str  # of the card
    weights_sha256: str
    dataset: str
    split: str
    n: int
    examples_sha256: str
    threat: ThreatModel
    protocol: Protocol
    protocol_id: str  # hashed once, not once a comparison
    seed: int
    engine: str
    engine_version: str
    precision: str
    created: str
    flags: tuple[Flag, ...]  # as recorded; bench.reliability.flags.reading says what they amount to
    counted: tuple[Flag, ...]  # what its own answers and counts say
    failure: str | None
    seconds: float  # that the measurement took, on the machine of the record
    passes: int  # images sent forward or backward, summed over all attacks
    columns: tuple[str, ...]  # names, in the order of the record
    packed: bytes  # bits (n,) of the clean-correct images, then of those standing in every column
    card_json: str

    @cached_property
    def card(self) -> ModelCard:
        """Checked when the record was read; made again where it is shown."""
        return ModelCard.model_validate_json(self.card_json)

    @property
    def whole(self) -> EvaluationRecord:
        """The record itself, read from its file. Raises InvalidInput where it is gone or damaged."""
        try:
            status = self.path.stat()
        except OSError:
            return store.read(self.path)  # which says what is wrong
        return _whole(self.path, Stamp(status.st_size, status.st_mtime_ns, status.st_ino))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Images that are classified correctly, then those standing under each column."""
        return tuple(number.bit_count() for number in self._numbers())

    @cached_property
    def worst_case_count(self) -> int:
        """Images standing under all columns."""
        return functools.reduce(int.__and__, self._numbers()).bit_count()

    @property
    def clean_accuracy(self) -> float:
        return self.counts[0] / self.n

    @property
    def robust_accuracy(self) -> dict[str, float]:
        """Column name -> share of all n images still standing, in the order of the protocol."""
        counts = dict(zip(self.columns, self.counts[1:], strict=True))
        names = [column.name for column in self.protocol.columns if column.name in counts]
        return {name: counts[name] / self.n for name in names}

    @property
    def worst_case(self) -> float:
        return self.worst_case_count / self.n

    @property
    def clean_correct(self) -> np.ndarray:
        """(n,) bool."""
        return self._bits(0)

    def standing(self, column: str) -> np.ndarray:
        """(n,) bool: correct and unbroken after every attack of a column."""
        return self._bits(1 + self.columns.index(column))

    @property
    def worst_case_standing(self) -> np.ndarray:
        """(n,) bool: standing under all columns."""
        return np.logical_and.reduce([self._bits(k) for k in range(1 + len(self.columns))])

    def _part(self, place: int) -> bytes:
        width = -(-self.n // 8)  # bytes
        return self.packed[place * width : (place + 1) * width]

    def _bits(self, place: int) -> np.ndarray:
        raw = np.frombuffer(self._part(place), dtype=np.uint8)
        return np.unpackbits(raw, count=self.n).astype(bool)

    def _numbers(self) -> list[int]:
        """Each vector of bits as one number: compared and counted in a few steps."""
        spare = -self.n % 8  # bits that fill the last byte
        return [int.from_bytes(self._part(k)) >> spare for k in range(1 + len(self.columns))]


@functools.lru_cache(maxsize=16)
def _whole(path: Path, stamp: Stamp) -> EvaluationRecord:
    return store.read(path)


def entry(record: EvaluationRecord, path: Path) -> Entry:
    """What the tables need of a record that lies at a path."""
    failed = record.failure is not None
    outcomes = [outcome for column in record.columns.values() for outcome in column.outcomes]
    bits = []
    if not failed:
        last = (column.outcomes[-1].standing for column in record.columns.values())
        bits = [np.packbits(record.clean_correct).tobytes()]
        bits += [packed_bytes(standing, record.n) for standing in last]
    return Entry(
        path=path,
        name=record.card.name,
        weights_sha256=record.card.weights_sha256,
        threat=record.threat,
        protocol=record.protocol,
        protocol_id=record.protocol.protocol_id,
        flags=record.flags,
        counted=counted_flags(record),
        passes=sum(o.forward_passes + o.backward_passes for o in outcomes),
        columns=() if failed else tuple(record.columns),
        packed=b"".join(bits),
        card_json=record.card.model_dump_json(),
        **{name: getattr(record, name) for name in PLAIN},
    )
