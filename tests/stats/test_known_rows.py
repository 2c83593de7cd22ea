"""Records that nothing vouches for change nothing that is said of known rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.board.filters import places_of, says_less
from bench.cli.told import told
from bench.exports import summary
from bench.exports.badge import badge
from bench.measure.sweep import Outcome
from bench.published import Published
from bench.records import store
from bench.schema import EvaluationRecord
from bench.schema.packing import pack_ints
from bench.stats.comparisons import answer_in_a_sentence, comparisons
from bench.stats.contrasts import answers, of_studies, pairs
from bench.stats.method_rows import method_table
from bench.stats.study_files import Finding, StudyFile
from bench.table import STRANGE, Group, Leaderboard
from tests.board.board_records import (
    make_record,
    matched_pair,
    other_version,
    prove,
    sha,
    with_controls,
    write_all,
)

SEEDS = 3
NEWER, OLDER = "2099-01-01T00:00:00Z", "2000-01-01T00:00:00Z"
Records = list[EvaluationRecord]
OURS: Records = [record for seed in range(SEEDS) for record in with_controls(seed)]
TWIN, AWP, CONTROL = OURS[:3]


def of(record: EvaluationRecord, robust: float = 0.9, created: str = NEWER, **card: Any) -> Any:
    """Another network with a card that says almost the same."""
    update = {"weights_sha256": sha(f"forged {card}"), **card}
    return make_record(record.card.model_copy(update=update), robust=robust, created=created)


def reseeded(record: EvaluationRecord, seed: int, **card: Any) -> Any:
    assert record.card.train is not None
    train = record.card.train.model_copy(update={"seed": seed})
    return of(record, train=train, seed=seed, **card)


def with_recipe(record: EvaluationRecord, recipe: str) -> Any:
    assert record.card.train is not None
    train = record.card.train.model_copy(update={"recipe": recipe})
    return of(record, 0.1, name="x", train=train)


def answered_alike(record: EvaluationRecord, **card: Any) -> EvaluationRecord:
    """The record itself, by another card."""
    return record.model_copy(update={"card": record.card.model_copy(update=card)})


def flipped(record: EvaluationRecord) -> EvaluationRecord:
    other = pack_ints((record.label_array + 1) % 10)
    right = pack_ints((record.clean_prediction_array + 1) % 10)
    return other_version(record, labels=other, clean_predictions=right)


FORGED: dict[str, Callable[[], Records]] = {
    "seeds with names and twins of their own": lambda: [
        record for seed in (7, 8, 9) for record in matched_pair(seed, vanilla=0.3, gain=0.4)
    ],
    "a twin of ours": lambda: [of(AWP, name="x")],
    "a twin of ours, older": lambda: [of(AWP, name="x", created=OLDER)],
    "a twin of ours, another seed": lambda: [reseeded(AWP, 7, name="x")],
    "a twin with the seed of another twin": lambda: [
        reseeded(TWIN, 7, name="y"), reseeded(AWP, 7, name="x", pair="y")
    ],
    "the name of our AWP model, newer": lambda: [of(AWP)],
    "the name of our AWP model, older": lambda: [of(AWP, created=OLDER)],
    "the name of our AWP model, twice": lambda: [of(AWP), of(AWP, created=OLDER, seed=5)],
    "the name of our twin, newer": lambda: [of(TWIN, 0.1)],
    "the name of our twin, older": lambda: [of(TWIN, 0.1, OLDER)],
    "the name of our control": lambda: [of(CONTROL, 0.1)],
    "a control of ours": lambda: [of(CONTROL, 0.1, name="x")],
    "a control of ours, another seed": lambda: [reseeded(CONTROL, 7, name="x")],
    "a control of ours, another recipe": lambda: [with_recipe(CONTROL, "best-vanilla")],
    "a control of ours that bears our control's twin's name": lambda: [
        of(CONTROL, 0.1, name=TWIN.card.name)
    ],
    "an AWP model that ours are controls of": lambda: [of(AWP, 0.1, OLDER), of(AWP, 0.2)],
    "our network from another seed of the attacks": lambda: [
        make_record(AWP.card, robust=0.9, seed=5, created=NEWER)
    ],
    "our network by another name": lambda: [
        answered_alike(AWP, name="x", seed=7, train=reseeded(AWP, 7).card.train)
    ],
    "our record with another card": lambda: [
        answered_alike(AWP, pair=None), answered_alike(CONTROL, control_of=None)
    ],
    "our record with other bits": lambda: [make_record(TWIN.card, robust=0.1)],
    "our images with other labels, by the dozen": lambda: [
        flipped(record) for seed in range(4, 8) for record in with_controls(seed)
    ],
    "better than all": lambda: [of(AWP, 0.94, name=f"x{k}", pair=None) for k in range(9)],
    "ours with a column called otherwise": lambda: [relabelled(of(AWP, name="x"))],
    "seeds that are measured on more images": lambda: elsewhere(n=400),
    "seeds that are measured on other images": lambda: elsewhere(split="test[200:400]"),
    "seeds under a larger threat": lambda: elsewhere(threat="linf:0.2"),
    "seeds on real data": lambda: elsewhere(data="cifar10", n=400),
    "seeds with an audit": lambda: elsewhere(protocol="fast"),
}  # fmt: skip


def elsewhere(data: str = "digits", **measured: Any) -> Records:
    """Nine seeds with AWP and without that stand in a table of their own."""
    found = []
    for seed in range(9):
        twin, awp = matched_pair(seed)
        cards = [r.card.model_copy(update={"dataset": data}) for r in (twin, awp)]
        found += [make_record(c, robust=r, **measured)
                  for c, r in zip(cards, (0.3, 0.9), strict=True)]  # fmt: skip
    return found


def relabelled(record: EvaluationRecord) -> EvaluationRecord:
    columns = tuple(c.model_copy(update={"label": "RENAMED"}) for c in record.protocol.columns)
    return other_version(record, protocol=record.protocol.model_copy(update={"columns": columns}))


def ours(root: Path) -> Group:
    """The table that our records stand in."""
    return our_table(table.build(root), root)


def our_table(board: Leaderboard, root: Path) -> Group:
    paths = {store.record_path(record, root) for record in OURS}
    (group,) = (g for g in board.groups if any(r.path in paths for r in g.rows))
    return group


def said(root: Path) -> list[tuple[object, ...]]:
    """What the contrasts of our table say, to the last digit."""
    return said_of(ours(root))


def said_of(group: Group) -> list[tuple[object, ...]]:
    return [
        (a.sentence, a.verdict.family, a.verdict.effect, a.method.compared, a.method.differences)
        for a in answers(group)
    ]


def all_said(board: Leaderboard, root: Path) -> list[object]:
    """Whatever is said of our records and before all tables."""
    group = our_table(board, root)
    return [said_of(group), placed(group), answered_by_all(board.groups)]


def placed(group: Group) -> list[object]:
    """Where our networks and our methods stand, with their means."""
    methods = method_table(group, answers(group), pairs(group))
    return [
        *((r.card.name, r.rank, r.rank_range) for r in group.rows if not r.strange),
        *((m.name, m.rank, m.rank_range, m.seeds, m.rate(), m.difference)
          for m in methods.rows if not m.rows[0].strange),
        methods.note,
    ]  # fmt: skip


def answered_by_all(groups: Sequence[Group]) -> list[object]:
    """What is said first of all tables, in a file and on the landing page; and the first of them."""
    found = comparisons(groups)
    place = places_of(groups, Published((), ()))[0]
    return [
        answer_in_a_sentence(found),
        *((one.label, one.verdict.words, one.method.differences) for one in found),
        summary.blocks(groups, answers, pairs)[:2],
        (place.dataset, min(place.groups, key=says_less).heading),
    ]


def put(root: Path, forged: Records) -> list[Path]:
    """Writes records in a folder that is read before the others."""
    paths = []
    for record in forged:
        folder = root / "digits" / "linf-0.15" / f"0-{record.card.name}-{record.card.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{record.id}.json")
        paths[-1].write_text(store.text_of(record))
    return paths


HOW: dict[str, Callable[[Path], None]] = {
    "measured": lambda root: prove(root, *OURS, how="measured"),
    "some proven": lambda root: (prove(root, *OURS, how="measured"), prove(root, *OURS[1::2]))[0],
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """Our records in a folder, as known in each way and not at all, with what is said of them."""
    found = {}
    for how, vouch in {**HOW, "not known": lambda root: None}.items():
        root = tmp_path_factory.mktemp("tables")
        write_all(root, OURS)
        vouch(root)
        found[how] = root, said(root), all_said(table.build(root), root)
        assert [len(row[3]) for row in found[how][1]] == [SEEDS, SEEDS]
    return found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("member", FORGED)
def test_forged_records_change_no_contrast_of_known_ones(
    tables: dict[str, Any], tmp_path: Path, member: str, how: str
) -> None:
    there, _, before = tables[how]
    root = shutil.copytree(there, tmp_path / "results")
    put(root, FORGED[member]())
    board = table.build(root)
    assert all_said(board, root) == before
    names = {record.card.name for record in OURS}
    assert names <= {row.card.name for row in our_table(board, root).rows if row.known}
    if how == "measured":
        assert_strangers_stand_alone(board)


def assert_strangers_stand_alone(board: Leaderboard) -> None:
    """Each is a row without a rank, marked, in no mean and in no pair that is averaged."""
    for group in board.groups:
        methods = method_table(group, answers(group), pairs(group)).rows
        strange = [row for method in methods for row in method.rows if row.strange]
        assert all(method.alone for method in methods if method.rows[0].strange)
        assert {row.unranked for row in strange} <= {f"unranked: {STRANGE}"}
        assert all(STRANGE in row.texts["flags"] for row in strange)
        assert all(f"unranked ({STRANGE})" in badge(group, row) for row in strange)
        assert all("unverified" in m.badges for m in methods if m.rows[0].strange)
        assert len(strange) == sum(m.strange for m in group.members)
        assert not [pair for pair in pairs(group) if pair.matched and pair.awp.strange]


@pytest.mark.parametrize("member", list(FORGED)[:1])
def test_where_no_row_is_known_all_are_equals(
    tables: dict[str, Any], tmp_path: Path, member: str
) -> None:
    there, before, *_ = tables["not known"]
    assert before == tables["measured"][1]
    root = shutil.copytree(there, tmp_path / "results")
    put(root, FORGED[member]())
    twins, _ = answers(ours(root))
    assert twins.method.seeds == SEEDS + 3
    assert all(pair.matched for pair in pairs(twins.method.group))


@pytest.mark.parametrize("stranger", [0, 1], ids=["the twin", "the AWP model"])
def test_a_pair_with_a_stranger_is_shown_with_what_to_do(tmp_path: Path, stranger: int) -> None:
    pair = matched_pair(7)
    write_all(tmp_path, [*OURS, *pair])
    known = [*OURS, pair[1 - stranger]]
    prove(tmp_path, *known, how="measured")
    before = said(tmp_path)
    (shown,) = (p for p in pairs(ours(tmp_path)) if p.awp.card.name == pair[1].card.name)
    name = pair[stranger].card.name
    assert shown.remark == f"{name} is neither measured here nor proven; bench verify proves it"
    assert before[0][3] == tables_compared(tmp_path, SEEDS)
    prove(tmp_path, pair[stranger])
    assert said(tmp_path)[0][3] == tables_compared(tmp_path, SEEDS + 1)


def tables_compared(root: Path, seeds: int) -> frozenset[Any]:
    """What the method over so many seeds compares: every pair of the table that is averaged."""
    matched = [pair for pair in pairs(ours(root)) if pair.matched]
    assert len(matched) == seeds
    return frozenset(("last", pair.awp.record.id, pair.vanilla.record.id) for pair in matched)


def test_bytes_that_changed_are_not_known_and_a_note_says_so(
    tables: dict[str, Any], tmp_path: Path
) -> None:
    root = shutil.copytree(tables["measured"][0], tmp_path / "results")
    path = store.record_path(AWP, root)
    path.write_bytes(path.read_bytes() + b"\n")
    assert [len(row[3]) for row in said(root)] == [SEEDS - 1, SEEDS - 1]
    (note,) = table.build(root).notes
    assert note.startswith(f"{path.relative_to(root)}: changed since it was measured here")
    assert "bench verify" in note and "--again" in note
    prove(root, AWP, how="measured")  # as measuring again does
    assert said(root) == tables["measured"][1]


def test_a_measured_record_is_not_called_proven_and_lowers_no_other(tmp_path: Path) -> None:
    again = make_record(TWIN.card, robust=0.2, seed=5)
    write_all(tmp_path, [TWIN, again])
    prove(tmp_path, TWIN, again, how="measured")
    rows = table.build(tmp_path).groups[0].rows
    assert [(row.known, row.proven, row.record_count) for row in rows] == [(True, False, 1)] * 2
    assert [row.seed_range for row in rows] == [None, None]
    prove(tmp_path, again)
    found = {row.record.id: row for row in table.build(tmp_path).groups[0].rows}
    assert found[TWIN.id].record_count == 2
    assert found[again.id].proven and not found[TWIN.id].proven


@pytest.mark.parametrize("name", ["0", "x"])
def test_what_a_command_tells_of_a_record_is_of_its_own_row(tmp_path: Path, name: str) -> None:
    write_all(tmp_path, OURS[:2])
    prove(tmp_path, *OURS[:2], how="measured")
    outcome = Outcome(AWP, store.record_path(AWP, tmp_path), measured=True)
    before = told(outcome, table.build(tmp_path)).splitlines()
    put(tmp_path, [make_record(answered_alike(AWP, name=name).card, robust=0.94)])
    after = told(outcome, table.build(tmp_path)).splitlines()
    assert after == before


@pytest.mark.parametrize("images", ["0", "1"])
def test_the_heading_stays_with_the_known_rows(tmp_path: Path, images: str) -> None:
    write_all(tmp_path, OURS)
    prove(tmp_path, *OURS[:2], how="measured")
    before = ours(tmp_path).heading
    put(tmp_path, [of(r, name=f"x{k}") for k, r in enumerate(OURS)])
    crowd = [make_record(of(r, name=f"y{k}").card, examples_sha256=images * 64)
             for k, r in enumerate(2 * OURS)]  # fmt: skip
    put(tmp_path, crowd)
    assert ours(tmp_path).heading == before


def test_a_study_has_the_verdict_of_the_table_with_known_rows(tmp_path: Path) -> None:
    """Another table may show records of the same ids: an id is not that of the name or the split."""
    write_all(tmp_path, OURS)
    prove(tmp_path, *OURS, how="measured")
    (twins, _) = answers(ours(tmp_path))
    each = tuple(0.0 for _ in range(SEEDS))
    records = tuple((p.awp.record.id, p.vanilla.record.id) for p in twins.method.pairs)
    finding = Finding(
        contrast="a", kept="last", n=200, seeds=tuple(range(SEEDS)), records=records,
        differences={"worst case": each}, crossed=(0.0, 0.0),
    )  # fmt: skip
    study = StudyFile(name="s", question="?", primary=0, networks=(), findings=(finding,))
    before = of_studies(table.build(tmp_path).groups, [study])
    forged = []
    for seed in range(SEEDS):
        twin, awp = matched_pair(seed, vanilla=0.8, gain=-0.5)
        forged += [
            other_version(answered_alike(twin, name=f"x{seed}"), split="test[0:200] "),
            other_version(
                answered_alike(awp, name=f"y{seed}", pair=f"x{seed}"), split="test[0:200] "
            ),
        ]
    put(tmp_path, forged)
    groups = table.build(tmp_path).groups
    assert len(groups) == 2
    assert {record.id for record in forged} <= {record.id for record in OURS}
    for order in (groups, groups[::-1]):
        found = of_studies(order, [study])
        assert {k: v.words for k, v in found.items()} == {k: v.words for k, v in before.items()}
        assert {k: v.effect for k, v in found.items()} == {k: v.effect for k, v in before.items()}
