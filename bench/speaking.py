"""Which records answer one question, which of them speaks for a model, and which are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import results
from bench.notation import percent
from bench.schema import EvaluationRecord

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


def group_key(record: EvaluationRecord) -> tuple[str, ...]:
    """What must agree for two rows to share a table; the id covers every column's attacks."""
    protocol = record.protocol
    images = (record.dataset, record.examples_sha256, record.split, str(record.n))
    return (*images, str(record.threat), protocol.name, protocol.protocol_id)


def attacked_key(record: EvaluationRecord) -> tuple[str, ...]:
    """The same network, images and ball: standing bits may be intersected, whatever attacked."""
    return (record.card.weights_sha256, record.examples_sha256, str(record.threat))


def all_but_seed(record: EvaluationRecord) -> tuple[str, ...]:
    """The same network attacked in the same way, but for the seed of the attacks."""
    how = (record.protocol.protocol_id, record.engine, record.engine_version, record.precision)
    return (*attacked_key(record), *how)


def seed_range(records: Sequence[EvaluationRecord]) -> SeedRange | None:
    """How far attack seeds move the worst case, where there is more than one."""
    standing = {record.seed: int(record.worst_case_standing.sum()) for record in records}
    if len(standing) < 2:
        return None
    counts = standing.values()
    return SeedRange(tuple(sorted(standing)), min(counts), max(counts), records[0].n)


def speaks_first(record: EvaluationRecord) -> tuple[object, ...]:
    """Order of preference: our engine, float32, lowest seed, newest, and the id to be definite."""
    newest_first = tuple(-ord(c) for c in record.created)
    engine = record.engine != "ours"
    return (engine, record.precision != "float32", record.seed, newest_first, record.id)


def once_each(
    collection: results.Collection, root: Path
) -> tuple[list[tuple[EvaluationRecord, Path]], list[str]]:
    """The records that may be ranked, each id once a name; and a note for each other one."""
    seen: dict[str, list[tuple[EvaluationRecord, Path]]] = defaultdict(list)
    notes = []
    for record, path in zip(collection.records, collection.paths, strict=True):
        where = path.relative_to(root).as_posix()
        if record.id in collection.withdrawn:
            continue
        if {CLEAN, WORST_CASE} & set(record.columns):
            notes.append(f"{where}: a column may not be named {CLEAN} or {WORST_CASE}; skipped")
            continue
        # The id is that of the question; which name asked it is not part of the answer.
        for other, first in seen[record.id][:1]:
            if not results.same_answer(other, record.model_copy(update={"card": other.card})):
                first_name = first.relative_to(root).as_posix()
                notes.append(f"{where}: not the answer of {first_name}, of the same id; skipped")
                break
        else:
            if record.card.name not in [other.card.name for other, _ in seen[record.id]]:
                seen[record.id].append((record, path))
    return [entry for entries in seen.values() for entry in entries], notes


def left_out(collection: results.Collection, root: Path) -> list[str]:
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
    return sorted(notes)


def _question(record: EvaluationRecord) -> str:
    return (
        f"{record.card.name} on {record.dataset}, {record.threat}, {record.protocol.name}, "
        f"n = {record.n:,} (record {record.id})"
    )
