"""Ctrl-C: exit statuses say what happened, whenever the signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.interrupt import INTERRUPTED, exit_with

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _handler_as_found():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_command_that_is_interrupted_leaves_with_130():
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    # A shell that starts tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as left:
        exit_with(interrupted)
    assert left.value.code == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


LATE = """
import os, runpy, signal, sys

class Late:
    kill, me, number = os.kill, os.getpid(), signal.SIGINT

    def __del__(self):  # the interpreter is all but gone: its own handlers are
        Late.kill(self.me, self.number)

late = Late()
sys.argv = ["bench", *sys.argv[1:]]
runpy.run_module("bench", run_name="__main__")
"""


@pytest.mark.parametrize(("command", "status"), [("list", 0), ("list --nonsense", 2)])
def test_ctrl_c_in_the_last_instant_leaves_the_exit_status(command, status):
    """Without its own care the interpreter dies of the signal: -2, which says nothing."""
    done = subprocess.run(
        [sys.executable, "-c", LATE, *command.split()], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr
