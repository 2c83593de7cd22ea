"""Records on disk: written once, atomically, never overwritten by a different answer; withdrawable.

Layout: `results/<dataset>/<threat, e.g. linf-8_255>/<model>/<id>.json`, beside it
`<id>.evidence.npz`, `<id>.failed.json` for a measurement that failed, and `<id>.withdrawn.json` for
one found wrong.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from bench.measure.request import Request
from bench.records import json_files
from bench.records.one_read import NotNow, read_whole, sha256_of_bytes
from bench.records.one_read import sha256_of as sha256_of
from bench.reliability.flags import CHECKS_VERSION
from bench.schema import ConflictingRecord, EvaluationRecord, InvalidInput, Standing
from bench.schema.errors import visible
from bench.schema.frozen import canonical_json, content_hash

# What is no answer: when, where and at what cost it was found, which of several adversarial images
# proves a broken bit, who asked (a card names a network of the same weights), and the doubts about it.
_NO_ANSWER = {
    "schema_version", "environment", "created", "seconds", "evidence_sha256", "card", "flags",
}  # fmt: skip
# rejected counts offers that were not accepted, of images whose bits say what became of them.
_COST = ("seconds", "forward_passes", "backward_passes", "rejected")
NEWEST_SCHEMA = 3
_CHECKED = 3  # from this schema on, a file holds a checksum
_LEFT_AFTER = 3600  # seconds; a draft of a living process is written in less
WITHDRAWN = ".withdrawn.json"
CHALLENGE = ".challenge.json"  # bench/records/challenges.py reads it
EVIDENCE = Path("var/evidence")  # what is too large to lie beside a record, by its sha256
LARGEST_RECORD = 32 * 2**20  # bytes; 1,000,000 images under `standard` need about 20 MB


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Writes to a temporary name, flushes to the disk, renames; an old file survives any failure.

    mode is that of the file. Raises OSError that names `path` where there is no room, or no leave to
    write.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        temporary = None
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a full disk the system names no file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    flush_names(path.parent)
    for left in drafts(path):
        with contextlib.suppress(OSError):
            left.unlink()


def flush_names(folder: Path) -> None:
    """Names in a folder outlive a power cut, where that can be had."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def drafts(path: Path) -> list[Path]:
    """What killed processes left of drafts of this path: unchanged for an hour, and of such a name."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}(\.old)?")
    found = []
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                found += [Path(entry.path)] if age > _LEFT_AFTER else []
    return found


def pretty_json(value: BaseModel | Any) -> str:
    """Indented JSON with sorted keys and a final newline: small diffs in git."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def record_path(record: EvaluationRecord, root: Path) -> Path:
    """Where a record belongs under the results folder."""
    suffix = ".failed.json" if record.failure is not None else ".json"
    folder = root / record.dataset / record.threat.folder / record.card.name
    return folder / f"{record.id}{suffix}"


def evidence_path(path: Path, record: EvaluationRecord) -> Path:
    """Where the evidence of a record at `path` is: beside it, else where what is large is kept."""
    beside = path.with_suffix(".evidence.npz")
    return beside if os.path.lexists(beside) else EVIDENCE / f"{record.evidence_sha256}.npz"


def same_answer(a: EvaluationRecord, b: EvaluationRecord) -> bool:
    """Whether two records say the same of the same question: every bit, prediction and distance.

    Cost, environment, card and flags are no part of that. Where one of the two is of an older schema,
    what that could not say is left out of both.
    """
    version = min(a.schema_version, b.schema_version)
    return _answer(a, version) == _answer(b, version)


def _answer(record: EvaluationRecord, version: int) -> str:
    value = record.model_dump(mode="json", exclude=_NO_ANSWER)
    for column in value["columns"].values():
        audited = column.get("audit", {"outcomes": ()})["outcomes"]
        for outcome in (*column["outcomes"], *audited):
            for name in _COST:
                outcome.pop(name)
            if version < 2:
                outcome.pop("uint8_survivors")
        if version < 2:
            column.pop("distances")
    return canonical_json(value)


def write(record: EvaluationRecord, root: Path) -> Path:
    """Appends a record; the same answer again adds no more than flags that the old one lacks.

    Raises ConflictingRecord as `settled` does.
    """
    path = record_path(record, root)
    put(path, settled(record, path))
    return path


def settled(record: EvaluationRecord, path: Path) -> EvaluationRecord:
    """What the file at `path` is to hold once a record was measured: the first that answered.

    Records are append-only but for flags: those that a newer look raised are appended, with the
    version of the checks, and none disappears. Raises ConflictingRecord where the question already
    has another answer: the old one stays, the new one is kept beside it as `<id>.refused.json` and
    both are named.
    """
    if record.failure is not None or not path.exists():
        return record
    old = read(path)
    if same_answer(old, record):
        return _with_flags_of(old, record)
    refused = path.with_suffix(".refused.json")
    write_atomic(refused, text_of(record))
    raise ConflictingRecord(
        f"{path} already answers this question differently.\n"
        f"  recorded: {summary(old)}\n  measured: {summary(record)}\n"
        f"The recorded one stays; the new one is in {refused}. If the recorded one is wrong, "
        f"withdraw it: python -m bench withdraw {path} --reason '...'"
    )


def put(path: Path, record: EvaluationRecord) -> None:
    """Writes what `settled` said, where the file does not hold it yet."""
    if record.failure is None and path.exists() and read(path) == record:
        return
    write_atomic(path, text_of(record))
    if record.failure is None:
        path.with_suffix(".failed.json").unlink(missing_ok=True)  # answered now


def _with_flags_of(old: EvaluationRecord, new: EvaluationRecord) -> EvaluationRecord:
    known = {flag.name for flag in old.flags}
    more = tuple(
        flag.model_copy(update={"values": {**flag.values, "checks": CHECKS_VERSION}})
        for flag in new.flags
        if flag.name not in known
    )
    return old.model_copy(update={"flags": (*old.flags, *more)}) if more else old


def summary(record: EvaluationRecord) -> str:
    """One line of a record's numbers, with n."""
    if record.failure is not None:
        return f"failed: {record.failure}"
    rates = {"clean": record.clean_accuracy, **record.robust_accuracy}
    shown = ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items())
    return f"{shown}, worst case {record.worst_case:.1%} (n = {record.n}, {record.created})"


def text_of(record: EvaluationRecord) -> str:
    """The file of a record; from schema 3 on with the sha256 of its canonical JSON as `checksum`."""
    value = record.model_dump(mode="json")
    if record.schema_version >= _CHECKED:
        value["checksum"] = content_hash(value)
    return pretty_json(value)


def check_sum(content: dict[str, Any], path: Path) -> None:
    """Takes the checksum out of a content. Raises InvalidInput where it is not that of the rest."""
    if "checksum" not in content:
        raise InvalidInput(f"{path} has no checksum; it is left in place")
    if content.pop("checksum") != content_hash(content):
        raise InvalidInput(
            f"{path} is not what was written: its checksum is not that of its content; it is left in "
            "place"
        )


def read(path: Path) -> EvaluationRecord:
    """Reads one record. Raises InvalidInput naming the file where it cannot be trusted."""
    return read_hashed(path)[0]


def read_hashed(path: Path) -> tuple[EvaluationRecord, str]:
    """A record, and the sha256 (hex) of the bytes that it was read from. Raises as `read`."""
    if not os.path.lexists(path):
        raise NotNow(f"no record at {path}")
    raw = read_whole(path, largest=LARGEST_RECORD)
    content = json_files.parsed(raw, path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > NEWEST_SCHEMA:
        raise InvalidInput(
            f"{path} has schema version {version}; this program reads up to {NEWEST_SCHEMA}. "
            "Update the program."
        )
    wrong = f"{path} is not a valid record"
    if isinstance(version, int) and version >= _CHECKED:
        check_sum(content, path)
        record = json_files.validated(content, EvaluationRecord.model_validate, wrong)
    else:  # from the bytes again: it is a quarter faster than from Python's objects
        record = json_files.validated(raw, EvaluationRecord.model_validate_json, wrong)
    if record.id != Request.of(record).id or not path.name.startswith(record.id):
        raise InvalidInput(f"{path}: the id is not that of its content; it is left in place")
    return record, sha256_of_bytes(raw)


# One bad file never stops the others.
DAMAGE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError,
)  # fmt: skip
Held = TypeVar("Held", bound=Standing)  # of a record: all of it, or what the tables need


@dataclass(frozen=True)
class Collection(Generic[Held]):
    """What a results folder holds, including what could not be read."""

    records: tuple[Held, ...] = ()
    paths: tuple[Path, ...] = ()
    failed: tuple[Held, ...] = ()
    withdrawn: dict[Path, str] = field(default_factory=dict)  # path of <id>.json -> reason
    problems: tuple[str, ...] = ()  # a sentence for each file that was skipped
    challenges: tuple[Path, ...] = ()  # adversarial images that others handed in; not read yet


class Stamp(NamedTuple):
    """What tells two states of a file apart without reading it."""

    size: int  # bytes
    modified: int  # ns since 1970
    inode: int  # a file that was replaced has another


def stamps(root: Path, *, suffixes: tuple[str, ...] = (".json",)) -> dict[str, Stamp]:
    """Path below the results folder -> its stamp, in a fixed order; opens no file.

    Thousands of files take tens of milliseconds, a third of what Path.glob takes.
    """
    found = {path: stamp for path, stamp in _files(str(root), "", 4) if path.endswith(suffixes)}
    return {path: found[path] for path in sorted(found, key=lambda path: path.split("/"))}


def _files(folder: str, below: str, depth: int) -> Iterator[tuple[str, Stamp]]:
    """The files `depth` levels down: results/<dataset>/<threat>/<model>/<file>."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if depth > 1:
                    if entry.is_dir(follow_symlinks=False):
                        yield from _files(entry.path, f"{below}{entry.name}/", depth - 1)
                else:
                    yield below + entry.name, _stamp(entry)
    except OSError:  # not there, gone meanwhile, or closed to us
        return


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # gone meanwhile: who reads it says so
        return Stamp(-1, 0, 0)
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def record_files(root: Path) -> Iterator[Path]:
    """The record files under a results folder, in a fixed order."""
    yield from (root / path for path in stamps(root) if of_a_record(path))


def of_a_record(path: str) -> bool:
    """Whether a file is named as those of a record are: 16 characters before the first dot."""
    return len(path.rpartition("/")[2].split(".")[0]) == 16


def collect(root: Path) -> Collection[EvaluationRecord]:
    """Reads every record; a corrupt file is named in `problems` and skipped, never dropped silently."""
    return collected(root, stamps(root), lambda path, below: read(path))


def collected(
    root: Path, files: Iterable[str], read: Callable[[Path, str], Held]
) -> Collection[Held]:
    """Sorts the files below a folder by what they are.

    read takes a path, whole and below the root, and returns what is kept of the record there.
    """
    records, paths, failures, problems, challenges = [], [], [], [], []
    withdrawn: dict[Path, str] = {}
    for below in filter(of_a_record, files):
        path = root / below
        name, kind = path.name.split(".", 1)
        if kind == "withdrawn.json":
            withdrawn[path.with_name(f"{name}.json")] = _reason(path)
        elif kind == CHALLENGE[1:]:
            challenges.append(path)
        elif kind == "refused.json":
            problems.append(f"{visible(str(path))}: a different answer to {name} was refused")
        else:
            try:
                if visible(below) != below:
                    raise InvalidInput(f"{path} has control characters in its name")
                record = read(path, below)
            except DAMAGE as error:
                problems.append(why(error, path))
                continue
            if record.failure is not None:
                failures.append(record)
            else:
                records.append(record)
                paths.append(path)
    return Collection(
        tuple(records), tuple(paths), tuple(failures), withdrawn, tuple(problems), tuple(challenges)
    )


def why(error: Exception, path: Path) -> str:
    """A sentence on what keeps a file out, be it a contradiction that no check foresaw."""
    if isinstance(error, InvalidInput):
        return str(error)
    return visible(f"{path} contradicts itself ({type(error).__name__}); it is left in place")


def _reason(path: Path) -> str:
    try:
        raw = read_whole(path, largest=json_files.LARGEST)
        return visible(str(json_files.parsed(raw, path)["reason"])[:2000])
    except (LookupError, TypeError, ValueError):  # InvalidInput is a ValueError
        return "no readable reason"


def withdraw(path: Path, reason: str) -> Path:
    """Takes a record out of the table, not out of the history: writes `<id>.withdrawn.json`."""
    return write_withdrawal(path, read(path).id, reason)


def write_withdrawal(path: Path, id: str, reason: str) -> Path:
    """Writes beside `<id>.json` that it was withdrawn. Raises InvalidInput without a reason."""
    if not reason.strip():
        raise InvalidInput("a withdrawal needs a reason: --reason 'what was wrong'")
    target = path.with_suffix(WITHDRAWN)
    write_atomic(target, pretty_json({"id": id, "reason": reason, "date": now()}))
    return target


def is_withdrawn(path: Path) -> bool:
    """Whether the record at a path was taken out of the table."""
    return path.with_suffix(WITHDRAWN).exists()


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
