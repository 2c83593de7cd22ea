"""Durable jobs: tickets become workflows of DBOS, so that a killed worker's work goes on.

The tickets on disk are the truth. A worker reads them, queues what is due, and does one check and one
measurement at a time; queueing the same work twice is queueing it once. Whoever opens a ticket needs
nothing of this module, nor DBOS: `Store.open_ticket` is enough, a worker sees it within a second. A
workflow that a dead worker left is queued again, and goes on at its first unfinished step. A database
that is lost is made anew from the tickets: what its steps had finished lies in files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID

from bench.intake import slots
from bench.intake.settings import Settings
from bench.intake.store import Store
from bench.intake.ticket import Ticket
from bench.intake.worker import Job, Later, Over, unpublish
from bench.records.lock import InUse, locked

log = logging.getLogger(__name__)
NAME = "awp-intake"
VERSION = "1"  # of the workflows: raised with their steps. What an older one left is queued anew
CHECKS, MEASUREMENTS = "checks", "measurements"  # queues: a check does not wait for an attack
_FIRST, _NEXT = 10, 20  # priorities: the protocol of a ticket, and the ones after it
_LOOK = 1.0  # seconds between two looks at the tickets
_REAP = 10.0  # seconds between two looks for silent slots
_SWEEP = 3600.0  # seconds between two deletions of what has outlived its time
_TOO_OFTEN = 10**6  # recoveries: those of a worker that was killed count against nobody
_FINISHED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

Answer = TypeVar("Answer")

_settings = Settings()  # of this process; `run` sets it before a workflow can start


@DBOS.workflow(name="check", max_recovery_attempts=_TOO_OFTEN)
def check(id: str, protocol: str) -> str:
    """Admission and doctor."""
    with _job(id, protocol) as job:
        return _walk(job, _checked)


@DBOS.workflow(name="measure", max_recovery_attempts=_TOO_OFTEN)
def measure(id: str, protocol: str) -> str:
    """A step a shard, then everything that makes a ranked record of them."""
    with _job(id, protocol) as job:
        return _walk(job, _measured)


def _checked(job: Job) -> None:
    _step(job, "admit", job.admit)
    _step(job, "examine", job.examine)


def _measured(job: Job) -> None:
    shards = _step(job, "begin", job.begin)
    for number in range(shards):
        _step(job, f"shard {number}", functools.partial(job.shard, number, shards))
    measured = _step(job, "merge", job.merge)
    record = _step(job, "publish", lambda: job.publish(measured))
    _step(job, "rank", lambda: job.rank(record))


def _step(job: Job, name: str, work: Callable[[], Answer]) -> Answer:
    return DBOS.run_step({"name": name}, lambda: job.done(name, work))


def _walk(job: Job, steps: Callable[[Job], None]) -> str:
    """`done`, `over` where the ticket was closed meanwhile, `later` where it is tried again."""
    try:
        steps(job)
    except Over:
        ticket = job.store.read(job.id)
        if ticket.now.state in ("withdrawn", "removed"):  # while it was being published, perhaps
            unpublish(job.settings, job.store, ticket)
        return "over"
    except Later:
        return "later"
    except Exception:
        log.exception("%s (%s)", job.id[:12], job.protocol)
        job.wait("a fault of ours; the log of the worker has it")
        return "later"
    return "done"


@contextlib.contextmanager
def _job(id: str, protocol: str) -> Iterator[Job]:
    job = Job(_settings, id, protocol)
    try:
        yield job
    finally:
        job.end()


# ---------------------------------------------------------------- what is due


def due(settings: Settings, ticket: Ticket, now: float) -> Iterator[tuple[str, str, str, int]]:
    """(workflow id, queue, protocol, priority) of what is to be done for a ticket; now since 1970."""
    state = ticket.now.state
    if state in ("received", "checked", "waiting", "attacking", "verified"):
        queue = CHECKS if state in ("received", "checked") else MEASUREMENTS
        asked = [(ticket.protocol, queue, _FIRST)]
    elif state == "ranked":
        more = [name for name in settings.protocols if name != ticket.protocol]
        asked = [(name, MEASUREMENTS, _NEXT + place) for place, name in enumerate(more)]
    else:
        return
    for protocol, queue, priority in asked:
        job = Job(settings, ticket.id, protocol)
        if state == "ranked" and job.over():
            continue
        put_off = job.later()
        if put_off.get("after", 0) <= now:
            tries = put_off.get("tries", 0)
            yield (
                f"{ticket.id}-{queue}-{protocol}-{ticket.received}.{tries}",
                queue,
                protocol,
                priority,
            )
        return  # the next protocol comes after this one


class _Feeder:
    """Queues what is due, once."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store = settings, Store(settings.root)
        self.fed: dict[str, tuple[str, str]] = {}  # workflow id -> ticket and protocol
        self.gone: set[tuple[str, int]] = set()  # tickets that were taken back, and when

    def feed(self) -> int:
        """Queues what is due; how many tickets are on their way or put off."""
        left = 0
        for ticket in self.store.all():
            taken_back = ticket.id, len(ticket.history)
            if ticket.now.state in ("withdrawn", "removed") and taken_back not in self.gone:
                unpublish(self.settings, self.store, ticket)
                self.gone.add(taken_back)
            left += ticket.closed is None
            for id, queue, protocol, priority in due(self.settings, ticket, time.time()):
                left += ticket.closed is not None
                if id not in self.fed:
                    workflow = check if queue == CHECKS else measure
                    with SetWorkflowID(id), SetEnqueueOptions(priority=priority):
                        DBOS.enqueue_workflow(queue, workflow, ticket.id, protocol)
                    self.fed[id] = ticket.id, protocol
        return left

    def reap(self) -> None:
        """Queues again what dead workers left, and what ended without having been done."""
        root = self.settings.root
        living = {s.name for s in slots.all_of(root) if not s.silent(datetime.now(UTC))}
        with contextlib.suppress(InUse), locked(root / "workers" / "reaper.lock", "silent slots"):
            for left in DBOS.list_workflows(
                status="PENDING", app_version=VERSION, load_input=False
            ):
                if left.executor_id not in living:
                    log.warning(
                        "%s is taken over from the slot %s", left.workflow_id, left.executor_id
                    )
                    DBOS.resume_workflow(left.workflow_id, queue_name=left.queue_name)
        self._put_off_what_failed()

    def _put_off_what_failed(self) -> None:
        """What DBOS itself gave up is tried again under another id."""
        tickets = {ticket.id: ticket for ticket in self.store.all()}
        for id, (ticket, protocol) in list(self.fed.items()):
            if ticket not in tickets or id not in {
                each[0] for each in due(self.settings, tickets[ticket], time.time())
            }:
                del self.fed[id]
                continue
            status = DBOS.get_workflow_status(id)
            if status is not None and status.status in _FINISHED:
                again = [
                    each[0] for each in due(self.settings, self.store.read(ticket), time.time())
                ]
                if id in again:  # it did not come to an end meanwhile
                    Job(self.settings, ticket, protocol).wait(f"the job ended as {status.status}")


# ---------------------------------------------------------------- the worker


def run(settings: Settings, slot: str, *, once: bool = False, only: str = "") -> None:
    """Works until it is stopped; once: until nothing is left, only: until this ticket is closed.

    Raises InUse where another process has the slot.
    """
    global _settings
    _settings = settings
    Store(settings.root).prepare()
    config: DBOSConfig = {
        "name": NAME, "system_database_url": settings.database_url, "executor_id": slot,
        "application_version": VERSION, "log_level": "ERROR", "console_log_level": "ERROR",
    }  # fmt: skip
    with slots.taken(settings.root, slot):
        DBOS(config=config)
        DBOS.launch()
        for queue in (CHECKS, MEASUREMENTS):
            DBOS.register_queue(queue, worker_concurrency=1, polling_interval_sec=0.5)
        threading.Thread(target=_beat, args=(settings.root, slot), daemon=True).start()
        _serve(settings, once=once, only=only)


def _serve(settings: Settings, *, once: bool, only: str) -> None:
    feeder, store = _Feeder(settings), Store(settings.root)
    reaped, swept = -_REAP, time.monotonic()
    while True:
        left = feeder.feed()
        if time.monotonic() - reaped > _REAP:
            feeder.reap()
            reaped = time.monotonic()
        if time.monotonic() - swept > _SWEEP:
            store.sweep(datetime.now(UTC), settings.limits)
            swept = time.monotonic()
        if (once and not left) or (only and store.read(only).closed is not None):
            return
        time.sleep(_LOOK)


def _beat(root: Path, slot: str) -> None:
    while True:
        slots.beat(root, slot)
        time.sleep(slots.BEAT)


def main() -> None:
    """The process of a worker: its settings are a line of JSON on stdin, which closes with its parent.

    It ends at once when told to: what it leaves is gone on with.
    """
    asked = json.loads(sys.stdin.buffer.readline())
    logging.basicConfig(format="%(asctime)s %(message)s", level=asked["level"])

    def stop(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    def follow() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    threading.Thread(target=follow, daemon=True).start()
    settings = Settings.model_validate(asked["settings"])
    try:
        run(settings, asked["slot"], once=asked["once"], only=asked["only"])
    except InUse as error:
        print(f"error: {error}", file=sys.stderr)
        os._exit(2)
    sys.stderr.flush()
    os._exit(0)  # no thread of DBOS is waited for


if __name__ == "__main__":
    main()
