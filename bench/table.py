"""Records -> ranked rows: which rows may stand together, where each ranks, how sure that is.

A row is one named checkpoint (a run whose best epoch is its last has two rows of equal weights).
Rows are ranked by their worst case inside a group: the same images, threat and protocol, so that
two numbers in one table column were always measured the same way. A row whose record carries a flag
that makes its number untrustworthy stands below them, without a rank; so does one that nothing
vouches for in a folder that knows others. The rank range of a row is fixed here, over its whole group:
no filter of a page changes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bench import catalogue, protocols
from bench.notation import plain
from bench.records import challenges, index, proven
from bench.records.challenges import Filed
from bench.records.entry import Entry
from bench.records.selection import (
    CLEAN,
    WORST_CASE,
    all_but_seed,
    attacked_key,
    group_key,
    left_out,
    once_each,
    seed_range,
    speaks_first,
)
from bench.records.store import Collection
from bench.row import STRANGE as STRANGE
from bench.row import Member as Member
from bench.row import Row as Row
from bench.row import counted
from bench.schema import Column, Protocol, ThreatModel
from bench.stats import audit, study_files
from bench.stats.ranks import ALL_PAIRS, LEVEL, NEAREST, Ranks, kept_ranges
from bench.stats.study_files import Declared


@dataclass(frozen=True, eq=False)
class Group:
    """Models that may be ranked against each other; never empty. They are ranked when first shown."""

    members: tuple[Member, ...]  # in no order
    cache: Path | None = None  # folder of rank ranges computed before
    # What studies declared of their contrasts, here or elsewhere.
    declared: tuple[Declared, ...] = ()
    apart: str = ""  # ends a heading that another table has too: which images, which attacks

    def same(self, other: Group) -> bool:
        """Whether both are made of the very same entries, declared of and headed alike."""

        def of(group: Group) -> list[object]:
            return [
                (m.record, m.proven, m.known, m.strange, m.attacked, m.reseeded, m.challenges)
                for m in group.members
            ]

        said = (self.declared, self.apart) == (other.declared, other.apart)
        return said and of(self) == of(other)

    @cached_property
    def _ranking(self) -> tuple[tuple[Row, ...], Ranks | None]:
        return _ranked(self.members, self.cache)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every member, most images standing first; the unranked come last."""
        return self._ranking[0]

    @property
    def ranks(self) -> Ranks | None:
        """What the tests say of the ranking; None: fewer than two rows have a rank."""
        return self._ranking[1]

    @property
    def separation_notes(self) -> tuple[str, ...]:
        """How far the tests tell the ranked rows apart, in sentences; empty with fewer than two."""
        if self.ranks is None:
            return ()
        ranked = len(self.ranks.ranges)
        tests = (
            f"Rank range: 1 + rows significantly better, to {ranked:,} - rows significantly worse, on "
            f"the worst case: exact McNemar tests, Holm over {counted(self.ranks.pairs, 'pair')} "
            f"at {100 * LEVEL:g} % family-wise. {self.ranks.separated:,} separated, the others not "
            f"separated; of {counted(ranked - 1, 'neighbouring pair')} "
            f"{self.ranks.neighbours_separated:,} separated."
        )
        nearest = (
            f"More than {ALL_PAIRS} rows: each was compared with its {NEAREST} nearest on either "
            "side; rows farther apart were not compared and count as not separated."
        )
        return (tests, nearest) if ranked > ALL_PAIRS else (tests,)

    @property
    def seed_lines(self) -> tuple[str, ...]:
        """A sentence for each row that was attacked from several seeds."""
        return tuple(
            f"{row.card.name}: worst case {row.seed_range}" for row in self.rows if row.seed_range
        )

    @property
    def gradients_alone(self) -> bool:
        """Whether every attack follows gradients, so that the rates are upper bounds."""
        attacks = {spec.name for column in self.columns for spec in column.attacks}
        return not attacks & {"square", "near-boundary", "spsa"}

    @property
    def audited(self) -> bool:
        """Whether its protocol has a column whose standing images are audited."""
        return any(column.audit is not None for column in self.protocol.columns)

    @property
    def audit_lines(self) -> tuple[str, ...]:
        """A sentence for each audit."""
        return tuple(
            f"{row.card.name}, audit: {audit.sentence(each, self.n)}"
            for row in self.rows
            for each in row.record.audits
        )

    @property
    def challenge_lines(self) -> tuple[str, ...]:
        """A sentence for each row of which others broke more than our attacks did."""
        return tuple(
            f"{row.card.name}: {row.challenge_text}" for row in self.rows if row.challenges
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """Sentences on other seeds, audits and challenges."""
        return (*self.seed_lines, *self.audit_lines, *self.challenge_lines)

    @property
    def _any(self) -> Entry:
        return self.members[0].record

    @property
    def key(self) -> tuple[str, ...]:
        """What all rows have in common; no other group has the same."""
        return group_key(self._any)

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

    @cached_property
    def protocol(self) -> Protocol:
        """As the catalogue has it; of a foreign one, columns by name: no record orders the others'."""
        asked = self._any.protocol
        ours = protocols.meanings(asked.name, self.threat.norm).get(self.protocol_id)
        if ours is not None:
            return ours
        columns = {column.name: column for column in asked.columns}
        return asked.model_copy(update={"columns": tuple(columns[k] for k in sorted(columns))})

    @property
    def protocol_id(self) -> str:
        return self._any.protocol_id

    @property
    def columns(self) -> tuple[Column, ...]:
        """The protocol's columns, each name once."""
        return self.protocol.columns

    @property
    def measures(self) -> tuple[str, ...]:
        """What every row has a rate of: the worst case, each column, clean accuracy."""
        return (WORST_CASE, *(column.name for column in self.columns), CLEAN)

    @property
    def labels(self) -> dict[str, str]:
        """Measure -> how a table heads it, in the order shown: clean, then the columns."""
        norm = self.threat.norm  # a record's own text for a column heads nothing
        labels = {c.name: protocols.label(c.name, c.column_id, norm) for c in self.columns}
        return {CLEAN: "clean", **labels}

    @property
    def demo(self) -> bool:
        """Whether the data set is a toy: its rows are labelled and come last."""
        info = catalogue.DATASETS.get(self.dataset)
        return info is not None and info.note.startswith("demo")

    @cached_property
    def protocol_label(self) -> str:
        """The protocol's name; with its id where it is not what this program means by the name."""
        name = self.protocol.name  # of only-ATTACK: what its code is now, only torch could tell
        ours = protocols.meanings(name, self.threat.norm)
        return name if self.protocol_id in ours else f"{name} (id {self.protocol_id})"

    @property
    def images_label(self) -> str:
        """`n = 1,000, test[0:1000]`."""
        return f"n = {self.n:,}, {plain(self.split, 60)}{self.apart}"

    @property
    def heading(self) -> str:
        demo = "demo: " if self.demo else ""
        return f"{demo}{self.dataset}, {self.threat}, {self.protocol_label}, {self.images_label}"


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """All groups, what is not in them and why, and every record that was read."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    collection: Collection[Entry]
    challenges: tuple[Filed, ...] = ()  # all that were read, oldest first


def build(root: Path, *, cache: Path | None = None) -> Leaderboard:
    """Reads every record under a results folder; a missing folder has none.

    cache is a folder for what was read and ranked before; anything in it may be deleted.
    """
    return rank_collection(index.collect(root, cache), root, cache=cache)


def rank_collection(
    collection: Collection[Entry],
    root: Path,
    *,
    cache: Path | None = None,
    before: Leaderboard | None = None,
) -> Leaderboard:
    """Groups what was collected; everything that is left out is named in the notes.

    before: an older leaderboard of the folder; a group of it whose entries are all the same objects
    still is kept, with its ranks.
    """
    proofs, notes = proven.read(root)
    proved = {sha256 for sha256, proof in proofs.items() if proof.how == "proven"}
    entries, twice = once_each(collection, root, proved, proofs)
    by_question = defaultdict(list)
    by_weights = defaultdict(list)
    by_seed = defaultdict(list)
    for record in entries:
        own = "" if record.sha256 in proved else record.id  # one that is not proven speaks alone
        by_question[group_key(record), record.name, record.weights_sha256, own].append(record)
        if not own:
            by_weights[attacked_key(record)].append(record)
            by_seed[all_but_seed(record)].append(record)
    listed = any(record.sha256 in proofs for record in entries)
    found, unreadable = challenges.filed(collection, proofs)
    handed_in = challenges.by_question(found)
    speaking = defaultdict(list)
    for (key, *_, own), candidates in by_question.items():
        record = min(candidates, key=speaks_first)
        beside = (by_weights[attacked_key(record)], by_seed[all_but_seed(record)])
        others = ([each for each in held if each is not record] for held in beside)
        attacked, reseeded = ((record, *more) for more in others)
        known = record.sha256 in proofs
        strange = listed and not known
        of_these = handed_in.get(attacked_key(record), ())
        against = tuple(each for each in of_these if each.n == record.n)
        speaking[key].append(Member(record, not own, known, strange, attacked, reseeded, against))
    studies, unread = study_files.read_all(root)
    declared = study_files.declared(studies)
    older = {group.key: group for group in before.groups} if before is not None else {}
    made = _told_apart([Group(tuple(each), cache, declared) for each in speaking.values()])
    groups = [old if (old := older.get(new.key)) and old.same(new) else new for new in made]
    held = (*collection.records, *collection.failed)
    hashes = [(each.path, each.sha256) for each in held] + [(f.path, f.sha256) for f in found]
    files = {path.relative_to(root).as_posix(): sha256 for path, sha256 in hashes}
    notes += [*left_out(collection), *twice, *proven.strays(proofs, files), *unread]
    notes += [*unreadable, *challenges.notes_of(found, root)]
    notes = [plain(note.replace(f"{root}/", ""), 500) for note in notes]
    ordered = tuple(sorted(groups, key=_group_order))
    return Leaderboard(ordered, tuple(notes), collection, tuple(found))


def _told_apart(groups: Sequence[Group]) -> Iterator[Group]:
    """The groups, those that another one's heading would head with what they differ in.

    Of several with one heading the one with proven records keeps it, then with records measured here,
    then the one of most models: a record that names other images or fewer classes neither shares nor
    changes the heading of others.
    """
    headed: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        headed[group.heading].append(group)
    for alike in headed.values():

        def order(group: Group) -> tuple[object, ...]:
            proofs = sum(member.proven for member in group.members)
            known = sum(member.known for member in group.members)
            return (-proofs, -known, -len(group.members), group.key)

        first, *others = sorted(alike, key=order)
        yield first
        for group in others:
            images = group.examples_sha256 != first.examples_sha256
            what = f"other images {group.examples_sha256[:8]}" if images else "other attacks"
            which = f" {group.protocol_id}" if group.protocol_id != first.protocol_id else ""
            yield replace(group, apart=f" ({what}{which})")


def _ranked(members: Sequence[Member], cache: Path | None) -> tuple[tuple[Row, ...], Ranks | None]:
    # Ties share a rank; the name only makes their order definite. The unranked come last.
    def place(member: Member) -> tuple[object, ...]:
        record = member.record
        return (bool(member.doubts), -record.worst_case_count, record.name, record.id)

    ordered = sorted(members, key=place)
    # An unranked row follows all ranked ones: no rank is skipped.
    scores = [member.record.worst_case_count for member in ordered]
    worst = [m.record.worst_case_standing for m in ordered if not m.doubts]
    ranks = kept_ranges(np.array(worst), cache) if worst else None
    ranges = [*(ranks.ranges if ranks else ()), *[None] * (len(ordered) - len(worst))]
    rows = tuple(
        Row(
            rank=None if places is None else scores.index(score) + 1,
            member=member,
            rank_range=places,
            seed_range=seed_range(member.record, member.reseeded[1:]),
        )
        for score, member, places in zip(scores, ordered, ranges, strict=True)
    )
    return rows, ranks if len(worst) > 1 else None


def _group_order(group: Group) -> tuple[object, ...]:
    """Demo data last; the fuller protocol and the larger test set first."""
    names = protocols.PROTOCOL_NAMES
    name = group.protocol.name
    place = names.index(name) if name in names else len(names)
    threat = (group.threat.norm, group.threat.epsilon)
    ids = (group.split, group.examples_sha256, group.protocol_id)
    return (group.demo, group.dataset, threat, place, name, -group.n, ids)
