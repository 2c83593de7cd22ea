"""Merging: the parts that shares of one measurement left, from one folder or several machines.

Beside its parts a share leaves what was asked, so that a folder alone says which record it is of.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bench.measure import shares, sweep
from bench.measure.parts import Part, alone, from_bytes, parts_folder, unsealed
from bench.measure.shards import Shards
from bench.measure.share import MOST, Share
from bench.measure.shares import Made
from bench.measure.sweep import Job
from bench.records import json_files
from bench.records.npz import UNREADABLE
from bench.records.one_read import read_whole, sha256_of
from bench.records.store import pretty_json, write_atomic
from bench.schema import BenchError, InvalidInput, Name, Text, ThreatModel
from bench.schema.frozen import Frozen
from bench.schema.record import AuditSize
from bench.sources import zoo

log = logging.getLogger(__name__)
NAME = "asked.json"
_SEVERAL = 5  # files that are named in one message
_LARGEST = 2**31  # bytes of a part


class Asked(Frozen):
    """What a share was asked, as the command takes it."""

    source: Text | None  # a checkpoint folder or robustbench:<id>; None: a model of one's own file
    data: Text
    dataset_name: Name
    split: Text
    threat: ThreatModel
    protocol: Text
    n: int = Field(ge=1)
    seed: int = Field(ge=0)
    engine: Literal["ours", "reference"]
    precision: Literal["float32", "mixed"]
    audit: AuditSize
    batch: int | None = Field(ge=1)
    of: int = Field(ge=1, le=MOST)  # shares, at the last time


def make_share(job: Job, report: sweep.processes.Report, *, share: Share) -> Made | None:
    """Makes a share of a job's measurement; None where the record is there already."""
    if not job.again and sweep.answered(job):
        return None
    assert job.work is not None
    with sweep.should_it_not_return(job):
        question = sweep.question(job)
        folder = parts_folder(job.work, question.request.id, question.card)
        text = pretty_json(_asked(job, share))
        if not (folder / NAME).is_file() or (folder / NAME).read_text() != text:
            write_atomic(folder / NAME, text)
        until = math.inf if job.max_seconds is None else time.monotonic() + job.max_seconds
        return shares.make(
            question, share, job.work, workers=job.workers, until=until, report=report
        )


def _asked(job: Job, share: Share) -> Asked:
    source = None
    if isinstance(job.source, Path):
        source = str(job.source.absolute())
    elif isinstance(job.source, zoo.Entry):
        source = job.source.link
    return Asked(
        source=source, data=job.dataset, dataset_name=job.dataset_name, split=job.split,
        threat=job.threat, protocol=job.protocol, n=len(sweep.examples(job)), seed=job.seed,
        engine=job.engine, precision=job.precision, audit=job.audit, batch=job.batch, of=share.of,
    )  # fmt: skip


def read_asked(folder: Path) -> Asked:
    """What the shares in a folder of parts were asked. Raises InvalidInput."""
    return json_files.read(folder / NAME, Asked.model_validate_json, "description of shares")


# ---------------------------------------------------------------- from folders to a job


def is_parts(place: str | Path) -> bool:
    """Whether a folder is one that shares left."""
    return os.path.lexists(Path(place) / NAME)


def job_of(folder: Path, zoo_root: Path, **more: Any) -> Job:
    """The job whose parts lie in a folder; `more` are fields of Job. Raises InvalidInput."""
    asked = read_asked(folder)
    if asked.source is None:
        raise InvalidInput(
            f"{folder} is of a model of your own, which no folder names: merge it by the arguments "
            "that evaluate was given"
        )
    source = zoo.source(asked.source, zoo_root)
    if isinstance(source, Path) and not source.is_dir():
        raise InvalidInput(
            f"{folder} is of the checkpoint {source}, which is not here: merge it by the arguments "
            "that evaluate was given, with the checkpoint's place here"
        )
    return sweep.make_job(
        source, dataset=asked.data, dataset_name=asked.dataset_name, split=asked.split, n=asked.n,
        threat=str(asked.threat), protocol=asked.protocol, seed=asked.seed, engine=asked.engine,
        precision=asked.precision, audit=asked.audit, batch=asked.batch, **more,
    )  # fmt: skip


def gather(job: Job, folders: Sequence[Path]) -> None:
    """Brings the parts of folders together below the job's `work`, and sees that none is missing.

    Files that are there already are left; the folders given are left as they are. Where the record is
    there nothing is done. Raises InvalidInput for a folder of another measurement and for parts that
    contradict each other, and BenchError that names what is missing or damaged.
    """
    if sweep.answered(job) and not job.again:
        return
    assert job.work is not None
    question = sweep.question(job)
    target = parts_folder(job.work, question.request.id, question.card)
    _refuse_others(target, folders)
    if question.failure is not None:  # for the measurement to record
        return
    with alone(target, question.card):
        damaged = [each for folder in folders for each in _taken_in(folder, target)]
        shards = question.shards(target, shared=True)
        if not target.is_dir():
            raise BenchError(f"no part of {question.card.name} is in {job.work}: no share was made")
        shards.own_logits()
        lacking = shares.missing(shards)
        if not lacking:
            for each in damaged:
                log.warning("%s; another copy of it is whole", each)
            return
        raise BenchError(_told(lacking, damaged, shards))


def _refuse_others(target: Path, folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.resolve().name != target.name:
            raise InvalidInput(
                f"{folder} holds parts of another measurement: expected a folder {target.name}, which "
                "is named by what is asked (a copy keeps its name), by this version of the engine"
            )


def _told(lacking: Sequence[shares.Missing], damaged: Sequence[str], shards: Shards) -> str:
    """Which units are missing and why, and what makes them."""
    every = len(shares.units(shards))
    lines = [f"{len(lacking)} of {every} columns x shards are not whole; no record is made"]
    lines += [f"{each.path}: {each.why}" for each in lacking[:_SEVERAL]]
    if len(lacking) > _SEVERAL:
        lines.append(f"and {len(lacking) - _SEVERAL} more")
    lines += damaged[:_SEVERAL]
    if others := shares.strays(shards):
        lines.append(
            f"{len(others)} parts are of other shards of the same images ({others[0].name}): a machine "
            "that rounds otherwise dealt them; give it hardness.npy of this folder before it begins"
        )
    if (shards.folder / NAME).exists():
        of = read_asked(shards.folder).of
        which = ", ".join(map(str, shares.shares_of(lacking, shards, of)[:20]))
        lines.append(
            f"make them with --shard {which}; or evaluate without --shard goes on from here"
        )
    return "\n  ".join(lines)


def _taken_in(folder: Path, target: Path) -> list[str]:
    """Copies the files of a folder of parts that are whole; a sentence for each that is damaged."""
    if folder.resolve() == target.resolve():
        return []
    wrong = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".npz", ".npy", ".json") or path.name.startswith("."):
            continue
        into = target / path.name
        try:
            raw = read_whole(path, largest=_LARGEST)
            if path.name != NAME:
                unsealed(path)
        except UNREADABLE as error:
            wrong.append(f"{path} is damaged: {str(error).partition(chr(10))[0][:200]}")
            continue
        if not _whole(into):
            write_atomic(into, raw)
        elif path.suffix == ".npz" and not _same(path, into):
            raise InvalidInput(
                f"{path} and {into} are the same part with different answers; the machines do not "
                "agree: remove the one that is wrong"
            )
    return wrong


def _whole(path: Path) -> bool:
    if path.name == NAME:
        return path.is_file()
    try:
        unsealed(path)
    except UNREADABLE:
        return False
    return True


def _same(a: Path, b: Path) -> bool:
    """Whether two parts say the same of the same images, whatever they cost."""
    if sha256_of(a) == sha256_of(b):
        return True
    one, other = _part(a), _part(b)
    pairs = [(one.standing, other.standing), (one.predictions, other.predictions)]
    return all(np.array_equal(x, y) for x, y in pairs)


def _part(path: Path) -> Part:
    """A part by itself. Raises InvalidInput."""
    try:
        return from_bytes(unsealed(path))
    except UNREADABLE as error:
        raise InvalidInput(f"{path} is no part ({error})") from None
