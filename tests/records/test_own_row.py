"""A record speaks for its own row: whatever one says, the rows of the others say what they said."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import protocols, table
from bench.board.records import folder_state
from bench.exports import render
from bench.exports.data import csv_text
from bench.exports.details import details
from bench.measure.request import Request
from bench.protocols import protocol
from bench.records import proven, store
from bench.records.entry import Entry
from bench.records.proven import NAME, Proof
from bench.schema import AwpConfig, Column, EvaluationRecord, InvalidInput, Protocol
from bench.schema.packing import pack_ints
from bench.schema.record import ColumnOutcome
from bench.stats.contrasts import methods, pairs
from tests.board.board_records import (
    asked_by,
    make_card,
    make_record,
    matched_pair,
    named,
    other_version,
    prove,
    sha,
    write_all,
)

HONEST = ("a", "b")


def honest(root: Path, *, proved: bool) -> dict[str, EvaluationRecord]:
    """Two models of one table; of one of them a second answer, from another seed."""
    records = {name: named(name, share) for name, share in (("a", 0.6), ("b", 0.5))}
    write_all(root, [*records.values()])
    if proved:
        again = named("a", 0.58, seed=1, noise=0.3)
        write_all(root, [again])
        prove(root, *records.values(), again)
    return records


def said(root: Path) -> dict[str, Any]:
    """What the honest rows say, wherever they stand, and how their table is headed."""
    board = table.build(root)
    ids = {named(name, 0.5).id for name in HONEST}
    found = [(g, r) for g in board.groups for r in g.rows if r.record.id in ids]
    rows = {
        row.card.name: (
            *answer(row.record),
            int(row.best_known.sum()),
            row.record_count,
            row.seed_range,
        )
        for _, row in found
        if row.card.name in HONEST
    }
    group = found[0][0]
    markdown = render.markdown(board)
    return {
        "rows": rows,
        "labels": group.labels,
        "heading": group.heading,
        "columns": [c.name for c in group.columns],
        "headed": [line for line in markdown.splitlines() if line.startswith("| rank")][0],
    }


def answer(record: EvaluationRecord | Entry) -> tuple[str, dict[str, float], float]:
    return (record.id, record.robust_accuracy, record.worst_case)


def forged(record: EvaluationRecord, **fields: Any) -> EvaluationRecord:
    """The record with other fields, under the id that they give."""
    return other_version(record, **fields)


def fewer(record: EvaluationRecord, robust: float = 0.1, **fields: Any) -> EvaluationRecord:
    """Of the same weights and name, with fewer images standing."""
    return make_record(record.card, robust=robust, **fields)


def relabelled(record: EvaluationRecord, text: str) -> Protocol:
    asked = record.protocol
    columns = tuple(c.model_copy(update={"label": text}) for c in asked.columns)
    return asked.model_copy(update={"columns": columns})


def flipped(record: EvaluationRecord) -> EvaluationRecord:
    """With other labels, and predictions that fit them."""
    other = pack_ints((record.label_array + 1) % 10)
    right = pack_ints((record.clean_prediction_array + 1) % 10)
    return forged(record, labels=other, clean_predictions=right)


def reordered(record: EvaluationRecord) -> EvaluationRecord:
    asked = record.protocol
    return forged(record, protocol=asked.model_copy(update={"columns": asked.columns[::-1]}))


def weakened(record: EvaluationRecord, **fields: Any) -> EvaluationRecord:
    """Of the protocol's name, with PGD of two steps alone."""
    spec = record.protocol.columns[1].attacks[0]
    weak = spec.model_copy(update={"params": {**spec.params, "steps": 2}})
    column = Column(name="pgd20", label="AutoAttack", attacks=(weak,))
    return asked_by(record, Protocol(name="standard", version=1, columns=(column,), **fields))


def for_fewer_classes(record: EvaluationRecord, classes: int) -> EvaluationRecord:
    """Of the protocol's name, with the attacks and the card of fewer classes."""
    asked = protocol("standard", classes=classes)
    columns = {}
    for column in asked.columns:
        outcomes = zip(record.columns[column.name].outcomes, column.attacks, strict=True)
        columns[column.name] = ColumnOutcome(
            column_id=column.column_id,
            outcomes=tuple(o.model_copy(update={"spec": spec}) for o, spec in outcomes),
        )
    card = record.card.model_copy(update={"class_count": classes})
    return forged(record, card=card, protocol=asked, columns=columns)


X = make_card("x")
SAME = {"weights_sha256": sha("a"), "n_parameters": 47_610}  # the network of the honest row a
Forgery = Callable[[dict[str, EvaluationRecord]], EvaluationRecord]

# Member -> the forged record, and a word of the note that names it; empty: it has a row of its own.
MEMBERS: dict[str, tuple[Forgery, str]] = {
    "a label renames a column": (
        lambda h: forged(named("0", 0.7), protocol=relabelled(named("0", 0.7), "=RENAMED()")), ""
    ),
    "another name, the same weights, fewer standing": (
        lambda h: make_record(make_card("x", **SAME), robust=0.05), "same id"
    ),
    "another seed, fewer standing": (lambda h: fewer(h["a"], seed=5), ""),
    "a lower seed, more standing": (lambda h: fewer(h["a"], 0.94, seed=-1), ""),
    "a newer engine, more standing": (
        lambda h: fewer(h["a"], 0.94, engine_version="99", created="2099-01-01T00:00:00Z"), ""
    ),
    "another protocol, fewer standing": (
        lambda h: fewer(h["a"], protocol="autoattack"), ""
    ),
    "mixed precision, fewer standing": (lambda h: fewer(h["a"], precision="mixed"), ""),
    "weaker attacks by the protocol's name": (lambda h: weakened(named("x", 0.9)), "is not that"),
    "a wider tolerance by the protocol's name": (
        lambda h: forged(
            named("x", 0.9),
            protocol=protocol("standard").model_copy(update={"linf_tolerance": 0.1}),
        ), "is not that",
    ),
    "the attacks for fewer classes than its images have": (
        lambda h: for_fewer_classes(named("x", 0.9), 2), "is not that"
    ),
    "the attacks for fewer classes than its answers have": (
        lambda h: for_fewer_classes(named("x", 0.9), 9), "is not that"
    ),
    "other images by the same words": (
        lambda h: make_record(X, robust=0.9, examples_sha256=sha("other images")), ""
    ),
    "another order of the columns": (lambda h: reordered(named("0", 0.9)), "is not that"),
    "flipped labels": (lambda h: flipped(named("x", 0.9)), "labels are not those"),
    "other images by the same hash": (
        lambda h: make_record(X, n=100, examples_sha256=h["a"].examples_sha256, split=h["a"].split),
        "labels are not those",
    ),
    "fewer images of the same network": (
        lambda h: fewer(h["a"], n=100, seed=3, examples_sha256=h["a"].examples_sha256),
        "labels are not those",
    ),
    "the protocol's name in other classes": (
        lambda h: forged(
            make_record(make_card("x", class_count=10), robust=0.9),
            protocol=protocol("autoattack").model_copy(update={"name": "standard"}),
            columns={"autoattack": named("x", 0.9).columns["autoattack"]},
        ), "is not that",
    ),
}  # fmt: skip


@pytest.mark.parametrize("proved", [True, False], ids=["proven", "bare"])
@pytest.mark.parametrize("member", MEMBERS)
def test_the_other_rows_say_what_they_said(tmp_path: Path, member: str, proved: bool) -> None:
    records = honest(tmp_path, proved=proved)
    before = said(tmp_path)
    forge, note = MEMBERS[member]
    record = forge(records)
    folder = tmp_path / "digits" / "linf-0.15" / "0-first"  # read before the others
    folder.mkdir()
    path = folder / f"{record.id}.json"
    path.write_text(store.text_of(record))
    assert said(tmp_path) == before
    board = table.build(tmp_path)
    shown = [row.path for group in board.groups for row in group.rows]
    notes = [line for line in board.notes if path.name in line]
    if note == "same id" and not proved:  # neither is proven: each in a row of its own
        assert path in shown
        assert "each speaks for its own row alone" in notes[0]
    else:
        assert (path in shown) == (not note)
        assert all(note in line for line in notes)
        assert bool(notes) == bool(note)
    assert set(before["rows"]) == set(HONEST)


def test_a_proven_record_lowers_the_best_known_of_its_network(tmp_path: Path) -> None:
    records = honest(tmp_path, proved=True)
    before = said(tmp_path)["rows"]["a"]
    other = make_record(records["a"].card, robust=0.3, seed=5, noise=0.3)
    write_all(tmp_path, [other])
    assert said(tmp_path)["rows"]["a"] == before
    prove(tmp_path, other)
    after = said(tmp_path)["rows"]
    assert after["a"][:3] == before[:3]
    assert after["a"][3] < before[3]
    assert after["a"][4] == before[4] + 1
    assert after["a"][5].seeds == (0, 1, 5)


def test_a_row_rests_on_its_own_record_whether_or_not_it_is_proven(tmp_path: Path) -> None:
    """Of one network two records, one of them proven: the other's row knows of both."""
    first = named("a", 0.6)
    second = make_record(first.card, robust=0.4, seed=1, noise=0.3)
    write_all(tmp_path, [first, second])
    prove(tmp_path, second)
    rows = {row.record.seed: row for row in table.build(tmp_path).groups[0].rows}
    both = first.worst_case_standing & second.worst_case_standing
    assert (rows[0].best_known == both).all()
    assert (rows[1].best_known == second.worst_case_standing).all()
    assert (rows[0].seed_range is None, rows[1].seed_range) == (False, None)


@pytest.mark.parametrize("how", ["edited", "other whitespace", "moved away"])
def test_a_proven_record_that_changed_is_not_proven(tmp_path: Path, how: str) -> None:
    records = honest(tmp_path, proved=True)
    other = make_record(records["a"].card, robust=0.3, seed=5, noise=0.3)
    (path,) = write_all(tmp_path, [other])
    without = said(tmp_path)
    prove(tmp_path, other)
    assert said(tmp_path) != without
    if how == "edited":
        worse = make_record(records["a"].card, robust=0.2, seed=5, noise=0.3)
        path.write_text(store.text_of(worse))
    elif how == "other whitespace":
        path.write_bytes(path.read_bytes() + b"\n")
    else:
        path.unlink()
    assert said(tmp_path) == without
    (note,) = table.build(tmp_path).notes
    below = path.relative_to(tmp_path).as_posix()
    assert below in note
    assert ("not here" if how == "moved away" else "changed since it was proven") in note


def test_a_proven_record_is_the_same_in_another_folder(tmp_path: Path) -> None:
    honest(tmp_path, proved=True)
    before = said(tmp_path)
    folder = tmp_path / "digits" / "linf-0.15"
    shutil.copytree(folder / "a", folder / "0-copy")
    assert said(tmp_path) == before
    assert table.build(tmp_path).notes == ()


@pytest.mark.parametrize("first", ["0-first", "z-last"])
def test_of_one_id_under_one_name_the_one_in_its_place_is_believed(
    tmp_path: Path, first: str
) -> None:
    """Where neither is proven: another record of the id cannot lie in that place."""
    records = honest(tmp_path, proved=False)
    before = said(tmp_path)
    folder = tmp_path / "digits" / "linf-0.15" / first
    folder.mkdir()
    record = make_record(records["a"].card, robust=0.05)
    assert record.id == records["a"].id
    (folder / f"{record.id}.json").write_text(store.text_of(record))
    assert said(tmp_path) == before
    (note,) = table.build(tmp_path).notes
    assert note.startswith(f"digits/linf-0.15/{first}/")
    assert "same id; skipped" in note


def test_labels_without_a_proven_record_are_those_that_most_hold(tmp_path: Path) -> None:
    records = [named(name, 0.5) for name in "abc"]
    lying = flipped(named("0", 0.9))
    write_all(tmp_path, [*records, lying])
    names = [row.card.name for row in table.build(tmp_path).groups[0].rows]
    assert sorted(names) == ["a", "b", "c"]
    prove(tmp_path, lying)  # verify would not: it holds labels against the images
    names = [row.card.name for row in table.build(tmp_path).groups[0].rows]
    assert names == ["0"]


@pytest.mark.parametrize("proved", [True, False], ids=["proven", "bare"])
@pytest.mark.parametrize("text", ['{"reason": "a good one"}', "", "[]"])
def test_a_withdrawal_takes_out_the_record_that_it_lies_beside(
    tmp_path: Path, text: str, proved: bool
) -> None:
    records = honest(tmp_path, proved=proved)
    before = said(tmp_path)
    b = store.record_path(records["b"], tmp_path)
    beside_b = b.with_name(f"{records['a'].id}{store.WITHDRAWN}")
    beside_b.write_text(text)
    assert said(tmp_path) == before
    b.with_suffix(store.WITHDRAWN).write_text(text)
    assert [row.card.name for row in table.build(tmp_path).groups[0].rows].count("b") == 0


# ---------------------------------------------------------------- headings


@pytest.mark.parametrize("proved", [True, False], ids=["proven", "bare"])
@pytest.mark.parametrize(
    "images", ["0", "1"]
)  # whose hash comes before that of the others, or after
def test_no_two_tables_have_one_heading(tmp_path: Path, images: str, proved: bool) -> None:
    honest(tmp_path, proved=proved)
    before = said(tmp_path)["heading"]
    write_all(tmp_path, [make_record(X, robust=0.9, examples_sha256=images * 64)])
    headings = {row.card.name: g.heading for g in table.build(tmp_path).groups for row in g.rows}
    assert headings == {"a": before, "b": before, "x": f"{before} (other images {images * 8})"}


def test_a_foreign_column_is_headed_by_its_own_name_in_its_own_table(tmp_path: Path) -> None:
    columns = [c for c in protocol("gradient").columns if c.name != "fgsm"]
    weak = columns[0].attacks[0]
    weak = weak.model_copy(update={"params": {**weak.params, "steps": 2}})
    own = Column(name="fgsm", label="AutoAttack\u202e<b>", attacks=(weak,))
    mine = Protocol(name="mine", version=1, columns=(columns[1], own, columns[0]))
    record = asked_by(named("x", 0.6), mine)
    write_all(tmp_path, [record, named("a", 0.5)])
    standard, foreign = table.build(tmp_path).groups
    assert foreign.labels == {  # our columns as we call them, in an order that no record decides
        "clean": "clean", "cw": "CW-inf (margin PGD-100)", "fgsm": "fgsm", "pgd20": "PGD-20",
    }  # fmt: skip
    assert foreign.heading.startswith("demo: digits, linf:0.15, mine (id ")
    assert list(standard.labels.values())[1:] == [c.label for c in protocol("standard").columns]
    board = table.build(tmp_path)
    text = render.markdown(board) + csv_text(board.groups)
    text += json.dumps(details(foreign, foreign.rows[0]))
    assert "<b>" not in text
    header = next(csv.reader(io.StringIO(csv_text(board.groups))))
    assert {name for name in header if name.startswith("fgsm@")} == {
        f"fgsm@{column.column_id}" for column in (own, protocol("standard").columns[0])
    }


@pytest.mark.parametrize("name", protocols.PROTOCOL_NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3, 5, 10, 100])
def test_our_protocols_are_known_by_their_ids(name: str, norm: Any, classes: int) -> None:
    try:
        ours = protocol(name, norm=norm, classes=classes)
    except InvalidInput:
        assert protocols.meanings(name, norm, classes) == {}
        return
    assert protocols.meanings(name, norm, classes)[ours.protocol_id] == ours
    assert protocols.meanings(name, norm)[ours.protocol_id] == ours
    for column in ours.columns:
        assert protocols.label(column.name, column.column_id, norm) == column.label


# ---------------------------------------------------------------- contrasts


@pytest.mark.parametrize("claims", [0, 1], ids=["the twin's name", "the AWP model's name"])
@pytest.mark.parametrize("created", ["2000-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_another_network_of_a_proven_name_changes_no_contrast(
    tmp_path: Path, claims: int, created: str
) -> None:
    pair = matched_pair(0)
    write_all(tmp_path, pair)
    prove(tmp_path, *pair)
    (before,) = methods(table.build(tmp_path).groups[0])
    card = pair[claims].card.model_copy(update={"weights_sha256": sha("another")})
    write_all(tmp_path, [make_record(card, robust=0.2, created=created)])
    (after,) = methods(table.build(tmp_path).groups[0])
    assert after.differences == before.differences


def test_a_name_that_two_claim_without_proof_is_in_no_mean(tmp_path: Path) -> None:
    vanilla, awp = matched_pair(0)
    card = vanilla.card.model_copy(update={"weights_sha256": sha("another")})
    write_all(tmp_path, [vanilla, awp, make_record(card, robust=0.2)])
    group = table.build(tmp_path).groups[0]
    (pair,) = pairs(group)
    assert pair.remark == f"several records are called {vanilla.card.name}, none is proven"
    assert methods(group) == ()
    assert isinstance(awp.card.awp, AwpConfig)


# ---------------------------------------------------------------- the list


def proof(record: str = "d/t/m/0.json", text: str = "x") -> Proof:
    return Proof(record=record, sha256=sha(text), date="2026-11-20T12:00:00Z", engine="2")


def test_the_list_has_a_line_a_record_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b", "a", "c", "a"):
        proven.add(tmp_path, proof(f"d/t/m/{name}.json", name))
    lines = (tmp_path / NAME).read_text().splitlines()
    assert [json.loads(line)["record"] for line in lines] == [f"d/t/m/{k}.json" for k in "abc"]
    assert proven.read(tmp_path) == (
        {sha(k): proof(f"d/t/m/{k}.json", k) for k in "abc"},
        [],
    )
    proven.add(tmp_path, proof("d/t/m/b.json", "b changed"))  # takes the place of the old one
    assert sorted(proven.read(tmp_path)[0]) == sorted(map(sha, ("a", "b changed", "c")))
    proven.remove(tmp_path, "d/t/m/b.json")
    assert sorted(proven.read(tmp_path)[0]) == sorted(map(sha, "ac"))


def test_a_proof_takes_the_place_of_a_measurement_and_not_the_reverse(tmp_path: Path) -> None:
    here = proof().model_copy(update={"how": "measured"})
    for line, said in ((here, here), (proof(), proof()), (here, proof())):
        proven.add(tmp_path, line)
        assert proven.read(tmp_path) == ({sha("x"): said}, [])
    assert b"how" not in (tmp_path / NAME).read_bytes()  # lines of before stay as they are
    changed = here.model_copy(update={"sha256": sha("changed")})
    proven.add(tmp_path, changed)
    assert proven.read(tmp_path)[0] == {sha("changed"): changed}
    assert b'"how": "measured"' in (tmp_path / NAME).read_bytes()
    proven.remove(tmp_path, changed.record)
    assert proven.read(tmp_path)[0] == {}


@pytest.mark.parametrize("order", [1, -1])
def test_the_lists_of_two_machines_are_joined_line_by_line(tmp_path: Path, order: int) -> None:
    """One has proven what the other measured, and each has measured the same in its own bytes."""
    write_all(tmp_path, [named("a", 0.5), named("b", 0.5)])
    prove(tmp_path, named("a", 0.5), named("b", 0.5), how="measured")
    one = (tmp_path / NAME).read_bytes().splitlines()
    prove(tmp_path, named("a", 0.5))
    two = (tmp_path / NAME).read_bytes().splitlines()
    bytes_of_b = json.loads(two[1]) | {"sha256": sha("its own bytes")}
    lines = [*one, two[0], json.dumps(bytes_of_b).encode(), b"<<<<<<< junk"]
    (tmp_path / NAME).write_bytes(b"\n".join(lines[::order]) + b"\n")
    board = table.build(tmp_path)
    found = {row.card.name: (row.known, row.proven) for row in board.groups[0].rows}
    assert found == {"a": (True, True), "b": (True, False)}
    (note,) = board.notes
    assert "1 lines are no proof and are ignored" in note


def test_what_is_in_the_list_already_changes_no_file(tmp_path: Path) -> None:
    proven.add(tmp_path, proof())
    before = (tmp_path / NAME).stat()
    proven.add(tmp_path, proof().model_copy(update={"date": "2030-01-01T00:00:00Z"}))
    proven.remove(tmp_path, "d/t/m/unknown.json")
    after = (tmp_path / NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


DAMAGE: dict[str, tuple[Callable[[Path], object], str, bool]] = {  # -> note, whether a is proven
    "missing": (lambda path: path.unlink(), "", False),
    "a link": (
        lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")), "is a link", False
    ),
    "a link to nowhere": (
        lambda path: (path.unlink(), path.symlink_to("nowhere")), "is a link", False
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "not a regular file", False),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file", False),
    "huge": (lambda path: os.truncate(path, proven.LARGEST + 1), "are read", False),
    "no text": (lambda path: path.write_bytes(b"\xff\x00" * 99), "1 lines are no proof", False),
    "marks of a merge": (
        lambda path: path.write_bytes(b"<<<<<<< ours\n" + path.read_bytes() + b">>>>>>> theirs\n"),
        "2 lines are no proof and are ignored (line 1, 5)", True,
    ),
    "in another order, twice": (
        lambda path: path.write_bytes(b"\n".join(path.read_bytes().splitlines()[::-1] * 2)), "", True
    ),
    "unknown records": (
        lambda path: proven.add(path.parent, proof()), "1 lines are of records that are not here", True
    ),
    "a field more": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"date"', b'"x": 1, "date"')),
        "3 lines are no proof", False,
    ),
    "of a kind that is not ours": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"date"', b'"how": "x", "date"')),
        "3 lines are no proof", False,
    ),
    "another hash": (
        lambda path: path.write_text(
            "\n".join(
                json.dumps(json.loads(line) | {"sha256": sha(line)})
                for line in path.read_text().splitlines()
            )
        ),
        "changed since it was proven", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_list_that_is_not_sound_is_named_and_proves_nothing(tmp_path: Path, kind: str) -> None:
    honest(tmp_path, proved=True)
    sound = said(tmp_path)["rows"]["a"]
    damage, note, proves = DAMAGE[kind]
    damage(tmp_path / NAME)
    board = table.build(tmp_path)
    assert any(note in line for line in board.notes) == bool(note)
    assert str(tmp_path) not in "".join(board.notes)
    found = said(tmp_path)["rows"]["a"]
    assert (found == sound) == proves
    if not proves:
        own = named("a", 0.6)
        assert found[:5] == (*answer(own), own.worst_case_count, 1)


@pytest.mark.parametrize("kind", ["a link", "a folder", "huge"])
def test_a_list_that_is_not_sound_is_not_written_over(tmp_path: Path, kind: str) -> None:
    honest(tmp_path, proved=True)
    DAMAGE[kind][0](tmp_path / NAME)
    with pytest.raises(InvalidInput, match="left in place"):
        proven.add(tmp_path, proof())


def test_lines_that_cannot_be_read_stay(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"<<<<<<< ours\n")
    proven.add(tmp_path, proof())
    assert (tmp_path / NAME).read_bytes().startswith(b"<<<<<<< ours\n{")
    assert list(proven.read(tmp_path)[0]) == [sha("x")]


def _add(root: Path, number: int) -> None:
    proven.add(root, proof(f"d/t/m/{number}.json", str(number)))


def test_of_several_at_once_none_is_lost(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_add, args=(tmp_path, k)) for k in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(proven.read(tmp_path)[0]) == {sha(str(k)) for k in range(6)}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_dies_leaves_the_old_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    proven.add(tmp_path, proof())
    before = (tmp_path / NAME).read_bytes()

    def dies(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, step, dies)
    with pytest.raises(KeyboardInterrupt):
        proven.add(tmp_path, proof("d/t/m/1.json", "y"))
    monkeypatch.undo()
    assert (tmp_path / NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    proven.add(tmp_path, proof("d/t/m/1.json", "y"))  # nothing holds the lock
    assert len(proven.read(tmp_path)[0]) == 2


def test_a_page_sees_that_the_list_changed(tmp_path: Path) -> None:
    honest(tmp_path, proved=False)
    before = folder_state(tmp_path)
    prove(tmp_path, named("a", 0.6))
    assert folder_state(tmp_path) != before


def test_the_list_of_the_results_names_files_as_they_are() -> None:
    root = Path(__file__).parents[2] / "results"
    proofs, notes = proven.read(root)
    assert notes == []
    files = [path for path in store.record_files(root) if path.name.count(".") == 1]
    assert len(proofs) == len(files)  # all were measured by this project
    for sha256, each in proofs.items():
        record = store.read(root / each.record)
        assert store.sha256_of(root / each.record) == sha256
        assert store.record_path(record, root) == root / each.record
        assert record.id == Request.of(record).id
        assert np.unique(record.label_array).size > 1
