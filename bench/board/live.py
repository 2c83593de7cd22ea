"""The newest finished view of something that changes: built aside, then shown to all at once."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Made = TypeVar("Made")

LOOK = 2.0  # seconds between looks at what is shown, while anybody reads
# A look or a build that took c seconds rests for so many times c: under a steady stream of changes the
# builder takes no more than a fifth of the time, whatever the folder and the load of the machine.
REST = 4
RETRY = 30.0  # seconds after a build that failed
UNREAD = 60.0  # seconds without a visitor until the builder sleeps


@dataclass(frozen=True, eq=False)
class View(Generic[Made]):
    """What was built from one state."""

    state: str
    made: Made
    seen: float  # seconds since 1970: when the state was looked at


class Live(Generic[Made]):
    """One builder for all readers.

    look says in which state the source is, and is cheap. build makes what is shown, given what it made
    before; it runs in the builder alone, never twice at once. Readers get the last finished view.
    after does, in the builder, what can wait until readers have it.
    """

    def __init__(
        self,
        look: Callable[[], str],
        build: Callable[[Made | None], Made],
        after: Callable[[Made], object] = lambda made: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._build, self._after, self._clock = look, build, after, clock
        self._view: View[Made] | None = None
        self._tried = threading.Event()  # the first view is there, or could not be built
        self._asked = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last_asked = clock()
        self._not_before = -float("inf")  # of the next build, on the clock
        self.failed = False  # the newest state could not be built: the view is an older one

    def newest(self) -> View[Made]:
        """The last finished view, at once; waits only where there was none yet.

        Raises RuntimeError where not even a first one could be built: the reason is in the log.
        """
        self._last_asked = self._clock()
        self._asked.set()
        if self._view is None:
            self.start()
            self._tried.wait()
        view = self._view
        if view is None:
            raise RuntimeError("no view could be built yet; the log says why")
        return view

    @property
    def ready(self) -> bool:
        """Whether a reader gets a view without waiting."""
        return self._view is not None

    def start(self) -> None:
        """Starts the builder, once."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="builder", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            rest = self.step()
            if self._clock() > self._last_asked + UNREAD:
                self._asked.clear()
                self._asked.wait()
            else:
                time.sleep(rest)

    def step(self, *, at_once: bool = False) -> float:
        """Looks, and builds where there is something new and it is time; seconds until the next look.

        at_once: without the rest after the last build. Whatever changes during a build is found by the
        next look: one more build follows, not several.
        """
        begun = self._clock()
        try:
            seen, state = time.time(), self._look()
            looked = self._clock()
            if self._view is not None and self._view.state == state:
                self.failed = False
            elif at_once or looked >= self._not_before:
                old = self._view
                self._view = view = View(state, self._build(old.made if old else None), seen)
                self.failed = False
                self._tried.set()
                self._after(view.made)
                self._not_before = self._clock() + REST * (self._clock() - looked)
        except Exception:  # the old view stays; the operator reads why
            traceback.print_exc(file=sys.stderr)
            looked, self.failed = begun, True
            self._not_before = self._clock() + RETRY
        self._tried.set()
        return max(LOOK, REST * (looked - begun))


# ---------------------------------------------------------------- what several readers share


@dataclass(frozen=True, eq=False)
class _Slot:
    lock: threading.Lock
    value: list[object]  # one, once it is made


class Once:
    """Values made once each, however many ask for one at a time."""

    def __init__(self, known: Mapping[tuple[object, ...], _Slot] | None = None) -> None:
        self._lock = threading.Lock()
        self._slots = dict(known or {})

    def get(self, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """The value of a key; made here where nobody has made it. What raises is made anew."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot(threading.Lock(), []))
        with slot.lock:
            if not slot.value:
                slot.value.append(make())
        return slot.value[0]  # type: ignore[return-value]

    def known(self) -> list[tuple[object, ...]]:
        """Of all that was made."""
        with self._lock:
            return [key for key, slot in self._slots.items() if slot.value]

    def kept(self, keep: Callable[[tuple[object, ...]], bool]) -> Once:
        """Another one, which knows of these values those whose keys are to be kept."""
        known = self.known()
        with self._lock:
            return Once({key: self._slots[key] for key in known if keep(key)})


class Turns:
    """Few pages are drawn at a time, and open pages are drawn again by themselves with restraint.

    Scripts that all compute share one interpreter with the thread that answers the connections: with
    many of them it may come too late to the pings of open pages. This was reasoned, not measured.
    """

    def __init__(self, at_once: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._free, self._clock = threading.Semaphore(at_once), clock
        self._lock = threading.Lock()
        self._seconds = 0.0  # that a page takes to draw, lately
        self._next = -float("inf")  # when a page may be drawn again by itself, on the clock

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until few others are drawn."""
        with self._free:
            begun = self._clock()
            try:
                yield
            finally:
                took = self._clock() - begun
                with self._lock:
                    self._seconds += 0.2 * (took - self._seconds)

    def again(self) -> bool:
        """Whether an open page may be drawn again now; all of them together get half the time."""
        with self._lock:
            if self._clock() < self._next:
                return False
            self._next = self._clock() + 2 * self._seconds
            return True
