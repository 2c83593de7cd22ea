"""Slots of workers: who works, seen by whoever shares the folder; a silent slot has lost its worker.

`workers/<slot>.json` below the root of the intake is written anew every few seconds, `<slot>.lock` is
held while a worker runs.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime

from bench.records import json_files
from bench.records.lock import locked
from bench.records.store import write_atomic
from bench.schema import InvalidInput
from bench.schema.frozen import Frozen, Name

log = logging.getLogger(__name__)
BEAT = 3.0  # seconds between two signs of life
_GONE = 86_400.0  # seconds after which a slot that left without a word is not told of any more
SILENT = timedelta(seconds=30)  # after which a worker is taken for dead


class Slot(Frozen):
    """A place for one worker at a time, and its last sign of life."""

    name: Name
    host: str
    pid: int
    time: AwareDatetime

    def silent(self, now: datetime) -> bool:
        """Whether nothing was heard of it for too long."""
        return now - self.time > SILENT


@contextmanager
def taken(root: Path, name: str) -> Iterator[None]:
    """Holds a slot. Raises InvalidInput where another process has it."""
    with locked(root / "workers" / f"{name}.lock", f"the slot {name} of {root}"):
        beat(root, name)
        try:
            yield
        finally:
            (root / "workers" / f"{name}.json").unlink(missing_ok=True)


def beat(root: Path, name: str) -> None:
    """Gives a sign of life of a slot."""
    slot = Slot(name=name, host=socket.gethostname(), pid=os.getpid(), time=datetime.now(UTC))
    write_atomic(root / "workers" / f"{name}.json", slot.model_dump_json(), mode=0o600)


def all_of(root: Path) -> list[Slot]:
    """The slots that were heard of within a day, by their names; a damaged file is named in the log."""
    found = []
    for path in sorted(root.glob("workers/*.json")):
        try:
            if path.stat().st_mtime > time.time() - _GONE:
                found.append(json_files.read(path, Slot.model_validate_json, "sign of life"))
        except FileNotFoundError:  # it left just now
            continue
        except InvalidInput as error:
            log.warning("%s", error)
    return found
