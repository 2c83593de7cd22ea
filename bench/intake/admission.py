"""Admission: a file of the spool becomes weights of the catalogue, once, in children that are locked.

The parent reads two files that a child wrote, within bounds, and never the upload. Every refusal and
every death becomes a reason and a remedy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from bench.intake import confinement
from bench.intake.child import AGAIN
from bench.intake.confinement import Ended, Isolation
from bench.intake.locking import Allowance
from bench.intake.refusal import Refusal
from bench.intake.report import Ask, Locked, Report, Seen
from bench.intake.spool import Kept, Spool, private
from bench.records.one_read import opened, sha256_of
from bench.records.store import flush_names, write_atomic
from bench.schema import InvalidInput
from bench.schema.errors import visible
from bench.sources import weight_files
from bench.sources.pickles import Stored

log = logging.getLogger(__name__)

_MEMORY = 10**9  # bytes beyond the imports, and so many times the file:
_COPIES = 8  # as it is read, as float32, the network, the file made of it; half precision doubles
_HEADER = 2**20  # bytes of names and shapes
# stage -> (seconds of the processor, of the clock once locked, of the clock with the imports)
_SECONDS = {"look": (20, 30, 120), "convert": (60, 90, 180)}
Model = TypeVar("Model", bound=BaseModel)
_TOO_LONG = (signal.SIGALRM, signal.SIGXCPU)


@dataclass(frozen=True)
class Admitted:
    """Weights that were made of a received file."""

    seen: Seen
    path: Path  # a file of safetensors; nothing else is read from now on
    weights_sha256: str


def admit(spool: Spool, kept: Kept, ask: Ask, *, isolation: Isolation | None = None) -> Admitted:
    """Converts a received file, or says what was made of it before. Raises Refusal."""
    place = spool.weights(_key(kept, ask))
    if there := _made_before(place):
        return there
    look(kept, ask, isolation=isolation)
    spool.check_room(_most(kept))
    part = place.with_name(f"{secrets.token_hex(16)}.part")
    place.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with open(part, "xb", opener=private) as made:
            report = _told(_run("convert", kept, ask, made, isolation), "convert", kept)
            os.fsync(made.fileno())
        if report.seen is None:
            raise _ours("a child said nothing of what it made")
        _check(part, report.seen, kept)
        admitted = Admitted(report.seen, place, sha256_of(part))
        os.rename(part, place)
        flush_names(place.parent)
        # The word that it is there comes last.
        write_atomic(_words(place), report.seen.model_dump_json())
        return admitted
    except OSError as error:
        raise _ours(f"the server cannot write ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def look(kept: Kept, ask: Ask, *, isolation: Isolation | None = None) -> None:
    """Reads a file's layout without torch, in a child. Raises Refusal."""
    with open(os.devnull, "wb") as nothing:
        _told(_run("look", kept, ask, nothing, isolation), "look", kept)


def _most(kept: Kept) -> int:
    """Bytes that a converted file may have: half precision becomes float32."""
    return 2 * kept.size + _HEADER


def _key(kept: Kept, ask: Ask) -> str:
    """A name for this file read in this way."""
    text = ask.model_dump_json(exclude={"file_name"})
    return f"{kept.sha256}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _words(place: Path) -> Path:
    return place.with_suffix(".json")


def _made_before(place: Path) -> Admitted | None:
    try:
        seen = Seen.model_validate_json(_words(place).read_bytes())
        return Admitted(seen, place, sha256_of(place))
    except (FileNotFoundError, InvalidInput, ValidationError):
        return None


# ---------------------------------------------------------------- a child and its report


def _run(stage: str, kept: Kept, ask: Ask, made: IO[bytes], isolation: Isolation | None) -> Ended:
    cpu, seconds, wall = _SECONDS[stage]
    memory = _MEMORY + _COPIES * kept.size
    allowance = Allowance(memory, cpu, seconds, _most(kept))
    with opened(kept.path) as (source, _):
        return confinement.run(
            f"bench.intake.child:{stage}", [ask.model_dump_json()], source, made, allowance,
            wall=wall, isolation=isolation,
        )  # fmt: skip


def _told(ended: Ended, stage: str, kept: Kept) -> Report:
    """What a child reported of a file that it does not refuse. Raises Refusal."""
    first, _, second = ended.report.partition(b"\n")
    locked = _parsed(Locked, first)
    if ended.complaint or locked is None:
        log.warning("%s of %s: %s", stage, kept.sha256, visible(ended.complaint) or ended)
    if locked is not None:
        around = "bubblewrap, " if ended.wrapped else ""
        log.info("%s of %s, held by %s%s", stage, kept.sha256, around, visible(locked.locked))
    if ended.late or ended.signal in _TOO_LONG:
        if locked is None:
            raise _ours("a child did not start in time")
        raise Refusal("too-much", "reading this file takes longer than any network's does", AGAIN)
    if ended.signal == signal.SIGKILL:  # by the system, where memory ran out, or by a person
        raise _ours("the child that read this file was killed from outside")
    if locked is None:
        raise _ours("a child did not start")
    report = _parsed(Report, second)
    if ended.status != 0 or report is None:
        how = signal.Signals(ended.signal).name if ended.signal else f"status {ended.status}"
        raise Refusal("crashed", f"the child that read this file died of it ({how})", AGAIN)
    if report.refused is not None:
        raise Refusal(report.refused.code, report.refused.reason, report.refused.remedy)
    return report


def _parsed(model: type[Model], raw: bytes) -> Model | None:
    try:
        return model.model_validate_json(raw)
    except ValidationError:
        return None


def _ours(reason: str) -> Refusal:
    return Refusal("server", reason, "The file is not judged: try again later.")


def _check(part: Path, seen: Seen, kept: Kept) -> None:
    """The layout of what a child made is that of safetensors, and what it said. Raises Refusal."""
    with _as_a_crash(), opened(part, largest=_most(kept)) as (file, _):
        if file.read(2) == b"PK":
            raise InvalidInput("no safetensors")
        content = weight_files.read(file, part).content
        stored = [value for value in content.values() if isinstance(value, Stored)]
        if not seen.n_parameters <= sum(value.numel for value in stored):
            raise InvalidInput("fewer numbers than parameters")


@contextmanager
def _as_a_crash() -> Iterator[None]:
    try:
        yield
    except InvalidInput:
        raise Refusal(
            "crashed", "the child that read this file left something else than weights", AGAIN
        ) from None
