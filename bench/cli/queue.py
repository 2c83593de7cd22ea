"""bench work and bench queue: a worker that comes back, and what its operator sees and does."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.cli.arguments import answer, duration
from bench.intake import backup, operating, settings
from bench.intake.settings import Settings
from bench.intake.store import Store
from bench.intake.worker import environment
from bench.schema import InvalidInput
from bench.schema.frozen import safe_name

_AGAIN = 2.0  # seconds until a worker that ended is started again
IN_USE = 2  # its exit status where another process has the slot
_ENDS = 5.0  # seconds that a worker has to leave once it is done
_LAST = 12  # lines of a traceback in the list

# ---------------------------------------------------------------- a worker


def work(a: argparse.Namespace) -> int:
    """Works tickets until it is stopped; a worker that was killed is started again."""
    if safe_name(a.slot) != a.slot:
        raise InvalidInput(f"--slot takes letters, digits and ._+=-, got {a.slot!r}")
    found = settings.read(a.intake)
    Store(found.root).prepare()
    while True:
        with worker(found, a.slot, once=a.once) as process:
            print(f"{a.slot} works tickets of {found.root}", file=sys.stderr)
            status = process.wait()
        if status == IN_USE:
            return 1
        if status == 0 and a.once:
            return 0
        print(f"{a.slot} ended with status {status} and is started again", file=sys.stderr)
        time.sleep(_AGAIN)


@contextlib.contextmanager
def worker(
    found: Settings, slot: str, *, once: bool = False, only: str = "", quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Inside, a worker runs in a process of its own, which ends with this one."""
    _installed()
    asked = {
        "settings": found.model_dump(mode="json"), "slot": slot, "once": once, "only": only,
        "level": logging.WARNING if quiet else logging.INFO,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "bench.intake.jobs"], stdin=subprocess.PIPE,
        stdout=sys.__stderr__, stderr=sys.__stderr__, start_new_session=True,
        env=environment(),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
        try:
            yield process
            if once or only:  # it ends by itself, and leaves its slot
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_ENDS)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _installed() -> None:
    """Raises ModuleNotFoundError here, where it is told, and not in the worker."""
    import dbos  # noqa: F401


# ---------------------------------------------------------------- the operator


def queue(a: argparse.Namespace) -> None:
    """Shows the queue, or does what is asked to one ticket or to all."""
    if a.do not in _DONE and a.what is not None:
        raise InvalidInput(f"queue list takes nothing more, got {a.what!r}")
    if a.do in _DONE and a.what is None:
        raise InvalidInput(f"queue {a.do} needs {_DONE[a.do][0]}")
    for flag, verbs in (("reason", ("reject", "remove")), ("remedy", ("reject",))):
        if a.do in verbs and not (getattr(a, flag) or "").strip():
            raise InvalidInput(f"queue {a.do} needs --{flag}: the submitter reads it")
        if a.do not in verbs and getattr(a, flag) is not None:
            raise InvalidInput(f"--{flag} belongs to queue {' and '.join(verbs)}")
    found = settings.read(a.intake)
    if a.do in _DONE:
        print(_DONE[a.do][1](found, a))
        return
    seen = operating.overview(found)
    answer(seen, _listed(seen), as_json=a.json)


def _ticket(does: Callable[..., Any], *flags: str) -> Callable[[Settings, argparse.Namespace], str]:
    def call(found: Settings, a: argparse.Namespace) -> str:
        ticket = does(found, a.what, *(getattr(a, flag) for flag in flags))
        return f"{ticket.id[:12]}, {ticket.form.name}, is {ticket.now.state}"

    return call


def _backed_up(found: Settings, a: argparse.Namespace) -> str:
    return f"{a.what} holds {backup.write(found, Path(a.what))} tickets"


def _restored(found: Settings, a: argparse.Namespace) -> str:
    return f"{found.root} holds {backup.read(found, Path(a.what))} tickets"


# verb -> what it takes, and what it does
_DONE: dict[str, tuple[str, Callable[[Settings, argparse.Namespace], str]]] = {
    "retry": ("the id of a ticket", _ticket(operating.retry)),
    "reject": ("the id of a ticket", _ticket(operating.reject, "reason", "remedy")),
    "remove": ("the id of a ticket", _ticket(operating.remove, "reason")),
    "backup": ("a file to write", _backed_up),
    "restore": ("a file of bench queue backup", _restored),
}


def _listed(seen: dict[str, Any]) -> str:
    said = ["workers"]
    said += [
        f"  {w['slot']} on {w['host']}, process {w['pid']}, heard {duration(w['heard'])} ago"
        f"{', silent' if w['silent'] else ''}"
        for w in seen["workers"]
    ] or ["  none; start one with: python -m bench work"]
    counted = ", ".join(f"{n} {state}" for state, n in sorted(seen["states"].items()))
    said += ["tickets", f"  {counted or 'none'}", *map(_line, seen["open"])]
    for failure in seen["failures"]:
        said.append(f"failures of {failure['ticket'][:12]}, {failure['name']}")
        said += [f"  {line}" for line in failure["words"].rstrip().splitlines()[-_LAST:]]
    said += [f"damaged: {words}" for words in seen["damaged"]]
    disk = {name: f"{size / 1e6:,.1f} MB" for name, size in seen["disk"].items()}
    said += ["disk", "  " + ", ".join(f"{name} {size}" for name, size in disk.items())]
    return "\n".join(said)


def _line(ticket: dict[str, Any]) -> str:
    words = [f"  {ticket['ticket'][:12]}  {ticket['state']:9} since {ticket['since']}"]
    words.append(f"{ticket['name']}, {ticket['dataset']} {ticket['threat']} {ticket['protocol']}")
    if ticket["place"] is not None:
        words.append(f"place {ticket['place']}")
    if ticket["at_most"] is not None:
        words.append(f"at most {100 * ticket['at_most']:.1f} %")
    if ticket["left"] is not None:
        words.append(f"about {duration(ticket['left'])} left")
    if ticket["put_off"]:
        words.append(f"put off: {ticket['put_off']}")
    return "  ".join(words)
