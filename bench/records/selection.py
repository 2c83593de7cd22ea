"""Which records answer one question, which of them speaks for a model, and which are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.notation import percent
from bench.records import store
from bench.records.entry import Entry
from bench.records.store import Collection
from bench.schema import InvalidInput
from bench.schema.errors import visible

CLEAN, WORST_CASE = "clean", "worst_case"  # what a row has besides the columns of its protocol


@dataclass(frozen=True)
class SeedRange:
    """One network attacked again from other seeds, all else equal: counts of images standing."""

    seeds: tuple[int, ...]  # of the attacks
    lowest: int  # images standing under all columns
    highest: int
    n: int

    def __str__(self) -> str:
        """`56.1 – 56.4 over 3 attack seeds`, in percent."""
        low, high = (percent(count / self.n, self.n) for count in (self.lowest, self.highest))
        return f"{low} – {high} over {len(self.seeds)} attack seeds"


def group_key(record: Entry) -> tuple[str, ...]:
    """What must agree for two rows to share a table; the id covers every column's attacks."""
    images = (record.dataset, record.examples_sha256, record.split, str(record.n))
    return (*images, str(record.threat), record.protocol.name, record.protocol_id)


def attacked_key(record: Entry) -> tuple[str, ...]:
    """The same network, images and ball: standing bits may be intersected, whatever attacked."""
    return (record.weights_sha256, record.examples_sha256, str(record.threat))


def all_but_seed(record: Entry) -> tuple[str, ...]:
    """The same network attacked in the same way, but for the seed of the attacks."""
    how = (record.protocol_id, record.engine, record.engine_version, record.precision)
    return (*attacked_key(record), *how)


def seed_range(records: Sequence[Entry]) -> SeedRange | None:
    """How far attack seeds move the worst case, where there is more than one."""
    standing = {record.seed: record.worst_case_count for record in records}
    if len(standing) < 2:
        return None
    counts = standing.values()
    return SeedRange(tuple(sorted(standing)), min(counts), max(counts), records[0].n)


def speaks_first(record: Entry) -> tuple[object, ...]:
    """Order of preference: our engine, float32, lowest seed, newest, and the id to be definite."""
    newest_first = tuple(-ord(c) for c in record.created)
    engine = record.engine != "ours"
    return (engine, record.precision != "float32", record.seed, newest_first, record.id)


def once_each(collection: Collection[Entry], root: Path) -> tuple[list[Entry], list[str]]:
    """The records that may be ranked, each id once a name; and a note for each other one."""
    seen: dict[str, list[Entry]] = defaultdict(list)
    notes = []
    for record in collection.records:
        same_id = seen[record.id]
        if record.id in collection.withdrawn:
            continue
        if {CLEAN, WORST_CASE} & set(record.columns):
            why = f"a column may not be named {CLEAN} or {WORST_CASE}"
        else:
            why = _another_answer(record, same_id[0], root) if same_id else ""
        if why:
            notes.append(f"{record.path.relative_to(root).as_posix()}: {why}; skipped")
        elif record.name not in [other.name for other in same_id]:
            same_id.append(record)
    return [record for records in seen.values() for record in records], notes


def _another_answer(record: Entry, first: Entry, root: Path) -> str:
    """How two records of one id differ; the id is that of the question, whoever asked it."""
    try:
        if store.same_answer(first.whole, record.whole):
            return ""
    except InvalidInput as error:  # changed since it was indexed
        return str(error)
    return f"not the answer of {first.path.relative_to(root).as_posix()}, of the same id"


def left_out(collection: Collection[Entry], root: Path) -> list[str]:
    """A sentence for each file or record that is not in the table."""
    notes = [problem.replace(f"{root}/", "") for problem in collection.problems]
    answered = {record.id for record in collection.records}
    for record in collection.failed:
        if record.id not in answered and record.id not in collection.withdrawn:
            notes.append(f"{_question(record)} failed: {record.failure}")
    for record in collection.records:
        if record.id in collection.withdrawn:
            reason = collection.withdrawn[record.id]
            notes.append(f"{_question(record)} was withdrawn: {reason}")
    return sorted(map(visible, notes))


def _question(record: Entry) -> str:
    return (
        f"{record.name} on {record.dataset}, {record.threat}, {record.protocol.name}, "
        f"n = {record.n:,} (record {record.id})"
    )
