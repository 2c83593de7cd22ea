"""The corpus is whole, and its runner notices every outcome that is not the right one."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.hostile import mutations, trial
from tests.hostile.corpus import CORPUS
from tests.hostile.lines import Lines
from tests.hostile.member import CANARY, KINDS, Act, Build, Member, Outcome, Refused, Stands

# Later versions of Python say so of every fork beside threads; those of torch wait for work.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_every_member_has_a_name_of_its_own_a_builder_an_entrance_and_an_outcome():
    assert not [name for name, n in Counter(m.name for m in CORPUS).items() if n > 1]
    for member in CORPUS:
        assert callable(member.build) and callable(member.act), member.name
        assert member.kind in KINDS and isinstance(member.expected, Outcome), member.name
    for kind in KINDS:
        assert any(m.kind == kind and m.short for m in CORPUS), kind
    assert len(CORPUS) >= 150


def _refuses(words: str = "error: net.pt is no checkpoint") -> Act:
    def act() -> int:
        print(words, file=sys.stderr)
        return 2

    return act


def _and(work: Act) -> Act:
    """Something wrong, and then the right answer."""

    def act() -> int:
        work()
        return _refuses()()

    return act


def _raises() -> int:
    raise KeyError("weights")


def _sleeps() -> int:
    time.sleep(60)
    return 2


def _takes_memory() -> int:
    held = b"x" * 60_000_000
    return len(held) - len(held)


def _warns() -> int:
    print("somewhere.py:1: UserWarning: old", file=sys.stderr)
    return 2


_WRONG: dict[str, tuple[Act, str]] = {
    "status": (lambda: 0, "exit status 2, came 0"),
    "words": (_refuses("error: something else"), "expected an error with"),
    "traceback": (_raises, "a traceback: KeyError: 'weights'"),
    "time": (_sleeps, "killed after"),
    "memory": (_and(_takes_memory), "MB|traceback: MemoryError"),
    "canary": (_and(lambda: Path(CANARY).touch() or 0), "its code ran"),
    "secret": (
        _and(lambda: print(Path("secret.json").read_text()) or 0),
        "words of a private file",
    ),
    "escapes": (_and(lambda: print("\x1b[2J") or 0), "control character, '\\\\x1b'"),
    "warning": (_and(_warns), "a warning: UserWarning"),
    "length": (_and(lambda: print("n" * 30_000) or 0), "characters of output"),
    "changed": (_and(lambda: Path("net.pt").write_text("other") and 0), "changed net.pt"),
    "killed": (lambda: os.kill(os.getpid(), 9), "died of SIGKILL"),
}


def _writes(folder: Path) -> None:
    (folder / "net.pt").write_text("x")


def _tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act, *, build: Build = _writes,
    seconds: float = 5.0, outcome: Outcome | None = None,
) -> str:  # fmt: skip
    monkeypatch.setattr(trial, "SECONDS", seconds)
    member = Member("odd", "weights", build, act, outcome or Refused(r"net\.pt"))
    folder = tmp_path / "folder"
    folder.mkdir()
    return member.wrong(trial.run(member, folder), seconds=seconds, memory=50)


@pytest.mark.parametrize(("act", "why"), _WRONG.values(), ids=_WRONG)
def test_the_runner_notices(act, why, tmp_path, monkeypatch):
    found = _tried(tmp_path, monkeypatch, act, seconds=0.3 if act is _sleeps else 5.0)
    assert re.search(why, found), found


@pytest.mark.parametrize(("waited", "why"), [(0.0, "killed after"), (9.0, "")])
def test_time_without_a_core_is_not_counted(waited, why, tmp_path, monkeypatch):
    """Others have the cores of a busy machine; what sleeps by itself is not waiting for one."""
    monkeypatch.setattr(trial, "_without_a_core", lambda process: waited)
    found = _tried(tmp_path, monkeypatch, _and(lambda: time.sleep(0.6) or 0), seconds=0.3)
    assert found.startswith(why) and bool(found) == bool(why), found


def test_the_runner_finds_nothing_wrong_with_a_refusal_or_with_a_table_that_stands(
    tmp_path, monkeypatch
):
    assert _tried(tmp_path, monkeypatch, _refuses()) == ""
    (tmp_path / "other").mkdir()
    table = Stands("odd", ("good",))
    assert not _tried(
        tmp_path / "other", monkeypatch, lambda: print("good, not odd") or 0, outcome=table
    )


def test_a_builder_that_fails_is_not_taken_for_a_refusal(tmp_path, monkeypatch):
    found = _tried(tmp_path, monkeypatch, _refuses(), build=lambda folder: 1 / 0)
    assert "could not be built" in found and "ZeroDivisionError" in found


def test_a_case_of_the_fuzzer_comes_again_from_its_seed():
    document = {"a": [1, 2, {"b": "text"}], "c": 0.5}
    made = [mutations.json_text(Random("1-7"), document) for _ in range(2)]
    assert made[0] == made[1] and document == {"a": [1, 2, {"b": "text"}], "c": 0.5}
    assert len({mutations.json_text(Random(f"1-{k}"), document) for k in range(50)}) > 25


def test_lines_that_ran_are_counted_inside_functions_alone(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text("x = 1\ndef f(a):\n    if a:\n        return 1\n    return 2\n")
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    before, lines = sys.gettrace(), Lines([path])
    try:
        with lines:
            scope["f"](1)
    finally:
        sys.settrace(before)
    assert lines.share(str(path)) == (2, 3)
