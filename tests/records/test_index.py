"""The index: whatever happens to a results folder, it says what reading every record says."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import table
from bench.records import index, store
from bench.records.entry import Entry, cost_texts
from bench.schema import EvaluationRecord, Flag
from tests.board.board_records import make_card, make_record, rewrite, write_all
from tests.speed.board import write_many

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Fields and properties that an entry shares with its record.
SHARED = (
    *("id", "card", "dataset", "split", "n", "examples_sha256", "threat", "protocol", "seed"),
    *("engine", "engine_version", "precision", "created", "flags", "failure", "seconds"),
)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written a moment ago count as known."""
    monkeypatch.setattr(index, "_SETTLED", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order."""
    read, seen = store.read_hashed, []

    def noted(path: Path) -> tuple[EvaluationRecord, str]:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(store, "read_hashed", noted)
    return seen


def assert_says(entry: Entry, record: EvaluationRecord) -> None:
    """An entry says what its record says."""
    for name in SHARED:
        assert getattr(entry, name) == getattr(record, name), name
    assert (entry.name, entry.weights_sha256) == (record.card.name, record.card.weights_sha256)
    assert entry.protocol_id == record.protocol.protocol_id
    outcomes = [outcome for column in record.columns.values() for outcome in column.outcomes]
    assert entry.passes == sum(o.forward_passes + o.backward_passes for o in outcomes)
    if record.failure is None:
        assert entry.columns == tuple(record.columns)
        assert (entry.counts, entry.robust_accuracy) == (record.counts, record.robust_accuracy)
        assert (entry.worst_case_standing == record.worst_case_standing).all()


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ((9_800, 4, 1, 12.4), ("2,450 passes an image", "9,800 a standing image", "12 s")),
        ((9_800, 4, 4, 0), ("2,450 passes an image", "2,450 a standing image", "0 s")),
        ((8, 4, 0, 1), ("2 passes an image", "no image stands", "1 s")),
        ((0, 4, 3, 1), ("0 passes an image", "0 a standing image", "1 s")),
        ((3 * 10**9, 1_000, 500, 1e4),
         ("3,000,000 passes an image", "6,000,000 a standing image", "10,000 s")),
    ],
)  # fmt: skip
def test_a_cost_is_said_in_passes_before_seconds(cost, said):
    assert cost_texts(*cost) == said


def assert_indexed(root: Path, cache: Path | None) -> None:
    """The collection of entries is the collection of records."""
    said, read = index.collect(root, cache), store.collect(root)
    assert (said.paths, said.withdrawn, said.problems) == (
        read.paths,
        read.withdrawn,
        read.problems,
    )
    for entry, record in zip(
        (*said.records, *said.failed), (*read.records, *read.failed), strict=True
    ):
        assert_says(entry, record)
        assert entry.whole == record


# ---------------------------------------------------------------- what an entry says


@pytest.mark.parametrize("n", [1, 8, 9])
def test_an_entry_says_what_its_record_says(tmp_path: Path, n: int) -> None:
    doubt = (Flag(name="zero-gradients", message="é<b>", values={"share": 0.25, "no": False}),)
    records = [
        make_record(n=n, flags=doubt, seed=2**70),
        make_record(make_card("b", awp=None, train=None, seed=None), n=n, protocol="gradient"),
        make_record(make_card("c"), n=n, failure="the logits are NaN"),
    ]
    write_all(tmp_path, records)
    for _ in range(2):
        assert_indexed(tmp_path, tmp_path / "cache")
    assert_indexed(tmp_path, None)


def test_records_of_an_older_schema_are_indexed(tmp_path: Path, settled: None, reads: Any) -> None:
    old = sorted(FIXTURES.glob("record-v*/*.json"))
    assert old
    for path in old:
        folder = tmp_path / "digits" / "linf-0.15" / path.parent.name
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
    for _ in range(2):
        assert_indexed(tmp_path, tmp_path / "cache")
    reads.clear()
    assert len(index.collect(tmp_path, tmp_path / "cache").records) == len(old)
    assert not reads


def test_a_known_record_is_not_read_again(tmp_path: Path, settled: None, reads: Any) -> None:
    cache = tmp_path / "cache"
    first, second = write_all(tmp_path, [make_record(make_card(name)) for name in "ab"])
    index.collect(tmp_path, cache)
    reads.clear()
    index.collect(tmp_path, cache)
    assert reads == []
    rewrite(second, seconds=1234.5)
    index.collect(tmp_path, cache)
    assert reads == [second]
    first.unlink()
    assert [entry.name for entry in index.collect(tmp_path, cache).records] == ["b"]


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path, reads: Any) -> None:
    (path,) = write_all(tmp_path, [make_record()])
    for _ in range(2):  # its stamp may stay the same when it changes again
        index.collect(tmp_path, tmp_path / "cache")
    assert reads == [path, path]


# ---------------------------------------------------------------- whatever happens

NAMES = tuple("abc")
CHANGES: dict[str, Callable[[Path, Path], None]] = {
    "touch": lambda path, root: path.touch(),
    "remove": lambda path, root: path.unlink(),
    "truncate": lambda path, root: path.write_bytes(path.read_bytes()[:-9]),
    "damage": lambda path, root: path.write_bytes(b"\xff" + path.read_bytes()[1:]),
    "edit": lambda path, root: rewrite(path, seconds=path.stat().st_size),
    "contradict": lambda path, root: rewrite(path, n=7),
    "newer schema": lambda path, root: rewrite(path, schema_version=99),
    "withdraw": lambda path, root: path.with_suffix(".withdrawn.json").write_text(
        json.dumps({"reason": "wrong eps"})
    ),
    "refuse": lambda path, root: path.with_suffix(".refused.json").write_text("{}"),
    "move": lambda path, root: path.parent.rename(path.parent.with_name("z" + path.parent.name)),
    "swap": lambda path, root: path.replace(path.with_name("0" * 16 + ".json")),
}


@settings(max_examples=12, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(("add", "fail", *CHANGES))),
        min_size=1,
        max_size=5,
    )
)
def test_the_index_follows_every_change(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("results")
    cache = root.parent / "cache"
    write_all(root, [EXAMPLES["a"]])
    age(root)
    index.collect(root, cache)
    for name, what in steps:
        if what == "add":
            path = store.record_path(EXAMPLES[name], root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(store.text_of(EXAMPLES[name]))
        elif what == "fail":
            store.write(FAILURES[name], root)
        else:
            mine = [p for p in root.glob(f"*/*/*{name}/*.json") if p.name.count(".") == 1]
            for path in mine[:1]:
                if _is_record(path) or what in ("remove", "withdraw"):
                    CHANGES[what](path, root)
        age(root)
        for _ in range(2):  # as the change is seen, and as it is remembered
            assert_indexed(root, cache)


CLOCK = itertools.count(10**18)  # ns since 1970: in 2001


def age(root: Path) -> None:
    """Every file that changed just now did so long ago, each at a time of its own."""
    for path in root.rglob("*.json"):
        if path.stat().st_mtime_ns > time.time_ns() - 3600 * 10**9:
            moment = next(CLOCK)
            os.utime(path, ns=(moment, moment))


def _is_record(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text()), dict)
    except ValueError:
        return False


EXAMPLES = {name: make_record(make_card(name), n=20, protocol="gradient") for name in NAMES}
FAILURES = {name: make_record(make_card(name), n=20, failure="NaN logits") for name in NAMES}


# ---------------------------------------------------------------- other processes


@pytest.mark.parametrize(
    ("program", "read_here"),
    [(sys.executable, 5), ("/bin/false", 9), ("/nonexistent", 9)],
    ids=["works", "fails", "missing"],
)
def test_other_processes_read_the_same(
    tmp_path: Path, monkeypatch: Any, settled: None, reads: Any, program: str, read_here: int
) -> None:
    monkeypatch.setattr(index, "_WORTH_A_PROCESS", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(sys, "executable", program)
    paths = write_many(tmp_path / "r", groups=1, rows=8, n=9)
    max(paths).write_text("{")
    write_all(tmp_path / "r", [FAILURES["a"]])
    said = index.collect(tmp_path / "r", tmp_path / "cache")
    assert len(said.problems) == 1
    assert len(reads) == read_here  # the first half, and what another process could not
    assert_indexed(tmp_path / "r", tmp_path / "cache")


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:10],
        lambda raw: raw[:-1],
        lambda raw: raw[:100] + bytes([raw[100] ^ 1]) + raw[101:],
        lambda raw: bytes([raw[0] ^ 1]) + raw[1:],  # of another version
    ],
)
def test_a_damaged_index_is_made_again(
    tmp_path: Path, settled: None, reads: Any, damage: Callable[[bytes], bytes]
) -> None:
    cache = tmp_path / "cache"
    write_all(tmp_path, [make_record(make_card(name)) for name in "ab"])
    index.collect(tmp_path, cache)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert_indexed(tmp_path, cache)
    assert file.read_bytes() == sound
    reads.clear()
    index.collect(tmp_path, cache)
    assert reads == []


def test_an_index_that_cannot_be_kept_costs_time_alone(tmp_path: Path) -> None:
    write_all(tmp_path, [make_record()])
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert_indexed(tmp_path, tmp_path / "cache")


def test_two_folders_have_two_indexes(tmp_path: Path, settled: None, reads: Any) -> None:
    for name in "ab":
        write_all(tmp_path / name, [make_record(make_card(name))])
    for name in "abab":
        (entry,) = index.collect(tmp_path / name, tmp_path / "cache").records
        assert entry.name == name
    assert len(reads) == 2


# ---------------------------------------------------------------- many


def test_groups_are_ranked_when_they_are_shown(tmp_path: Path, monkeypatch: Any) -> None:
    write_many(tmp_path / "r", groups=3, rows=4, n=20)
    ranked, seen = table._ranked, []
    monkeypatch.setattr(table, "_ranked", lambda *a: seen.append(a) or ranked(*a))
    board = table.build(tmp_path / "r")
    assert [len(group.members) for group in board.groups] == [4, 4, 4]
    assert (board.groups[0].heading, seen) == (board.groups[0].heading, [])
    assert board.groups[1].rows is board.groups[1].rows
    assert len(seen) == 1


def test_a_duplicate_that_goes_while_it_is_compared_is_a_note(tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record()])
    copy = path.parent.parent / "copy" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    collection = index.collect(tmp_path)
    copy.unlink()
    board = table.rank_collection(collection, tmp_path)
    assert len(board.groups[0].rows) == 1
    assert "no record at" in board.notes[0]
