"""Runs checks in a child process, within a budget of seconds, and keeps what each saw.

In a child, because a GPU's error outlives the check that caused it, and a kernel may never come back:
the next check then has a new child. Nothing here loads torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


class Absent(Exception):
    """What a check needs is not here; the text says what. It is skipped."""


class Seen(NamedTuple):
    """What a check saw."""

    text: str
    fine: bool = True  # as expected
    facts: Mapping[str, Any] = {}  # JSON, for the report alone
    rates: Mapping[str, float] = {}  # of what is timed: side -> images a second


class Check(NamedTuple):
    """A line of the table. `run` is given the place; it can be pickled."""

    what: str
    expected: str
    run: Callable[[Any], Seen]


@dataclass(frozen=True)
class Line:
    """What came of a check."""

    name: str
    what: str
    expected: str
    outcome: str  # OK, FAILED or SKIPPED
    seen: str
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


def run(
    checks: Mapping[str, Check],
    place: Any,
    seconds: float,
    *,
    told: Callable[[str], object] = lambda text: None,
    at_start: Callable[[], object] | None = None,
) -> Generator[Line, None, None]:
    """A line a check, in order; after so many seconds in all, the rest is skipped.

    A check that raises, or whose process dies, has failed, and the others go on; one that the budget
    ends is skipped, as is the rest after it. Closing the iterator ends the child. at_start is what a
    child does first; it can be pickled.
    """
    until = time.monotonic() + seconds
    with contextlib.closing(_Child(at_start)) as child:
        for number, (name, check) in enumerate(checks.items(), 1):
            told(f"[{number}/{len(checks)}] {name} ({max(0, until - time.monotonic()):.0f} s left)")
            begun = time.monotonic()
            if begun >= until:
                outcome, seen = SKIPPED, Seen(f"the {seconds:g} s were over")
            else:
                outcome, seen = child.ask(check, place, until)
            line = Line(
                name, check.what, check.expected, outcome, seen.text,
                round(time.monotonic() - begun, 2), seen.facts, seen.rates,
            )  # fmt: skip
            told(f"    {outcome}: {line.seen} ({line.seconds:.1f} s)")
            yield line


class _Child:
    """A process that runs checks, started when it is asked, and anew after one that ended it."""

    def __init__(self, at_start: Callable[[], object] | None) -> None:
        self.at_start = at_start
        self.process: BaseProcess | None = None
        self.pipe: Connection | None = None

    def ask(self, check: Check, place: Any, until: float) -> tuple[str, Seen]:
        """The outcome of a check; it is stopped at `until` of the monotonic clock."""
        if self.process is None or self.pipe is None:
            fresh = multiprocessing.get_context("spawn")
            self.pipe, theirs = fresh.Pipe()
            given = theirs, self.at_start, check.run, place
            self.process = fresh.Process(target=_serve, args=given)
            self.process.daemon = True
            # Ctrl-C is this process's, who ends the other: it is born deaf to it, its imports too.
            usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self.process.start()
            finally:
                signal.signal(signal.SIGINT, usual)
            theirs.close()
        else:
            self.pipe.send(check.run)
        try:
            if self.pipe.poll(max(0, until - time.monotonic())):
                outcome, seen, usable = self.pipe.recv()
                if not usable:
                    self.close()
                return outcome, seen
            self.close()
            return SKIPPED, Seen("not finished when the seconds were over")
        except (EOFError, ConnectionError):
            self.process.join(10)
            code = self.process.exitcode
            self.close()
            return FAILED, Seen(f"its process ended with status {code}", False)

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self.process is not None and self.pipe is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.process = self.pipe = None


def _serve(
    pipe: Connection, at_start: Callable[[], object] | None, run: Callable[[Any], Seen], place: Any
) -> None:
    if at_start is not None:
        at_start()
    while True:
        outcome, seen = judged(run, place)
        pipe.send((outcome, seen, outcome != FAILED or _usable()))
        try:
            run = pipe.recv()
        except EOFError:  # the parent is gone
            os._exit(0)


def judged(run: Callable[[Any], Seen], place: Any) -> tuple[str, Seen]:
    """What comes of a check in this process; whatever it raises is told with the line it came from."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen = run(place)
    except Absent as reason:
        return SKIPPED, Seen(str(reason))
    except Exception as error:  # a check may raise anything; the others go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        facts = {"traceback": traceback.format_exc()}
        at = f"{os.path.basename(where.filename)}:{where.lineno}"
        return FAILED, Seen(f"{said} ({at})", False, facts)
    noted = sorted({f"{w.category.__name__}: {w.message}".partition("\n")[0] for w in caught})
    facts = dict(seen.facts) | ({"warnings": noted[:20]} if noted else {})
    return (OK if seen.fine else FAILED), seen._replace(facts=facts)


def _usable() -> bool:
    """Whether the device still answers: after some errors of a GPU nothing in the process does."""
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except Exception:
        return False
    return True
