"""Locks are held by one process, freed however it ends, and not kept alive by its children."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.measure.evaluate import measure
from bench.records.lock import locked
from bench.schema import InvalidInput
from bench.sources.unregistered import unregistered

ROOT = Path(__file__).parents[2]
HOLDS = """
import os, sys, time
from pathlib import Path
from bench.records.lock import locked
with locked(Path(sys.argv[1]), "a test"):
    if sys.argv[2] == "forks" and not os.fork():
        print(flush=True)
        time.sleep(60)
    if sys.argv[2] == "alone":
        print(flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["a folder", "a link", "a link to nothing", "a pipe"])
def test_what_is_in_the_way_of_a_lock_is_named_and_left(kind, tmp_path):
    path, other = tmp_path / "a.lock", tmp_path / "other"
    other.write_text("mine")
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other if kind == "a link" else tmp_path / "nothing")
    with pytest.raises(InvalidInput, match=r"a\.lock is in the way of a lock"), locked(path, "it"):
        pass
    assert os.path.lexists(path) and other.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def holder():
    started = []

    def start(path, how):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(path), how],
            cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def test_the_second_is_told_who_holds_it_and_a_kill_frees_it(tmp_path, holder):
    path = tmp_path / "deep" / "work.lock"
    first = holder(path, "alone")
    with (
        pytest.raises(InvalidInput, match=rf"another process \(pid {first.pid}\) works on it"),
        locked(path, "it"),
    ):
        pass
    first.kill()
    first.wait()
    with locked(path, "it"):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()


def test_a_child_that_outlives_a_killed_parent_does_not_keep_the_lock(tmp_path, holder):
    path = tmp_path / "work.lock"
    first = holder(path, "forks")
    first.kill()
    first.wait()
    with locked(path, "it"):
        pass


def test_the_same_process_is_refused_too_and_may_come_again(tmp_path):
    path = tmp_path / "work.lock"
    for _ in range(2):
        with locked(path, "it"):
            with pytest.raises(InvalidInput, match=str(os.getpid())), locked(path, "it"):
                pass
            assert path.exists()
        assert not path.exists()


def test_a_lock_file_removed_and_made_anew_meanwhile_is_not_mistaken(tmp_path, monkeypatch):
    """Opened while its holder was ending: the lock of a file that is gone protects nothing."""
    path, real, calls = tmp_path / "work.lock", fcntl.flock, []

    def ends_now(descriptor, how):
        if not calls:
            path.unlink()
        calls.append(how)
        return real(descriptor, how)

    monkeypatch.setattr("fcntl.flock", ends_now)
    with locked(path, "it"):
        assert path.exists()
    assert calls.count(fcntl.LOCK_EX | fcntl.LOCK_NB) == 2


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with locked(tmp_path / "work.lock", "it"):
        assert "cannot be locked" in caplog.text


def test_an_evaluation_is_measured_by_one_process_at_a_time(tmp_path, net):
    """The work folder of a job is locked while it is measured, and free again afterwards."""
    x = torch.rand(4, 1, 8, 8)
    y = net(x).argmax(1)
    more = {"threat": "linf:0.02", "protocol": "quick", "card": unregistered(net, "nested")}
    calls = []

    def nested(z):
        if not calls and any(tmp_path.iterdir()):  # the first passes are before it is locked
            calls.append(1)
            with pytest.raises(InvalidInput, match="works on the evaluation of Sequential"):
                measure(net, x, y, work=tmp_path, **more)
        return net(z)

    for _ in range(2):
        calls.clear()
        assert measure(nested, x, y, work=tmp_path, **more).record.failure is None
        assert calls
        assert not list(tmp_path.iterdir())
