"""The steps from a ticket to a ranked record, each done again without harm, and what stops them.

A step is done in a child of the worker. Only a child's death, or a fault of ours in it, counts against
a ticket: three in a row at one step, with nothing finished between, and it is set aside. Whatever
else goes wrong is tried again later.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from bench.intake.admission import admit
from bench.intake.confinement import ROOT
from bench.intake.measuring import Said, Task
from bench.intake.refusal import Refusal
from bench.intake.settings import Settings
from bench.intake.spool import Spool
from bench.intake.store import Store
from bench.intake.ticket import News, Ticket
from bench.records import cards, store
from bench.records.store import write_atomic
from bench.schema import InvalidInput
from bench.schema.errors import visible

log = logging.getLogger(__name__)
MOST_DEATHS = 3
# Seconds until what was nobody's fault is tried again, doubled each time up to an hour.
LATER = 60.0
_TOLD = 1.0  # seconds between two news of an attack
_ENOUGH = 0.05  # share of an attack from which its time is told
_LONGEST_LINE = 2**20  # bytes that a child says at once
_ENDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # by whoever stops the worker: no deaths
Answer = TypeVar("Answer")


class Later(Exception):
    """Nobody's fault: to be tried again."""


class Broken(Exception):
    """A child died, or met a fault of ours; its words are for the operator."""


class Over(Exception):
    """The ticket was closed meanwhile, or has just been rejected."""


# ---------------------------------------------------------------- a child


def environment() -> dict[str, str]:
    """Of our own processes: this package, wherever it was found, and one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass
class Hand:
    """A child that works on one task; what it has begun goes on until it is asked for the next."""

    process: subprocess.Popen[bytes] = field(init=False)
    complaint: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.complaint = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.intake.measuring"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.complaint, env=environment(), start_new_session=True,
        )  # fmt: skip

    def ask(self, what: str, task: Task) -> Iterator[Said]:
        """What the child says until it has done it; raises what keeps it from that."""
        asked = json.dumps({"what": what, "task": task.model_dump(mode="json")})
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(asked.encode() + b"\n")
            self.process.stdin.flush()
        while line := self.process.stdout.readline(_LONGEST_LINE):
            try:
                said = Said.model_validate_json(line)
            except ValidationError:
                raise Broken(
                    f"a child said {visible(line[:300].decode(errors='replace'))}"
                ) from None
            if said.refused is not None:
                raise Refusal("content", *said.refused)
            if said.later:
                raise Later(said.later)
            if said.broken:
                raise Broken(said.broken)
            yield said
            if said.done is not None:
                return
        status = self.process.wait()
        if status < 0 and -status in _ENDED:
            raise Later("the child was stopped from outside")
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise Broken(
            f"the child ended by itself ({how}) while it was to {what}\n{self._last_words()}"
        )

    def _last_words(self) -> str:
        size = self.complaint.seek(0, os.SEEK_END)
        self.complaint.seek(max(0, size - 4000))
        return visible(self.complaint.read().decode(errors="replace"))

    def end(self) -> None:
        """Stops the child, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.complaint):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


# ---------------------------------------------------------------- a job


@dataclass
class Job:
    """A ticket under one protocol, with the child that works on it."""

    settings: Settings
    id: str
    protocol: str
    hand: Hand | None = None
    attacking: Iterator[Said] | None = None
    images: int = 0  # that were attacked by everything, as was last said
    outcome: dict[str, Any] | None = None  # of the attack
    began: float = 0.0  # time.monotonic() of the attack, and of what was last told of it
    told: float = 0.0

    @functools.cached_property
    def store(self) -> Store:
        """The tickets."""
        return Store(self.settings.root)

    @property
    def folder(self) -> Path:
        """What is known of this job between its steps; a ticket that is received anew has another."""
        return self.settings.root / "work" / f"{self.id}-{self.protocol}-{self.attempt}"

    @functools.cached_property
    def attempt(self) -> int:
        """How often the ticket was received."""
        return self.store.read(self.id).received

    @property
    def first(self) -> bool:
        """Whether this is the protocol of the ticket, whose states it moves through."""
        return self.store.read(self.id).protocol == self.protocol

    # ------------------------------------------------------------ steps

    def admit(self) -> None:
        """Converts the received file, once."""
        seen = self._task().seen
        self._tell(seen=seen)
        self._move("checked")

    def examine(self) -> int:
        """Asks the doctor, and returns how many shards there are. Raises Refusal where it sees red."""
        found = self._known("doctor", lambda: self._done("examine", self._task()))
        wrong = [f"{state}: {name}, {figure}" for state, name, figure, _ in found["wrong"]]
        light = "red" if found["red"] else "amber" if wrong else "green"
        self._tell(doctor="; ".join([light, *wrong])[:300])
        if found["red"]:
            state, name, figure, remedy = next(w for w in found["wrong"] if w[0] == "fail")
            reason = f"the doctor sees red: {name}, {figure}".rstrip(".")
            raise Refusal("content", reason, remedy or "Mend it and submit it again.")
        self._move("waiting")
        return int(found["shards"])

    def begin(self) -> int:
        """Says that it is attacked; how many shards there are."""
        self._move("attacking")
        found = self._known("doctor", lambda: self._done("examine", self._task()))
        return int(found["shards"])

    def shard(self, number: int, shards: int) -> int:
        """Attacks until a shard is finished, on disk; returns its number."""
        if self._path("outcome").exists():
            return number
        if self.attacking is None:
            self.attacking = self._hand().ask("attack", self._task())
            self.images, self.began = 0, time.monotonic()
        n = json.loads(self._path("doctor").read_bytes())["n"]
        enough = n if number == shards - 1 else n // shards * (number + 1)
        while self.outcome is None and self.images < enough:
            self._hear(next(self.attacking), n)
        return number

    def merge(self) -> str:
        """Finishes the attack: evidence, weights, card and record lie in the private folder."""
        if self.outcome is None and self.attacking is not None:
            for said in self.attacking:
                self._hear(said, None)
        self.attacking = None
        known = self.outcome
        found = self._known("outcome", lambda: known or self._done("attack", self._task()))
        self._move("verified")
        ranked = self.store.news(self.id, line=False).protocol == self.protocol
        self._tell(
            **({} if ranked else {"rank": "", "twin": ""}),  # of the protocol before
            clean=found["clean"], robust=found["robust"], n=found["n"], protocol=self.protocol,
            at_most=None, left=None,
        )  # fmt: skip
        return str(found["record"])

    def publish(self, measured: str) -> str:
        """Copies the record to where records live; its path there."""
        task = self._task().model_copy(update={"record": measured})
        found = self._known("published", lambda: self._done("publish", task))
        self._tell(record=found["record"])
        return str(found["record"])

    def rank(self, record: str) -> None:
        """Says the place on the table; the end."""
        task = self._task().model_copy(update={"record": record})
        found = self._done("rank", task)
        self._tell(rank=found["rank"], twin=found["twin"])
        self._write("over", {"record": record})
        self._move("ranked")

    # ------------------------------------------------------------ what steps are made of

    def done(self, step: str, work: Callable[[], Answer]) -> Answer:
        """What a step answers. Raises Over where the ticket is closed, Later where it is to wait."""
        while True:
            self._go_on()
            try:
                answer = work()
            except Refusal as error:
                if error.ours:
                    raise self.wait(error.reason) from None
                self.reject(error.reason, error.remedy)
                raise Over from None
            except Later as error:
                raise self.wait(str(error)) from None
            except OSError as error:
                raise self.wait(f"the server cannot read or write ({error})") from None
            except Broken as error:
                self.end()
                if self._died(step, str(error)) >= MOST_DEATHS:
                    self.reject(
                        f"what was to {step} it ended {MOST_DEATHS} times in a row",
                        "Nothing more is tried: write to the operator, who has what was said last.",
                    )
                    raise Over from None
            else:
                self._path("deaths").unlink(missing_ok=True)
                return answer

    def wait(self, why: str) -> Later:
        """Notes that this is to be tried again, and when; returns what is raised then."""
        tries = int(self.later().get("tries", 0)) + 1
        pause = min(3600.0, LATER * 2 ** (tries - 1))
        self._write("later", {"tries": tries, "after": time.time() + pause, "why": visible(why)})
        log.warning("%s (%s): %s; tried again in %.0f s", self.id[:12], self.protocol, why, pause)
        return Later(why)

    def hurry(self) -> None:
        """Has it tried again now."""
        tries = int(self.later().get("tries", 0)) + 1
        self._write("later", {"tries": tries, "after": 0, "why": "the operator asked for it"})

    def later(self) -> dict[str, Any]:
        """How often it was put off, until when (seconds since 1970) and why; empty where it was not."""
        try:
            return dict(json.loads(self._path("later").read_bytes()))
        except (OSError, ValueError):
            return {}

    def reject(self, reason: str, remedy: str, *, ours: bool = False) -> None:
        """Closes the ticket, where this is its own protocol; else gives this one up alone."""
        if self.first:
            with contextlib.suppress(InvalidInput):  # it was closed meanwhile
                self.store.move(self.id, "rejected", reason[:2000], remedy[:2000], ours=ours)
        else:
            self._failed("given up", f"{reason}. {remedy}")
        self._write("over", {"reason": reason})

    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self._path("over").exists()

    def end(self) -> None:
        """Stops the child."""
        if self.hand is not None:
            self.hand.end()
        self.hand, self.attacking, self.outcome = None, None, None

    def failures(self) -> str:
        """What was said of every death, for the operator."""
        path = self._path("failures", "txt")
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _go_on(self) -> Ticket:
        ticket = self.store.read(self.id)
        if ticket.now.state in ("rejected", "withdrawn", "removed"):
            raise Over
        return ticket

    def _task(self) -> Task:
        ticket = self._go_on()
        spool = Spool(self.settings.root, self.settings.limits)
        kept = spool.known(ticket.file_sha256)
        if kept is None:
            raise Refusal("cut-off", "the file is not here any more", "Send it again.")
        admitted = admit(spool, kept, ticket.ask)
        return Task(
            ticket=ticket, protocol=self.protocol, seen=admitted.seen, weights=admitted.path,
            settings=self.settings,
        )  # fmt: skip

    def _hand(self) -> Hand:
        if self.hand is None:
            self.hand = Hand()
        return self.hand

    def _done(self, what: str, task: Task) -> dict[str, Any]:
        for said in self._hand().ask(what, task):
            if said.done is not None:
                return said.done
            if what == "attack":
                self._hear(said, None)
        raise AssertionError

    def _hear(self, said: Said, n: int | None) -> None:
        """Passes on what a running attack says, not more often than anybody reads."""
        if said.done is not None:
            self.outcome = said.done
        if (said.images or 0) > self.images:
            self.images = said.images or 0
        now = time.monotonic()
        if said.share and now - self.told > _TOLD:
            self.told = now
            left = (now - self.began) * (1 - said.share) / said.share
            known = said.share > _ENOUGH  # what was finished before passes at once
            self._tell(at_most=said.at_most, left=round(left, 1) if known else None)

    def _tell(self, **news: Any) -> None:
        before = self.store.news(self.id, line=False)
        after = News.model_validate({**before.model_dump(), **news})
        if after != before:
            self.store.tell(self.id, after)

    def _move(self, state: Any) -> None:
        """Moves the ticket on; one that is further along stays."""
        if not self.first:
            return
        try:
            self.store.move(self.id, state)
        except InvalidInput:
            self._go_on()  # closed meanwhile: nothing more is done
            raise

    def _known(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was found before, or is found now and kept."""
        try:
            return dict(json.loads(self._path(name).read_bytes()))
        except (OSError, ValueError):
            found = work()
            self._write(name, found)
            return found

    def _died(self, step: str, words: str) -> int:
        """How often this step has ended in a row with nothing finished between."""
        self._failed(step, words)
        name = self.store.read(self.id).form.name
        finished = len(list(self.settings.root.glob(f"parts/*-{name}/*.npz")))
        try:
            before = json.loads(self._path("deaths").read_bytes())
        except (OSError, ValueError):
            before = {}
        again = (before.get("step"), before.get("finished")) == (step, finished)
        count = int(before["count"]) + 1 if again else 1
        self._write("deaths", {"step": step, "finished": finished, "count": count})
        log.warning("%s (%s) to %s: death %d: %s", self.id[:12], self.protocol, step, count, words)
        return count

    def _failed(self, step: str, words: str) -> None:
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, to {step}\n{visible(words)}\n\n"
        write_atomic(self._path("failures", "txt"), (self.failures() + line)[-200_000:], mode=0o600)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_atomic(self._path(name), json.dumps(content), mode=0o600)

    def _path(self, name: str, kind: str = "json") -> Path:
        return self.folder / f"{name}.{kind}"


# ---------------------------------------------------------------- taken back


def unpublish(settings: Settings, tickets: Store, ticket: Ticket) -> None:
    """Takes a closed ticket's record out of the table, and its weights and evidence off the disk.

    The record stays in the history. What another ticket needs stays too.
    """
    records = _known(settings, ticket.id, "published", "record")
    roots = (settings.out, settings.root / "measured")
    for path in [root / each for each in records for root in roots]:
        if not path.exists():
            continue
        record = store.read(path)
        if not store.is_withdrawn(path):
            store.withdraw(path, ticket.now.reason or "withdrawn")
        store.evidence_path(path, record).unlink(missing_ok=True)
        others = (p for p in path.parent.glob("*.json") if len(p.stem) == 16)
        if all(store.is_withdrawn(other) for other in others):
            (path.parent / "weights.safetensors").unlink(missing_ok=True)
    needed = [
        other for other in tickets.all()
        if other.file_sha256 == ticket.file_sha256 and other.id != ticket.id
        and other.now.state not in ("rejected", "withdrawn", "removed")
    ]  # fmt: skip
    if needed:
        return
    Spool(settings.root, settings.limits).remove(ticket.file_sha256)
    folder = settings.checkpoints / ticket.form.name
    with contextlib.suppress(InvalidInput):  # nothing is there, or what is no checkpoint
        ours = _known(settings, ticket.id, "doctor", "weights_sha256")
        if cards.read_card(folder).weights_sha256 in ours:
            shutil.rmtree(folder)


def _known(settings: Settings, id: str, name: str, field: str) -> list[str]:
    """What the jobs of a ticket, of every protocol, found of it."""
    found = []
    for path in sorted(settings.root.glob(f"work/{id}-*/{name}.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found.append(str(json.loads(path.read_bytes())[field]))
    return found
