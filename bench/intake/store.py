"""Tickets on disk: one small file each, changed by one process at a time, found again by their ids.

Layout below the root of the intake, mode 0700: `tickets/<id>.json`; `contacts/<id>.json`, which no page
and no record reads; `news/<id>.json`, what a worker last said. Several hosts may share the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.intake import slots
from bench.intake.refusal import Refusal
from bench.intake.report import Ask
from bench.intake.spool import Limits, Spool, private
from bench.intake.ticket import (
    BY_SUBMITTER,
    NEXT,
    Change,
    Contact,
    Form,
    News,
    State,
    Ticket,
    new_secret,
)
from bench.records import json_files
from bench.records.store import Stamp, write_atomic
from bench.schema import InvalidInput

log = logging.getLogger(__name__)
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_PLAIN = 2**16  # bytes; a ticket has about 1,000
_RECENT = 20  # measurements from which the time of the next one is told
_NOT_ATTACKED: tuple[State, ...] = ("received", "checked", "waiting")
OPEN_AGAIN: tuple[State, ...] = ("rejected", "withdrawn")


@dataclass(frozen=True)
class Store:
    """The tickets below a folder."""

    root: Path
    # name -> the stamp of the file and what was read of it then: a ticket, or what is wrong with it
    _seen: dict[str, tuple[Stamp, Ticket | str]] = field(default_factory=dict, repr=False)

    def prepare(self) -> None:
        """Makes the folder, for us alone. Raises InvalidInput where it is open to others."""
        self._folder("tickets")

    # ---------------------------------------------------------------- one ticket

    def open_ticket(
        self, *, file_sha256: str, file_size: int, ask: Ask, form: Form, protocol: str,
        n: int | None = None, contact: str = "", correcting: str = "", most: int | None = None,
        now: datetime | None = None,
    ) -> tuple[Ticket, str | None]:  # fmt: skip
        """A new ticket and its secret, or the one of the same question and None.

        A rejected one is asked again where that was our fault or the form is another one, a withdrawn
        one always: it is opened anew, with another secret. correcting is the secret of a ticket that is
        not attacked yet: another form takes the place of its own in the same way. most is how many
        networks of one method may stand on one test set. Raises Refusal where they do, and where a
        ticket was removed.
        """
        now = now or _clock()
        secret, kept = new_secret()
        made = Ticket(
            file_sha256=file_sha256, file_size=file_size, ask=ask, form=form, protocol=protocol, n=n,
            secret_sha256=kept, history=(Change(state="received", time=now),),
        )  # fmt: skip
        with self._alone():
            there = self._held(made.id)
            if there is not None:
                if there.now.state == "removed":
                    raise Refusal(
                        "removed", f"this file was removed: {there.now.reason}", there.now.remedy
                    )
                mended = there.now.state in _NOT_ATTACKED and there.form != form
                if not _asked_anew(there, form) and not (mended and there.opened_by(correcting)):
                    return there, None
            if most is not None and self.of_method(form, but=made) >= most:
                raise Refusal(
                    "quota", f"this method has {most} networks on {form.dataset} already",
                    "Choose by validation images which network to send; withdraw one that is no "
                    "longer wanted.",
                )  # fmt: skip
            if there is not None:
                made = made.model_copy(update={"history": (*there.history, *made.history)})
                self._path("news", made.id).unlink(missing_ok=True)
            if contact.strip():
                reached = Contact(ticket=made.id, address=contact)
                self._write("contacts", made.id, reached.model_dump_json())
            self._keep(made)
        return made, secret

    def read(self, id: str) -> Ticket:
        """The ticket of an id or of a beginning of one. Raises InvalidInput where there is not one."""
        if not _PREFIX.fullmatch(id):
            raise InvalidInput(f"a ticket is named by 4 to 64 hexadecimal digits, got {id[:80]!r}")
        found = [id] if len(id) == 64 else [i for i in self._ids() if i.startswith(id)]
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} tickets begin with {id}: give more of its digits")
        ticket = self._held(found[0]) if found else None
        if ticket is None:
            raise InvalidInput(f"no ticket begins with {id}")
        return ticket

    def move(
        self, id: str, state: State, reason: str = "", remedy: str = "", *, ours: bool = False,
        now: datetime | None = None,
    ) -> Ticket:  # fmt: skip
        """The ticket in another state; a state that it came through already changes nothing.

        Raises InvalidInput where the state cannot follow.
        """
        with self._alone():
            return self._moved(self.read(id), state, reason, remedy, ours, now)

    def withdraw(self, id: str, secret: str, *, now: datetime | None = None) -> Ticket:
        """The ticket, withdrawn by whoever has its secret. Raises InvalidInput for another one."""
        with self._alone():
            ticket = self.read(id)
            if not ticket.opened_by(secret):
                raise InvalidInput(
                    "this is not the ticket's secret, which was shown once, on submitting"
                )
            return self._moved(ticket, "withdrawn", BY_SUBMITTER, "", False, now)

    def _moved(
        self, ticket: Ticket, state: State, reason: str, remedy: str, ours: bool,
        now: datetime | None,
    ) -> Ticket:  # fmt: skip
        if state not in NEXT[ticket.now.state] and state in _since_received(ticket):
            return ticket
        try:
            moved = ticket.moved(state, now or _clock(), reason, remedy, ours=ours)
        except ValueError as error:
            raise InvalidInput(f"{ticket.id[:12]}: {error}") from None
        self._keep(moved)
        return moved

    # ---------------------------------------------------------------- what workers say

    def tell(self, id: str, news: News) -> None:
        """Keeps what is known of a ticket now, in the place of what was."""
        self._write("news", self.read(id).id, news.model_dump_json())

    def news(self, id: str, *, line: bool = True) -> News:
        """What was last told of a ticket; nothing where that is nothing or cannot be read.

        line: with its place in the queue and when it starts, where it waits.
        """
        ticket = self.read(id)
        path, told = self._path("news", ticket.id), News()
        if path.exists():
            try:
                told = json_files.read(path, News.model_validate_json, "word on a ticket")
            except InvalidInput as error:
                log.warning("%s", error)
        if not line or ticket.now.state != "waiting":
            return told
        place, starts_in = self._line(ticket)
        return told.model_copy(update={"place": place, "starts_in": starts_in})

    def _line(self, ticket: Ticket) -> tuple[int, float | None]:
        """The place of a waiting ticket, and about how many seconds until it starts, where known."""
        tickets = self.all()
        waiting = [t for t in tickets if t.now.state == "waiting"]
        before = sum((t.now.time, t.id) < (ticket.now.time, ticket.id) for t in waiting)
        taken = [span for t in tickets if (span := _attacked_for(t)) is not None]
        if not taken:
            return before + 1, None
        now = _clock()
        workers = sum(not slot.silent(now) for slot in slots.all_of(self.root))
        running = sum(t.now.state == "attacking" for t in tickets)
        ahead = before + running / 2
        return before + 1, round(statistics.median(taken[-_RECENT:]) * ahead / max(1, workers), 1)

    # ---------------------------------------------------------------- all tickets

    def all(self) -> list[Ticket]:
        """Every ticket that can be read, the oldest first; a file that did not change is read once."""
        found = [each for each in self._looked_at().values() if isinstance(each, Ticket)]
        return sorted(found, key=lambda ticket: (_since(ticket), ticket.file_sha256))

    def damaged(self) -> list[str]:
        """A sentence for each file of a ticket that cannot be read; it is left in place."""
        return [each for each in self._looked_at().values() if isinstance(each, str)]

    def of_method(self, form: Form, *, but: Ticket | None = None) -> int:
        """How many networks of a form's method stand on its test set, or are on the way there."""
        return len(
            {
                ticket.file_sha256
                for ticket in self.all()
                if ticket.form.method == form.method
                and ticket.now.state not in (*OPEN_AGAIN, "removed")
                and (but is None or ticket.file_sha256 != but.file_sha256)
            }
        )

    def sweep(self, now: datetime, limits: Limits | None = None) -> list[Path]:
        """Deletes contacts of tickets closed long ago, and what cut-off uploads left; their paths."""
        gone = Spool(self.root, limits or Limits()).sweep(now.timestamp())
        tickets = {ticket.id: ticket for ticket in self.all()}
        for path in sorted(self.root.glob("contacts/*.json")):
            ticket = tickets.get(path.stem)
            if ticket is None or ticket.closed is None:
                continue
            try:
                contact = json_files.read(path, Contact.model_validate_json, "contact")
                outlived = contact.outlived(ticket.closed, now)
            except InvalidInput as error:  # it may not outlive its time for being damaged
                log.warning("%s", error)
                outlived = Contact(ticket=ticket.id, address="damaged").outlived(ticket.closed, now)
            if outlived:
                path.unlink(missing_ok=True)
                gone.append(path)
        return gone

    # ---------------------------------------------------------------- files

    def _looked_at(self) -> dict[str, Ticket | str]:
        found: dict[str, Ticket | str] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "tickets") as entries:
            for entry in entries:
                name = entry.name
                if not name.endswith(".json") or name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    state = entry.stat(follow_symlinks=False)
                    stamp = Stamp(state.st_size, state.st_mtime_ns, state.st_ino)
                    seen = self._seen.get(name)
                    if seen is None or seen[0] != stamp:
                        plain = entry.is_file(follow_symlinks=False) and stamp.size <= _PLAIN
                        seen = self._seen[name] = stamp, _read_or_why(Path(entry.path), plain)
                    found[name] = seen[1]
        return found

    def _ids(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.root / "tickets")
            return [n[:-5] for n in names if n.endswith(".json") and not n.startswith(".")]
        return []

    def _held(self, id: str) -> Ticket | None:
        path = self._path("tickets", id)
        return _read(path) if os.path.lexists(path) else None

    def _keep(self, ticket: Ticket) -> None:
        self._write("tickets", ticket.id, ticket.model_dump_json())

    def _write(self, folder: str, id: str, text: str) -> None:
        self._folder(folder)
        write_atomic(self._path(folder, id), text, mode=0o600)

    def _path(self, folder: str, id: str) -> Path:
        return self.root / folder / f"{id}.json"

    def _folder(self, name: str = "") -> Path:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_mode & 0o077:
            raise InvalidInput(
                f"{self.root} is open to others: chmod 700 it, or name another folder"
            )
        folder = self.root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process and one thread at a time, for a moment; the kernel lets go of the dead."""
        with open(self._folder() / "tickets.lock", "ab", opener=private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _asked_anew(there: Ticket, form: Form) -> bool:
    """Whether the same question is to be answered again."""
    state = there.now.state
    return state == "withdrawn" or (state == "rejected" and (there.now.ours or there.form != form))


def _since(ticket: Ticket) -> datetime:
    """When it was last received."""
    return next(each.time for each in reversed(ticket.history) if each.state == "received")


def _attacked_for(ticket: Ticket) -> float | None:
    """Seconds that the attack on a ticket took, where it is through."""
    times = {each.state: each.time for each in ticket.history}  # the last of each
    if "verified" not in times or "attacking" not in times:
        return None
    return max(0.0, (times["verified"] - times["attacking"]).total_seconds())


def _since_received(ticket: Ticket) -> list[State]:
    """The states that a ticket came through since it was last received."""
    states = [each.state for each in ticket.history]
    last = len(states) - 1 - states[::-1].index("received")
    return states[last:]


def _read(path: Path) -> Ticket:
    """Raises InvalidInput that names the file; it is left in place."""
    ticket = json_files.read(path, Ticket.model_validate_json, "ticket")
    if ticket.id != path.stem:
        raise InvalidInput(f"{path}: its name is not that of its content; it is left in place")
    return ticket


def _read_or_why(path: Path, plain: bool) -> Ticket | str:
    """A ticket, or what is wrong with its file; plain: a small file, which is read at once.

    Reading within all bounds takes four times as long; it has the words for what is wrong.
    """
    if plain:
        with contextlib.suppress(OSError, ValueError):
            with open(path, "rb") as file:
                ticket = Ticket.model_validate_json(file.read(_PLAIN))
            if ticket.id == path.stem:
                return ticket
    try:
        return _read(path)
    except InvalidInput as error:
        log.warning("%s", error)
        return str(error)


def _clock() -> datetime:
    return datetime.now(UTC)
