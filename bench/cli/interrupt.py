"""How a command ends: its exit status says what happened, whatever came meanwhile.

Ctrl-C is heard to the very last instant. A model is a stranger's code: it may end the process that
measures it, with any status, 0 too. So the command runs in a child, which says its status through a
pipe when the command has returned; a child that ends without having said so has failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.cli import watch

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PASSED_ON = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGINT  # Ctrl-C, from a parent

FAILED = 1
LOOKS_EVERY = 500  # ms between two looks at whether the child's pass takes too long
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_CUT_OFF = {
    signal.SIGKILL: "was killed (SIGKILL), perhaps for memory,",
    signal.SIGTERM: "was terminated (SIGTERM)",
}

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


# ---------------------------------------------------------------- in a process of its own


def supervised(command: Callable[[], int]) -> int:
    """The status of a command that runs in a child process; returns in both processes.

    To be called before torch is loaded: its threads do not survive a fork. Ctrl-C is passed on; a
    parent that is killed takes the child with it, and a child that waits for a model for too long is
    ended. Not on Linux: the command runs here.
    """
    if sys.platform != "linux":
        return command()
    for stream in (sys.stdout, sys.stderr):  # what waits there would be printed twice
        stream.flush()
    watch.begin()
    parent, (reading, writing) = os.getpid(), os.pipe()
    with _held_back():  # until both processes know what to do with them
        child = os.fork()
        if not child:
            os.close(reading)
            _end_with(parent)
            listen_to_parent()
        elif (
            signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):  # as a shell has it in background
            signal.signal(signal.SIGINT, lambda *_: os.kill(child, PASSED_ON))
    if not child:
        me = os.getpid()
        status = _said(command)
        if os.getpid() == me:  # a process that the model forked has no say
            with contextlib.suppress(OSError):  # the model closed it: nothing was said
                os.write(writing, f"{me} {status}\n".encode())
        return status
    os.close(writing)
    return _status(child, reading)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, PASSED_ON})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before it was asked
        os._exit(FAILED)


def _said(command: Callable[[], int]) -> int:
    """The status of a command; that of a wrong call, which argparse leaves with, too."""
    try:
        return status_of(command)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def _status(child: int, reading: int) -> int:
    """Waits for the child; its status where it said one, else FAILED after a sentence."""
    late = _ended_late(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # the number stays the child's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, ended = os.waitpid(child, 0)
    os.set_blocking(reading, False)  # what the model forked may hold the other end
    try:
        words = [line.split() for line in os.read(reading, 4096).decode().splitlines()]
    except BlockingIOError:
        words = []
    said = [int(status) for process, status in words if process == str(child)]
    if said:
        return said[-1]
    if late is not None:
        print(f"error: {_kept(watch.sentence(late))}", file=sys.stderr)
        return FAILED
    print(f"error: {_sentence(os.waitstatus_to_exitcode(ended))}", file=sys.stderr)
    return FAILED


def _ended_late(child: int) -> float | None:
    """Returns when the child ends; the seconds that a pass was allowed, where it was ended for one."""
    try:
        ending = os.pidfd_open(child)
    except OSError:  # an old kernel: nobody watches
        return None
    try:
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        while not poll.poll(LOOKS_EVERY):
            late = watch.overdue(child)
            if late is not None:
                watch.end(child)
                return late
    finally:
        os.close(ending)
    return None


def _kept(reason: str) -> str:
    """Writes the failed record that the ended child had ready; the reason, and where it is recorded."""
    path, _, prepared = watch.left().partition("\n")
    if not prepared:
        return reason
    from bench.records import store
    from bench.schema import EvaluationRecord

    record = EvaluationRecord.model_validate_json(prepared)
    try:
        store.put(Path(path), record.model_copy(update={"failure": reason}))
    except OSError as error:
        return f"{reason}; that cannot be recorded ({error})"
    return f"{record.card.name}: {reason} (recorded in {path})"


def _sentence(code: int) -> str:
    if code >= 0:
        how = f"ended (exit status {code})"
    else:
        number = signal.Signals(-code) if -code in set(signal.Signals) else None
        name = number.name if number else f"signal {-code}"
        how = _CUT_OFF.get(number, f"crashed ({name})") if number else f"ended by {name}"
    return (
        f"the process that did the work {how} before it was done. A model must return or raise, not "
        "leave (os._exit, exec); what is finished is kept, and the same command goes on from there"
    )
