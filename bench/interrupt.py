"""Ctrl-C: a command's exit status says whether it was interrupted, to its very last instant."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Runs a command and leaves with its status.

    Once it has returned, Ctrl-C is ignored: a signal that meets the interpreter while it shuts down
    would else kill it, and neither "done" nor "interrupted" would be said.
    """
    try:
        try:
            status = command()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # in the instant between those two
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status = INTERRUPTED
    sys.exit(status)
