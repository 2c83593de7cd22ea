"""What the operator of a host sees, and does to a ticket: try again, reject, remove."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.intake import slots
from bench.intake.settings import Settings
from bench.intake.store import Store
from bench.intake.ticket import Ticket
from bench.intake.worker import Job, unpublish
from bench.schema import InvalidInput

_FOLDERS = ("incoming", "files", "weights", "parts", "measured", "tickets")


def overview(settings: Settings) -> dict[str, Any]:
    """Workers, tickets, failures and disk, as JSON; what is closed without a failure is counted."""
    store, now = Store(settings.root), datetime.now(UTC)
    tickets, failed = store.all(), failures(settings)
    return {
        "workers": [
            {"slot": s.name, "host": s.host, "pid": s.pid, "silent": s.silent(now),
             "heard": round((now - s.time).total_seconds(), 1)}
            for s in slots.all_of(settings.root)
        ],
        "states": dict(Counter(ticket.now.state for ticket in tickets)),
        "open": [_told(settings, store, t) for t in tickets if t.closed is None],
        "failures": [
            {"ticket": t.id, "name": t.form.name, "words": failed[t.id]}
            for t in tickets
            if t.id in failed and t.now.state not in ("withdrawn", "removed")
        ],
        "damaged": store.damaged(),
        "disk": _disk(settings),
    }  # fmt: skip


def _told(settings: Settings, store: Store, ticket: Ticket) -> dict[str, Any]:
    news, later = store.news(ticket.id), Job(settings, ticket.id, ticket.protocol).later()
    return {
        "ticket": ticket.id, "name": ticket.form.name, "dataset": ticket.form.dataset,
        "threat": str(ticket.form.threat), "protocol": ticket.protocol, "state": ticket.now.state,
        "since": ticket.now.time.isoformat(timespec="seconds"), "place": news.place,
        "at_most": news.at_most, "left": news.left, "put_off": later.get("why", ""),
    }  # fmt: skip


def failures(settings: Settings) -> dict[str, str]:
    """Id of a ticket -> what was said of every death and fault of ours on its way."""
    found: dict[str, str] = {}
    for path in sorted(settings.root.glob("work/*/failures.txt")):
        id = path.parent.name[:64]
        found[id] = found.get(id, "") + path.read_text(encoding="utf-8", errors="replace")
    return found


def _disk(settings: Settings) -> dict[str, int]:
    """Bytes by folder, and how many are free."""
    sizes = {name: _size(settings.root / name) for name in _FOLDERS}
    where = settings.root if settings.root.exists() else Path()
    disk = os.statvfs(where)
    return {**sizes, "free": disk.f_bavail * disk.f_frsize, "reserve": settings.limits.reserve}


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())


# ---------------------------------------------------------------- what is done to a ticket


def retry(settings: Settings, id: str) -> Ticket:
    """Has a ticket tried again: a rejected one from the start, one that was put off now.

    Raises InvalidInput for one that is closed otherwise.
    """
    store = Store(settings.root)
    ticket = store.read(id)
    if ticket.now.state == "rejected":
        return store.move(ticket.id, "received", "the operator has it tried again")
    if ticket.closed is not None and ticket.now.state != "ranked":
        raise InvalidInput(f"{ticket.id[:12]} is {ticket.now.state}: nothing of it is left to try")
    for protocol in (ticket.protocol,) if ticket.closed is None else settings.protocols:
        Job(settings, ticket.id, protocol).hurry()
    return ticket


def reject(settings: Settings, id: str, reason: str, remedy: str) -> Ticket:
    """Closes a ticket with a reason and a remedy. Raises InvalidInput where it is closed."""
    store = Store(settings.root)
    ticket = store.read(id)
    if ticket.closed is not None:
        raise InvalidInput(f"{ticket.id[:12]} is {ticket.now.state} already; remove it instead")
    return store.move(ticket.id, "rejected", reason, remedy)


def remove(settings: Settings, id: str, reason: str) -> Ticket:
    """Takes away file, weights, evidence and place on the table for good; the ticket says so."""
    store = Store(settings.root)
    ticket = store.move(
        store.read(id).id, "removed", reason, "Write to the operator if this is a mistake."
    )
    unpublish(settings, store, ticket)
    return ticket
