"""What the tables need of every record, kept in one file so that a start reads only what is new.

A record of 1,000 images takes half a millisecond to read and to check, most of it for what only its
own page shows. An entry holds the rest: the card, the question, the bits standing at the end of every
column. The index is disposable: damaged, missing or of another version of this program, it is made
again from the records.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import results, schema
from bench.results import Collection, Stamp
from bench.schema import EvaluationRecord, Flag, ModelCard, Protocol, ThreatModel

CACHE = Path("var/board")  # where the index and rank ranges lie; may be deleted at any time
# Fields that are text, a number or nothing, of the same name in a record.
_PLAIN = (
    *("id", "dataset", "split", "n", "examples_sha256", "seed"),
    *("engine", "engine_version", "precision", "created", "failure"),
)
# A file that changed so shortly before it was read may change again and keep its stamp.
_SETTLED = 2 * 10**9  # ns


@dataclass(frozen=True, eq=False)
class Entry:
    """One record without what only its own page shows; the fields are those of the record."""

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
    flags: tuple[Flag, ...]
    failure: str | None
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
            return results.read(self.path)  # which says what is wrong
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
    return results.read(path)


def entry(record: EvaluationRecord, path: Path) -> Entry:
    """What the tables need of a record that lies at a path."""
    failed = record.failure is not None
    bits = [] if failed else [record.clean_correct, *map(record.standing, record.columns)]
    return Entry(
        path=path,
        name=record.card.name,
        weights_sha256=record.card.weights_sha256,
        threat=record.threat,
        protocol=record.protocol,
        protocol_id=record.protocol.protocol_id,
        flags=record.flags,
        columns=() if failed else tuple(record.columns),
        packed=b"".join(np.packbits(part).tobytes() for part in bits),
        card_json=record.card.model_dump_json(),
        **{name: getattr(record, name) for name in _PLAIN},
    )


# ---------------------------------------------------------------- a folder of records


def collect(root: Path, cache: Path | None = None) -> Collection[Entry]:
    """Every record under a results folder, as results.collect; only what is new is read.

    cache is a folder for the index; anything in it may be deleted. A file counts as known where its
    size, time and inode are; what could not be read is tried again every time.
    """
    started = time.time_ns()
    found = results.stamps(root)
    file = None if cache is None else _index_file(root, cache)
    known = {} if file is None else _load(file)
    held: dict[str, Entry] = {}

    def read(path: Path, below: str) -> tuple[Entry, bool]:
        line = known.get(below)
        if line is not None and line.stamp == found[below]:
            held[below] = _entry_of(line, path)
        else:
            held[below] = entry(results.read(path), path)
        return held[below], held[below].failure is not None

    collection = results.collected(root, found, read)
    if file is not None:
        settled = {k: found[k] for k in held if found[k].modified < started - _SETTLED}
        if settled != {below: line.stamp for below, line in known.items()}:
            with contextlib.suppress(OSError):  # a folder that cannot be written costs time alone
                results.write_atomic(file, _dump({k: (found[k], held[k]) for k in settled}))
    return collection


def _index_file(root: Path, cache: Path) -> Path:
    return cache / f"{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]}.index"


@functools.cache
def _version() -> bytes:
    """Another program may read records otherwise: its index is not ours."""
    sources = (Path(module.__file__ or "") for module in (schema, results))
    return _digest(b"".join(path.read_bytes() for path in (*sources, Path(__file__))))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# ---------------------------------------------------------------- the file


class _Line(NamedTuple):
    """What the file says of one record."""

    stamp: Stamp
    protocol: Protocol
    card_json: str
    packed: str  # base64
    facts: dict[str, Any]


def _dump(entries: dict[str, tuple[Stamp, Entry]]) -> bytes:
    """Version, checksum, then deflated JSON: the protocols, each once, and a line an entry."""
    protocols: dict[str, int] = {}  # JSON -> its place
    lines = []
    for below, (stamp, held) in entries.items():
        place = protocols.setdefault(held.protocol.model_dump_json(), len(protocols))
        packed = base64.b64encode(held.packed).decode()
        lines.append([below, stamp, place, held.card_json, packed, _facts(held)])
    # The lowest level: a quarter larger than the highest, and many times as fast.
    body = zlib.compress(json.dumps([list(protocols), lines]).encode(), 1)
    return _version() + _digest(body) + body


def _load(file: Path) -> dict[str, _Line]:
    """Path below the root -> what was known of it; nothing where the index is not sound."""
    try:
        data = file.read_bytes()
    except OSError:
        return {}
    version, checksum, body = data[:32], data[32:64], data[64:]
    if version != _version() or checksum != _digest(body):
        return {}
    texts, lines = json.loads(zlib.decompress(body))
    protocols = [Protocol.model_validate_json(text) for text in texts]
    return {
        below: _Line(Stamp(*stamp), protocols[place], *rest) for below, stamp, place, *rest in lines
    }


def _facts(entry: Entry) -> dict[str, Any]:
    names = (*_PLAIN, "name", "weights_sha256", "protocol_id", "columns")
    facts = {name: getattr(entry, name) for name in names}
    flags = [flag.model_dump(mode="json") for flag in entry.flags]
    return facts | {"threat": str(entry.threat), "flags": flags}


def _entry_of(line: _Line, path: Path) -> Entry:
    facts = line.facts | {
        "threat": _threat(line.facts["threat"]),
        "flags": tuple(map(Flag.model_validate, line.facts["flags"])),
        "columns": tuple(line.facts["columns"]),
    }
    packed = base64.b64decode(line.packed)
    return Entry(
        path=path, protocol=line.protocol, card_json=line.card_json, packed=packed, **facts
    )


_threat = functools.lru_cache(maxsize=1000)(ThreatModel.parse)  # one object for thousands of rows
