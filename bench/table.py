"""Records -> ranked rows: which record speaks for a model, and which rows may stand together.

A row is one named checkpoint (a run whose best epoch is its last has two rows of equal weights).
Rows are ranked by their worst case inside a group: the same images, threat and protocol, so that
two numbers in one table column were always measured the same way. A row whose record carries a flag
that makes its number untrustworthy stands below them, without a rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench import catalogue, protocols, results
from bench.flag_catalogue import unranking
from bench.intervals import Interval, wilson
from bench.notation import harmless, plain
from bench.schema import Column, EvaluationRecord, InvalidInput, ModelCard, Protocol, ThreatModel

CLEAN, WORST_CASE = "clean", "worst_case"  # what a row has besides the columns of its protocol


@dataclass(frozen=True, eq=False)
class Row:
    """One model in one table: the record that speaks for it, and where it ranks."""

    rank: int | None  # 1-based; rows with as many images standing share it; None: unranked
    record: EvaluationRecord
    path: Path  # of the record
    standing: dict[str, np.ndarray]  # measure -> (n,) bool: clean, every column, worst case
    best_known: np.ndarray  # (n,) bool: standing under all standing records of these weights
    record_count: int  # how many records that is

    @property
    def card(self) -> ModelCard:
        return self.record.card

    @property
    def unranked(self) -> str:
        """`unranked: zero-gradients`: why the row has no rank; empty where it has one."""
        return f"unranked: {', '.join(unranking(self.record))}" if self.rank is None else ""

    @property
    def rank_text(self) -> str:
        """The rank, or why there is none."""
        return self.unranked or str(self.rank)

    @cached_property
    def rates(self) -> dict[str, Interval]:
        """Measure -> share of all n images still right, with Wilson's 95 % interval."""
        return {
            measure: wilson(int(bits.sum()), len(bits)) for measure, bits in self.standing.items()
        }

    @cached_property
    def best_known_rate(self) -> Interval:
        return wilson(int(self.best_known.sum()), len(self.best_known))

    @property
    def texts(self) -> dict[str, str]:
        """What every table says about a row besides its rates: heading -> text."""
        record, card = self.record, self.card
        return {
            "method": card.method,
            "AWP": awp_text(card),
            "arch": harmless(plain(card.arch or "unregistered", 60)),
            "seed": "" if card.seed is None else str(card.seed),
            "epoch kept": kept_text(card),
            "flags": ", ".join(flag.name for flag in record.flags),
            "engine": f"{record.engine} {plain(record.engine_version, 40)}",
            "precision": record.precision,
            "n": str(record.n),
            "date": harmless(plain(record.created[:10])),
        }


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that may be ranked against each other; never empty."""

    rows: tuple[Row, ...]

    @property
    def _any(self) -> EvaluationRecord:
        return self.rows[0].record

    @property
    def key(self) -> tuple[str, ...]:
        """What all rows have in common; no other group has the same."""
        return _group_key(self._any)

    @property
    def dataset(self) -> str:
        return self._any.dataset

    @property
    def split(self) -> str:
        return self._any.split

    @property
    def n(self) -> int:
        return self._any.n

    @property
    def examples_sha256(self) -> str:
        return self._any.examples_sha256

    @property
    def threat(self) -> ThreatModel:
        return self._any.threat

    @property
    def protocol(self) -> Protocol:
        return self._any.protocol

    @property
    def columns(self) -> tuple[Column, ...]:
        """The protocol's columns, each name once."""
        return tuple({column.name: column for column in self.protocol.columns}.values())

    @property
    def measures(self) -> tuple[str, ...]:
        """What every row has a rate of: the worst case, each column, clean accuracy."""
        return (WORST_CASE, *(column.name for column in self.columns), CLEAN)

    @property
    def labels(self) -> dict[str, str]:
        """Measure -> how a table heads it, in the order shown: clean, then the columns."""
        labels = {column.name: plain(column.label or column.name, 60) for column in self.columns}
        return {CLEAN: "clean", **labels}

    @property
    def demo(self) -> bool:
        """Whether the data set is a toy: its rows are labelled and come last."""
        info = catalogue.DATASETS.get(self.dataset)
        return info is not None and info.note.startswith("demo")

    @cached_property
    def protocol_label(self) -> str:
        """The protocol's name; with its id where it is not what this program means by the name."""
        name = self.protocol.name
        try:
            ours = protocols.protocol(
                name, norm=self.threat.norm, classes=self._any.card.class_count
            )
        except InvalidInput:
            return f"{name} (id {self.protocol.protocol_id})"
        same = ours.protocol_id == self.protocol.protocol_id
        return name if same else f"{name} (id {self.protocol.protocol_id})"

    @property
    def images_label(self) -> str:
        """`n = 1,000, test[0:1000]`."""
        return f"n = {self.n:,}, {plain(self.split, 60)}"

    @property
    def heading(self) -> str:
        demo = "demo: " if self.demo else ""
        return f"{demo}{self.dataset}, {self.threat}, {self.protocol_label}, {self.images_label}"


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """All groups, what is not in them and why, and every record that was read."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    collection: results.Collection


def awp_text(card: ModelCard) -> str:
    """Whether the weights were perturbed while training: yes, no, random or unknown."""
    if card.awp is not None:
        return "yes" if card.awp.direction == "adversarial" else "random"
    return "unknown" if card.objective is None else "no"


def kept_text(card: ModelCard) -> str:
    """`best (87 of 100)`: which epoch's weights these are."""
    kept = {"validation": "best", "last": "last", None: "unknown"}[card.selected_on]
    if card.epoch_kept is None:
        return kept
    of = f" of {card.epochs}" if card.epochs is not None else ""
    return f"{kept} ({card.epoch_kept}{of})"


def build(root: Path) -> Leaderboard:
    """Reads and ranks every record under a results folder; a missing folder has none."""
    return rank_collection(results.collect(root), root)


def rank_collection(collection: results.Collection, root: Path) -> Leaderboard:
    """Ranks what was collected; everything that is left out is named in the notes."""
    entries, twice = _once_each(collection, root)
    by_question = defaultdict(list)
    by_weights = defaultdict(list)
    for record, path in entries:
        name = (record.card.name, record.card.weights_sha256)
        by_question[_group_key(record), name].append((record, path))
        by_weights[_attacked_key(record)].append(record)
    speaking = defaultdict(list)
    for (key, _), candidates in by_question.items():
        speaking[key].append(min(candidates, key=lambda entry: _speaks_first(entry[0])))
    best_known = {key: _intersection(records) for key, records in by_weights.items()}
    counts = {key: len(records) for key, records in by_weights.items()}
    groups = [_ranked(members, best_known, counts) for members in speaking.values()]
    notes = [plain(note, 500) for note in (*_notes(collection, root), *twice)]
    return Leaderboard(tuple(sorted(groups, key=_group_order)), tuple(notes), collection)


def _once_each(
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


def _group_key(record: EvaluationRecord) -> tuple[str, ...]:
    """What must agree for two rows to share a table; the id covers every column's attacks."""
    protocol = record.protocol
    images = (record.dataset, record.examples_sha256, record.split, str(record.n))
    return (*images, str(record.threat), protocol.name, protocol.protocol_id)


def _attacked_key(record: EvaluationRecord) -> tuple[str, ...]:
    """The same network, images and ball: standing bits may be intersected, whatever attacked."""
    return (record.card.weights_sha256, record.examples_sha256, str(record.threat))


def _speaks_first(record: EvaluationRecord) -> tuple[object, ...]:
    """Order of preference: our engine, float32, lowest seed, newest, and the id to be definite."""
    newest_first = tuple(-ord(c) for c in record.created)
    engine = record.engine != "ours"
    return (engine, record.precision != "float32", record.seed, newest_first, record.id)


def _intersection(records: Sequence[EvaluationRecord]) -> np.ndarray:
    return np.logical_and.reduce([record.worst_case_standing for record in records])


def _ranked(
    members: Iterable[tuple[EvaluationRecord, Path]],
    best_known: dict[tuple[str, ...], np.ndarray],
    counts: dict[tuple[str, ...], int],
) -> Group:
    measured = []
    for record, path in members:
        standing = {CLEAN: record.clean_correct}
        standing |= {name: record.standing(name) for name in record.columns}
        standing[WORST_CASE] = np.logical_and.reduce(list(standing.values()))
        measured.append((int(standing[WORST_CASE].sum()), standing, record, path))
    # Ties share a rank; the name only makes their order definite. The unranked come last.
    measured.sort(key=lambda m: (bool(unranking(m[2])), -m[0], m[2].card.name, m[2].id))
    scores = [m[0] for m in measured]  # an unranked row follows all ranked ones: no rank is skipped
    return Group(
        tuple(
            Row(
                rank=None if unranking(record) else scores.index(score) + 1,
                record=record,
                path=path,
                standing=standing,
                best_known=best_known[_attacked_key(record)],
                record_count=counts[_attacked_key(record)],
            )
            for score, standing, record, path in measured
        )
    )


def _group_order(group: Group) -> tuple[object, ...]:
    """Demo data last; the fuller protocol and the larger test set first."""
    names = protocols.PROTOCOL_NAMES
    name = group.protocol.name
    place = names.index(name) if name in names else len(names)
    threat = (group.threat.norm, group.threat.epsilon)
    ids = (group.split, group.examples_sha256, group.protocol.protocol_id)
    return (group.demo, group.dataset, threat, place, name, -group.n, ids)


def _notes(collection: results.Collection, root: Path) -> list[str]:
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
