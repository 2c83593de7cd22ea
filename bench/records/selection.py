"""Which records answer one question, which of them speaks for a model, and which are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import protocols
from bench.notation import percent
from bench.records import store
from bench.records.entry import Entry
from bench.records.store import Collection
from bench.schema import InvalidInput, Protocol
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


INSTEAD = ": record "  # in a reason, before the id of the record that answers the same question


def superseded(
    collection: Collection[Entry], known: Container[str] = ()
) -> list[tuple[Entry, Entry]]:
    """Each record of the published engine beside ours of the same network's name and question.

    The question is weights, images, threat, protocol, seed, precision and audit. What was withdrawn
    neither needs nor gives an answer. known holds the sha256 of the files of records that were proven
    or measured here; where a record of the folder is among them, an answer of ours has to be.
    """
    held = [each for each in collection.records if each.place not in collection.withdrawn]
    listed = any(record.sha256 in known for record in collection.records)
    ours: dict[tuple[str, ...], Entry] = {}
    for record in sorted(held, key=speaks_first, reverse=True):
        if record.engine == "ours" and (record.sha256 in known or not listed):
            ours[_asked_of_any_engine(record)] = record
    theirs = [record for record in held if record.engine != "ours"]
    found = [(record, ours.get(_asked_of_any_engine(record))) for record in theirs]
    return [(record, answer) for record, answer in found if answer is not None]


def _asked_of_any_engine(record: Entry) -> tuple[str, ...]:
    how = (
        record.protocol.name,
        record.protocol_id,
        str(record.seed),
        record.precision,
        record.audit,
    )
    return (record.name, *attacked_key(record), *how)


def seed_range(record: Entry, others: Sequence[Entry]) -> SeedRange | None:
    """How far attack seeds move the worst case of a record, where others have other seeds."""
    standing = {each.seed: each.worst_case_count for each in (*others, record)}
    if len(standing) < 2:
        return None
    counts = standing.values()
    return SeedRange(tuple(sorted(standing)), min(counts), max(counts), record.n)


def speaks_first(record: Entry) -> tuple[object, ...]:
    """Order of preference: our engine, float32, lowest seed, most audited, newest, then the id."""
    newest_first = tuple(-ord(c) for c in record.created)
    engine, drawn = record.engine != "ours", sum(audit.drawn for audit in record.audits)
    return (engine, record.precision != "float32", record.seed, -drawn, newest_first, record.id)


def once_each(
    collection: Collection[Entry],
    root: Path,
    proven: Container[str] = (),
    known: Container[str] = (),
) -> tuple[list[Entry], list[str]]:
    """The records that may be ranked, each id once a name; and a note for each other one.

    proven holds the sha256 of the files of records that are proven, known those of these and of all
    measured here: of two that contradict each other a proven one is believed, then one measured here,
    then what lies where a record of that content belongs.
    """

    def order(record: Entry) -> tuple[bool, bool, bool]:
        doubts = (record.sha256 not in proven, record.sha256 not in known)
        return (*doubts, _below(record, root) != _place(record))

    standing = [r for r in collection.records if r.place not in collection.withdrawn]
    labels = _labels(standing, proven, known)
    seen: dict[str, list[Entry]] = defaultdict(list)
    notes = []
    for record in sorted(standing, key=order):
        same_id = seen[record.id]
        names = [other.name for other in same_id]
        why = _inadmissible(record) or _other_labels(record, labels[record.examples_sha256])
        if not why and same_id:
            why = _another_answer(record, same_id[0], root)
            # Nothing tells which of two names to believe where neither is proven.
            if why and same_id[0].sha256 not in proven and record.name not in names:
                notes.append(f"{_below(record, root)}: {why}; each speaks for its own row alone")
                why = ""
        if why:
            notes.append(f"{_below(record, root)}: {why}; skipped")
        elif record.name not in names:
            same_id.append(record)
    return [record for records in seen.values() for record in records], sorted(notes)


def _below(record: Entry, root: Path) -> str:
    return record.path.relative_to(root).as_posix()


def _place(record: Entry) -> str:
    """Where a record of this content belongs, as store.record_path."""
    return f"{record.dataset}/{record.threat.folder}/{record.name}/{record.id}.json"


def _inadmissible(record: Entry) -> str:
    """Why a record stands in no table, whatever the others say; empty where nothing is wrong."""
    if {CLEAN, WORST_CASE} & set(record.columns):
        return f"a column may not be named {CLEAN} or {WORST_CASE}"
    asked = record.protocol
    ours = protocols.meanings(asked.name, record.threat.norm, record.class_count)
    if not ours or asked.version not in [each.version for each in ours.values()]:
        return ""  # a protocol of one's own, or of another version: a table of its own
    meant = ours.get(record.protocol_id)
    if meant is None or _in_order(meant) != _in_order(asked):
        return (
            f"its protocol is called {asked.name}, version {asked.version}, and is not that: other "
            "columns or attacks, or another order"
        )
    return ""


def _in_order(protocol: Protocol) -> list[tuple[str, str]]:
    return [(column.name, column.column_id) for column in protocol.columns]


def _labels(
    records: Sequence[Entry], proven: Container[str], known: Container[str]
) -> dict[str, str]:
    """Images -> the label vector that is theirs.

    Of several, that of a proven record, else of one measured here, else the one that most ids hold,
    else that of the lowest id.
    """
    holders: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        holders[record.examples_sha256][record.labels_sha256].append(record)

    def order(held: Sequence[Entry]) -> tuple[bool, bool, int, str]:
        ids = {record.id for record in held}
        unproven = all(record.sha256 not in proven for record in held)
        unknown = all(record.sha256 not in known for record in held)
        return (unproven, unknown, -len(ids), min(ids))

    return {
        images: min(vectors, key=lambda labels: order(vectors[labels]))
        for images, vectors in holders.items()
    }


def _other_labels(record: Entry, labels: str) -> str:
    """Why a record is not of the images that it names; empty where it is."""
    if record.labels_sha256 == labels:
        return ""
    return f"its labels are not those of the images it names ({record.examples_sha256[:16]})"


def _another_answer(record: Entry, first: Entry, root: Path) -> str:
    """How two records of one id differ; the id is that of the question, whoever asked it."""
    try:
        if store.same_answer(first.whole, record.whole):
            return ""
    except InvalidInput as error:  # changed since it was indexed
        return str(error)
    return f"not the answer of {_below(first, root)}, of the same id"


def left_out(collection: Collection[Entry]) -> list[str]:
    """A sentence for each file or record that is not in the table."""
    notes = list(collection.problems)
    answered = {record.id for record in collection.records}
    for record in collection.failed:
        if record.id not in answered and record.place not in collection.withdrawn:
            notes.append(f"{_question(record)} failed: {record.failure}")
    return sorted(map(visible, [*notes, *_withdrawn(collection)]))


_NAMED = 3  # of several records withdrawn for one reason so many are named


def _withdrawn(collection: Collection[Entry]) -> Iterator[str]:
    """A sentence for each reason; which record of ours answers instead makes none of its own."""
    alike: dict[str, list[Entry]] = defaultdict(list)
    for record in collection.records:
        if record.place in collection.withdrawn:
            alike[collection.withdrawn[record.place].partition(INSTEAD)[0]].append(record)
    for reason, records in alike.items():
        if len(records) == 1:
            yield f"{_question(records[0])} was withdrawn: {collection.withdrawn[records[0].place]}"
            continue
        names = sorted(record.name for record in records)
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        yield f"{len(names):,} records were withdrawn: {reason} ({', '.join(names[:_NAMED])}{more})"


def _question(record: Entry) -> str:
    return (
        f"{record.name} on {record.dataset}, {record.threat}, {record.protocol.name}, "
        f"n = {record.n:,} (record {record.id})"
    )
