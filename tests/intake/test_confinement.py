"""What a child can do once it is locked: nothing but read what it was handed, and say something."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from bench.intake import admission, confinement
from bench.intake.confinement import Ended
from bench.intake.locking import Allowance
from bench.intake.refusal import Refusal
from bench.intake.spool import Kept

ALLOWANCE = Allowance(memory=300 * 2**20, cpu=1, seconds=2, written=2**20)
KEPT = Kept("0" * 64, 1, Path("/nowhere"))
HELD = ["bubblewrap", "landlock"]


@pytest.fixture(scope="module")
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def tried(tmp_path, what: str, isolation: str, *, wall: float = 60.0, port: int = 9) -> Ended:
    if isolation == "bubblewrap" and not confinement.bubblewrap(("bench", "models", "tests")):
        pytest.skip("bubblewrap is not here, or does not work")
    (tmp_path / "source").write_bytes(b"x")
    with open(tmp_path / "source", "rb") as source, open(tmp_path / "made", "wb") as made:
        return confinement.run(
            "tests.intake.misbehaviour:main", [what, str(port)], source, made, ALLOWANCE,
            wall=wall, isolation=isolation, ours=("bench", "models", "tests"),
        )  # fmt: skip


def said(ended: Ended) -> str:
    return ended.report.partition(b"\n")[2].decode().strip()


REFUSED = "PermissionError|BlockingIOError|FileNotFoundError|ConnectionRefusedError|OSError"
# what it tries -> what it says of it (a pattern), wherever Landlock or bubblewrap is
HARMLESS = {
    "fork": "BlockingIOError" if os.geteuid() == 0 else "BlockingIOError|done",
    "allocate": r"(?!.*\d{4})\d+ MB",
    "write": rf"{2**20} bytes",
    "connect": REFUSED,
    "read_password": REFUSED,
    "read_itself": REFUSED,
    "signal_parent": "PermissionError",
    "plant": "PermissionError",
    "start": REFUSED,
    "become_root": r"PermissionError, uid [1-9]\d*" if os.geteuid() == 0 else ".*uid [1-9].*",
    "more_limits": "ValueError|PermissionError",
}


@pytest.mark.parametrize("isolation", HELD)
def test_a_locked_child_gets_nowhere(tmp_path, isolation, port):
    ended = tried(tmp_path, ",".join(HARMLESS), isolation, port=port)
    answers = dict(zip(HARMLESS, said(ended).split("\n"), strict=True))
    wrong = {k: v for k, v in answers.items() if not re.fullmatch(HARMLESS[k], v)}
    assert not wrong, ended
    assert not Path("/tmp/planted-by-a-child").exists()
    assert (tmp_path / "made").stat().st_size <= ALLOWANCE.written


def test_the_listener_is_there_for_a_child_that_is_not_held(tmp_path, port):
    """So that a refusal above is the lock's doing."""
    assert said(tried(tmp_path, "connect", "limits", port=port)) == "done"


# A child costs half a second of the processor: some are started on every change.
_ALWAYS = {("dump_core", "bubblewrap"), ("die", "limits"), ("hang", "bubblewrap")}
# what it tries -> the code that its submitter is told
DEADLY = {
    "hang": "too-much", "compute": "too-much", "dump_core": "crashed", "die": "server",
    "lie": "crashed", "flood": "crashed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "isolation"),
    [
        pytest.param(what, how, marks=[] if (what, how) in _ALWAYS else [pytest.mark.slow])
        for what in DEADLY
        for how in ("bubblewrap", "limits")
    ],
)
def test_every_death_is_told_with_a_reason_and_a_remedy(tmp_path, what, isolation):
    before = set(Path.cwd().iterdir())
    ended = tried(tmp_path, what, isolation)
    with pytest.raises(Refusal) as caught:
        admission._told(ended, "look", KEPT)
    assert caught.value.code == DEADLY[what], ended
    assert caught.value.reason and caught.value.remedy and caught.value.ours == (what == "die")
    assert set(Path.cwd().iterdir()) == before  # no core
    assert ended.signal == (signal.SIGSEGV if what == "dump_core" else ended.signal)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["bubblewrap", "limits"])
def test_the_wall_clock_ends_a_child_that_hears_nothing(tmp_path, isolation):
    started = time.monotonic()
    ended = tried(tmp_path, "hang_deaf", isolation, wall=15)
    assert ended.late and time.monotonic() - started < 40
    with pytest.raises(Refusal, match="takes longer"):
        admission._told(ended, "look", KEPT)


def test_a_child_that_cannot_start_is_no_fault_of_the_file(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    with open(tmp_path / "f", "rb") as source, open(tmp_path / "made", "wb") as made:
        ended = confinement.run("bench.intake.nowhere:x", [], source, made, ALLOWANCE, wall=30)
    with pytest.raises(Refusal) as caught:
        admission._told(ended, "look", KEPT)
    assert caught.value.ours


@pytest.mark.skipif(os.geteuid() != 0, reason="another uid may be taken by root alone")
def test_the_log_says_what_holds_a_child(tmp_path, caplog):
    caplog.set_level("INFO")
    for isolation in ("bubblewrap", "limits"):
        with contextlib.suppress(Refusal):
            admission._told(tried(tmp_path, "lie", isolation), "look", KEPT)
    first, last = (r.getMessage() for r in caplog.records if "held by" in r.getMessage())
    assert "held by bubblewrap, limits, uid 65534" in first
    assert last.endswith("held by limits, uid 65534")
