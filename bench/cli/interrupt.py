"""Ctrl-C: a command's exit status says whether it was interrupted, to its very last instant."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PASSED_ON = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGINT  # Ctrl-C, from a parent

_heard: bool | None = None  # whether Ctrl-C came; None: nobody but Python itself listens for it


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Runs a command and leaves with its status.

    Once it has returned, Ctrl-C is ignored: a signal that meets the interpreter while it shuts down
    would else kill it, and neither "done" nor "interrupted" would be said.
    """
    sys.exit(status_of(command))


def status_of(command: Callable[[], int]) -> int:
    """The status that a command returns, after which Ctrl-C is ignored for good."""
    try:
        try:
            return command()
        finally:
            ignore()
    except KeyboardInterrupt:  # in the instant between those two
        ignore()
        return INTERRUPTED


def ignore() -> None:
    """Ctrl-C does nothing from here on."""
    for number in {signal.SIGINT, PASSED_ON}:
        signal.signal(number, signal.SIG_IGN)


def listen_to_parent() -> None:
    """Has Ctrl-C come from the parent process alone, as PASSED_ON.

    A terminal sends it to every process it shows, `kill` to one: so it comes once, and what a model
    raises or sends to its own process is not taken for it.
    """
    global _heard
    _heard = False
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(PASSED_ON, _came)


def left_to_parent() -> None:
    """Ctrl-C is another process's business: what is raised here is never the user's."""
    global _heard
    _heard = False
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def may_be_users() -> bool:
    """Whether a KeyboardInterrupt now may come from the user; else whoever raised it made it up."""
    return _heard is not False


def _came(number: int, frame: FrameType | None) -> None:
    global _heard
    _heard = True
    raise KeyboardInterrupt
