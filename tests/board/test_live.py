"""The builder of the board: one build for all, swapped whole; the old view stays where it fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from bench.board import records
from bench.board.live import LOOK, REST, RETRY, Live, Once, Turns
from bench.records import entry, index
from bench.stats.method_rows import MethodRow
from bench.table import Group
from tests.board.board_pages import Open, build_now, columns, html, methods
from tests.board.board_records import make_card, make_record, matched_pair, write_all


class Source:
    """Something that changes, how long it takes to build, and a clock that only this moves."""

    def __init__(self) -> None:
        self.now, self.state, self.takes, self.built = 0.0, "a", 0.0, list[str]()
        self.during: Callable[[], object] = lambda: None
        self.live = Live(lambda: self.state, self.build, clock=lambda: self.now)

    def build(self, old: str | None) -> str:
        made = self.state
        self.built.append(made)
        self.now += self.takes
        self.during()
        return made


@pytest.fixture
def source() -> Source:
    return Source()


def test_a_state_is_built_once_however_often_it_is_looked_at(source: Source) -> None:
    assert [source.live.step() for _ in range(3)] == [LOOK] * 3
    assert source.built == ["a"]
    assert source.live.newest().made == "a"


def test_the_builder_rests_as_its_build_took(source: Source) -> None:
    source.takes = 5.0
    source.live.step()
    source.state = "b"
    source.now += REST * 5 - 0.1
    source.live.step()
    assert source.live.newest().made == "a"  # what is there, at once
    source.now += 0.1
    source.live.step()
    assert source.built == ["a", "b"]
    assert source.live.newest().made == "b"


def test_changes_during_a_build_lead_to_one_more(source: Source) -> None:
    def arrive() -> None:
        if len(source.built) == 1:
            for state in "bcd":
                source.state = state
                assert not source.live.ready

    source.during = arrive
    for _ in range(5):
        source.live.step()
        source.now += LOOK
    assert source.built == ["a", "d"]


@pytest.mark.parametrize("part", ["look", "build"])
def test_where_the_next_fails_the_last_view_stays(
    source: Source, part: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source.live.step()
    source.state = "b"
    monkeypatch.setattr(source.live, f"_{part}", lambda *old: 1 / 0)
    source.live.step()
    assert source.live.failed
    assert source.live.newest().made == "a"
    assert "ZeroDivisionError" in capfd.readouterr().err
    monkeypatch.undo()
    source.now += RETRY
    source.live.step()
    assert not source.live.failed
    assert source.live.newest().made == "b"


def test_many_first_visitors_wait_for_one_build(monkeypatch: pytest.MonkeyPatch) -> None:
    go, built = threading.Event(), list[int]()

    def build(old: int | None) -> int:
        go.wait(20)
        built.append(1)
        return len(built)

    one, said = Live(lambda: "a", build), list[int]()
    monkeypatch.setattr(one, "_run", one.step)  # a thread that ends
    visitors = [threading.Thread(target=lambda: said.append(one.newest().made)) for _ in range(8)]
    for visitor in visitors:
        visitor.start()
    assert not one.ready
    go.set()
    for visitor in visitors:
        visitor.join(20)
    assert (said, built) == ([1] * 8, [1])


def test_where_no_first_view_can_be_built_nobody_waits_for_ever(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Live(lambda: "a", lambda old: 1 // 0)
    monkeypatch.setattr(one, "_run", one.step)
    with pytest.raises(RuntimeError, match="the log says why"):
        one.newest()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_value_is_made_once_and_again_only_where_it_failed() -> None:
    once, made = Once(), list[int]()

    def make() -> int:
        made.append(1)
        if len(made) == 1:
            raise ValueError("no")
        return 7

    with pytest.raises(ValueError, match="no"):
        once.get(("a",), make)
    assert [once.get(("a",), make) for _ in range(3)] == [7] * 3
    assert len(made) == 2
    assert once.kept(lambda key: False).known() == []
    assert once.kept(lambda key: True).get(("a",), make) == 7


def test_open_pages_drawn_again_by_themselves_leave_half_the_time() -> None:
    now = [0.0]
    turns = Turns(1, clock=lambda: now[0])
    for _ in range(50):
        with turns.turn():
            now[0] += 1.0
    drawn = 0
    for _ in range(100):
        drawn += turns.again()
        now[0] += 0.2
    assert 9 <= drawn <= 11


# ---------------------------------------------------------------- views of a folder


def folder(root: Path) -> records.Folder:
    return records.builder(str(root)).newest().made


def old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file written a moment ago counts as settled."""
    monkeypatch.setattr(index, "_SETTLED", -(10**12))


def test_what_did_not_change_is_neither_read_nor_ranked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_enough(monkeypatch)
    monkeypatch.setattr(records, "CACHE", tmp_path / "cache")
    root = tmp_path / "r"
    write_all(root, matched_pair(0))
    write_all(root, [make_record(make_card("other"), threat="linf:0.1")])
    build_now(root)
    before = folder(root)
    read, real = list[str](), entry.read
    monkeypatch.setattr(entry, "read", lambda path: read.append(path.parent.name) or real(path))
    write_all(root, [make_record(make_card("new"), threat="linf:0.1")])
    read.clear()
    build_now(root)
    after = folder(root)
    assert read == ["new"]
    same = {*before.board.groups} & {*after.board.groups}
    assert [str(group.threat) for group in same] == ["linf:0.15"]
    assert {len(group.rows) for group in after.board.groups} == {2}


def test_old_views_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_enough(monkeypatch)
    monkeypatch.setattr(records, "CACHE", tmp_path / "cache")
    (path,) = write_all(tmp_path / "r", [make_record(make_card("a"))])
    text, views = path.read_text(), list[Any]()
    for k in range(10):
        path.write_text(text + " " * k)
        build_now(tmp_path / "r")
        views += [weakref.ref(folder(tmp_path / "r")), weakref.ref(folder(tmp_path / "r").board)]
    gc.collect()
    assert sum(view() is not None for view in views) == 2


def test_a_page_says_in_one_line_that_it_is_of_an_older_state(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, [make_record(make_card("first"))])
    app = open_app(tmp_path, runs="true")
    assert "cannot be shown yet" not in html(app)
    write_all(tmp_path, [make_record(make_card("second"))])
    with monkeypatch.context() as broken:
        broken.setattr("bench.table.rank_collection", lambda *a, **k: 1 / 0)
        build_now(tmp_path)
    app.run()
    assert not app.error
    assert html(app).count("what changed since then cannot be shown yet") == 1
    assert "ZeroDivision" not in html(app)
    assert columns(app, "model") == [["first"]]
    build_now(tmp_path)
    app.run()
    assert "cannot be shown yet" not in html(app)
    assert sorted(map(str, columns(app, "model")[0])) == ["first", "second"]


# ---------------------------------------------------------------- a part fails alone


@pytest.mark.parametrize(
    ("page", "breaks", "left"),
    [
        ("", "bench.board.method_table.table", "Every file holds every network"),
        ("", "bench.board.records.comparisons", "Every file holds every network"),
        ("", "bench.board.front.of_methods", "Every file holds every network"),
        ("model", "bench.board.charts.robust_by_class", "<dt>split</dt>"),
        ("model", "bench.board.training.records.log_of", "Load it in one line"),
        ("awp", "bench.board.training.show_method_gaps", "All models of this table"),
    ],
)
def test_a_part_that_raises_leaves_the_rest_of_the_page(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, breaks: str,
    left: str, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made = matched_pair(0)
    write_all(tmp_path, [*made, make_record(make_card("other", train=None))])
    asked = {"name": made[0].card.name} if page == "model" else {}
    monkeypatch.setattr(breaks, lambda *a, **k: 1 / 0)
    app = open_app(tmp_path, page, **asked)
    shown = html(app) + "".join(header.value for header in app.header)
    assert shown.count("could not be shown. The reason is in the server") == 1
    assert left in shown
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert "ZeroDivision" not in shown


def test_a_row_that_cannot_be_drawn_leaves_the_others(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, [make_record(make_card(name)) for name in ("good", "bad", "fine")])
    from bench.board import method_table, tables

    real_table, real = method_table.table, tables.ranked

    def table_of(group: Group, rows: Sequence[MethodRow], **how: Any) -> Markup:
        if any(row.card.name == "bad" for row in rows):
            raise ZeroDivisionError
        return real_table(group, rows, **how)

    monkeypatch.setattr(method_table, "table", table_of)
    monkeypatch.setattr(
        tables, "ranked", lambda g, rows: 1 / 0 if rows[0].card.name == "bad" else real(g, rows)
    )
    app = open_app(tmp_path, runs="true")
    assert sorted(map(str, columns(app, "model")[0])) == ["fine", "good"]
    assert len(methods(app)) == 2
    assert html(app).count("1 row could not be shown") == 1
