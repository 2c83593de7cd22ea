"""Whatever lies where a file of ours is expected is refused in bounded time and memory, and named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import table, training_log
from bench.__main__ import main
from bench.catalogue import DATASETS, unknown_name
from bench.published import files
from bench.records import entry, index, store
from bench.records.one_read import read_whole
from bench.schema import InvalidInput
from bench.schema.errors import visible
from tests.board.board_records import make_record, write_all
from tests.records.hostile import FILES, JSON, LARGE, SECONDS, SECRET, UNSIGNED, cases

RESULTS = Path(__file__).parents[2] / "results"
FORMS = {form: what for form, what in (FILES | JSON).items() if form != LARGE}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """What one process with little memory says of every kind in every form."""
    folder = tmp_path_factory.mktemp("hostile")
    call = [sys.executable, "-m", "tests.records.hostile", str(folder), str(RESULTS)]
    done = subprocess.run(call, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, tuple[str, float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("kind", "form"), cases())
def test_a_hostile_file_is_refused_and_shows_nothing_of_itself(kind, form, said):
    sentence, seconds = said[f"{kind}/{form}"]
    assert re.search((FILES | JSON)[form][1], sentence)
    assert seconds < SECONDS
    assert form.replace(" ", "-") in sentence  # the path
    assert SECRET[:5] not in sentence and len(sentence) < 700
    assert visible(sentence) == sentence


# ---------------------------------------------------------------- one bad file stops nothing


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A results folder with one good record, and beside it one of every hostile form."""
    (good,) = write_all(tmp_path / "results", [make_record()])
    for place, (make, _) in enumerate(FORMS.values()):
        folder = good.parent.parent / f"hostile-{place}"
        folder.mkdir()
        make(folder / f"{place:016x}.json", good.read_bytes())
    (good.parent.parent / "red\x1b[31m").mkdir()
    (good.parent.parent / "red\x1b[31m" / good.name).write_bytes(good.read_bytes())
    (good.parent.parent / "loop").symlink_to(good.parent.parent)  # not walked
    return tmp_path / "results"


def test_the_table_names_every_bad_file_and_keeps_the_good_one(
    board, tmp_path, monkeypatch, capsys
):
    made = table.build(board, cache=tmp_path / "cache")
    assert [len(group.rows) for group in made.groups] == [1]
    assert len(made.notes) == len(FORMS) + 1
    for place, (_, words) in enumerate(FORMS.values()):
        (note,) = (note for note in made.notes if f"/hostile-{place}/" in note)
        assert re.search(f"{words}|{UNSIGNED}", note)
    monkeypatch.chdir(tmp_path)
    assert main(["table", "--results", str(board)]) == 0
    assert "\x1b" not in (out := capsys.readouterr()).out + out.err
    assert "\x1b" not in (board / "LEADERBOARD.md").read_text()


def test_a_refusal_is_remembered_by_stamp_and_forgotten_with_it(board, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SETTLED", 0)
    read, seen = entry.read, []
    monkeypatch.setattr(entry, "read", lambda path: (seen.append(path), read(path))[1])
    first = index.collect(board, tmp_path / "cache")
    assert len(seen) == len(FORMS) + 1
    seen.clear()
    again = index.collect(board, tmp_path / "cache")
    assert not seen and again.problems == first.problems
    monkeypatch.chdir(board.parent)
    relative = index.collect(Path("results"), tmp_path / "cache")  # the same folder
    assert not seen
    assert [p.replace("results/", f"{board}/", 1) for p in relative.problems] == [*first.problems]
    repaired = next(board.rglob(f"hostile-{len(FILES)}/*.json"))
    (good,) = first.paths
    repaired.unlink()
    repaired.with_name(good.name).write_bytes(good.read_bytes())
    assert len(index.collect(board, tmp_path / "cache").records) == 2
    assert seen == [repaired.with_name(good.name)]


def test_what_could_not_be_read_this_time_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SETTLED", 0)
    (path,) = write_all(tmp_path / "results", [make_record()])
    opened = os.open

    def closed(name, *more):
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied")
        return opened(name, *more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", closed)
        (problem,) = index.collect(tmp_path / "results", tmp_path / "cache").problems
    assert "cannot be read (Permission denied)" in problem
    assert len(index.collect(tmp_path / "results", tmp_path / "cache").records) == 1


@pytest.mark.parametrize("error", [OverflowError, RecursionError, MemoryError, KeyError])
def test_a_contradiction_that_no_check_foresaw_keeps_one_record_out(error, tmp_path, monkeypatch):
    good, bad = write_all(tmp_path, [make_record(), make_record(seed=1)])
    real = entry.read

    def failing(path):
        if path == bad:
            raise error("at a secret place")
        return real(path)

    monkeypatch.setattr(entry, "read", failing)
    found = index.collect(tmp_path)
    assert found.paths == (good,)
    assert found.problems == (f"{bad} contradicts itself ({error.__name__}); it is left in place",)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize(
    "name", ["robustbench_cifar10_linf.csv", "model_info/cifar10/Linf/Nobody2020.json"]
)
def test_published_numbers_that_are_no_file_are_noted(name, form, tmp_path):
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    FILES[form][0](place, (RESULTS / "published/robustbench_cifar10_linf.csv").read_bytes())
    found = files.load(tmp_path)
    assert not found.rows
    assert any(re.search(FILES[form][1], note) for note in found.notes)


@pytest.mark.parametrize("form", FILES)
def test_a_log_that_is_no_file_is_no_log(form, tmp_path):
    FILES[form][0](tmp_path / "train.jsonl", b'{"epoch": 1}\n')
    assert training_log.read_log(tmp_path / "train.jsonl") == []


def test_a_link_is_followed_where_a_user_named_it(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_whole(tmp_path / "link", follow=True) == b"content"
    with pytest.raises(InvalidInput, match="is a link, which is not followed"):
        read_whole(tmp_path / "link")


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ü, 中, 🛡\n\tindented", "plain text, ü, 中, 🛡\n\tindented"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31mred", r"\x9b31mred"),  # the same in one character
        ("a\rb\x00c\x7fd\x08", r"a\rb\x00c\x7fd\x08"),
        ("\u202egnp.exe\u2066\u200f\u2028", r"\u202egnp.exe\u2066\u200f\u2028"),
        ("\udc9b", r"\udc9b"),  # a byte of a file name that is no UTF-8
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert visible(text) == str(InvalidInput(text)) == shown


@pytest.mark.parametrize("name", ["\x1b[31mred", "\u202egnp"])
def test_escape_codes_of_names_and_notes_reach_no_terminal(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = write_all(tmp_path / "results", [make_record()])
    store.withdraw(path, f"wrong {name}")
    assert main(["table"]) == 0
    assert main(["verify", name]) == main(["evaluate", name]) == 2
    said = capsys.readouterr()
    assert visible(said.out + said.err) == said.out + said.err
    assert visible(name) in said.err


def test_a_name_of_a_million_characters_is_compared_with_none():
    error = str(unknown_name("data set", "digits" * 200_000, DATASETS))
    assert len(error) < 400 and "digitsdigits" in error and "Did you mean" not in error
