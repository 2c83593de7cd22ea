"""The entries of a results folder kept in one file, so that a start reads only what is new.

The index is disposable: damaged, missing or of another version of this program, it is made again from
the records.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import schema
from bench.records import entry as entries
from bench.records import json_files, one_read, store
from bench.records.entry import PLAIN, Entry
from bench.records.one_read import NotNow, read_whole
from bench.records.store import Collection, Stamp
from bench.reliability import flags as flag_catalogue
from bench.schema import Flag, InvalidInput, Protocol, ThreatModel
from bench.schema.errors import visible
from bench.schema.record import Audited

CACHE = Path("var/board")  # where the index and rank ranges lie; may be deleted at any time
# A file that changed so shortly before it was read may change again and keep its stamp.
_SETTLED = 2 * 10**9  # ns
_WORTH_WRITING = 200  # records that a reader with a memory reads before it writes the index again


# ---------------------------------------------------------------- a folder of records


@dataclass
class Memory:
    """What one who collects again and again keeps: the entries, the same objects until they change."""

    # Settled, by path below: an entry, or why there is none.
    held: dict[str, tuple[Stamp, Entry | str]] = field(default_factory=dict)
    written: int = 0  # of these, how many the file had when it was read or written
    # Writes the file anew, where that is due: who is waited for calls it when the waiting is over.
    write: Callable[[], None] | None = None


def _trusted(kept: Entry | str) -> Entry:
    """An entry; InvalidInput where the reason is kept why there is none."""
    if isinstance(kept, str):
        raise InvalidInput(kept)
    return kept


def collect(
    root: Path, cache: Path | None = None, *, memory: Memory | None = None
) -> Collection[Entry]:
    """Every record under a results folder, as store.collect; only what is new is read.

    cache is a folder for the index; anything in it may be deleted. A file counts as known where its
    size, time and inode are. Of what cannot be trusted the reason is kept; what could not be read this
    time is tried again. With a memory the index is read once, and `memory.write` left once in a while.
    """
    started = time.time_ns()
    found = store.stamps(root)
    file, known = None, {}
    before = memory.held if memory is not None else {}
    if cache is not None:
        file = cache / f"{_digest(os.fsencode(root.absolute())).hex()[:16]}.index"
        if not before:
            with contextlib.suppress(InvalidInput):  # missing, mostly
                known = _parsed(read_whole(file, largest=_LARGEST))
    stamp_of = {k: line[0] for k, line in (before or known).items()}
    new = {k: s for k, s in found.items() if stamp_of.get(k) != s}
    elsewhere = read_elsewhere(root.absolute(), new)
    held: dict[str, Entry | str] = {}  # an entry, or why there is none

    def read(path: Path, below: str) -> Entry:
        if below in before and below not in new:
            old = held[below] = before[below][1]
            return _trusted(old)
        line = elsewhere[below]().get(below) if below in elsewhere else known.get(below)
        if line is not None and line[0] == found[below]:
            kept = held[below] = _entry_of(line, path)
            return _trusted(kept)
        try:
            made = held[below] = entries.read(path)
        except store.DAMAGE as error:
            if not isinstance(error, NotNow):
                held[below] = store.why(error, path)
            raise
        return made

    collection = store.collected(root, found, read)
    settled = {k: (found[k], e) for k, e in held.items() if found[k].modified < started - _SETTLED}
    changed = {k: stamp for k, (stamp, _) in settled.items()} != stamp_of
    if memory is not None:
        changed = (changed and not before) or abs(len(settled) - memory.written) >= _WORTH_WRITING
        memory.held = settled
        memory.written = len(settled) if changed or not before else memory.written
    if file is not None and changed:
        if memory is not None:
            memory.write = functools.partial(_write, file, settled, root)
        else:
            _write(file, settled, root)
    return collection


def _write(file: Path, settled: Mapping[str, tuple[Stamp, Entry | str]], root: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time alone
        store.write_atomic(file, _dump(settled, root))


@functools.cache
def _version() -> bytes:
    """Another program may read records otherwise: its index is not ours."""
    nouns = sorted(Path(schema.__file__).parent.glob("*.py"))
    modules = (store, entries, json_files, one_read, flag_catalogue)
    readers = (Path(str(module.__file__)) for module in modules)
    return _digest(b"".join(path.read_bytes() for path in (*nouns, *readers, Path(__file__))))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# ---------------------------------------------------------------- other processes

_WORTH_A_PROCESS = 500  # files; one takes as long to start as it takes to read so many
_MOST_PROCESSES = 4
_Answer = Callable[[], "dict[str, _Line]"]


def read_elsewhere(root: Path, new: dict[str, Stamp]) -> dict[str, _Answer]:
    """Starts a process a core where there is much to read; none reads the first part.

    Returns what to call for a file that another process reads. A file that is missing in its answer
    was not read, for whatever reason.
    """
    files = [below for below in new if store.of_a_record(below)]
    processes = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES, len(files) // _WORTH_A_PROCESS)
    found: dict[str, _Answer] = {}
    for k in range(1, processes):
        part = files[k * len(files) // processes : (k + 1) * len(files) // processes]
        with contextlib.suppress(OSError):  # no room for a process or for a file: read here
            found |= dict.fromkeys(part, _reader(root, {below: new[below] for below in part}))
    return found


def _reader(root: Path, part: dict[str, Stamp]) -> _Answer:
    """Starts a process on these files. Raises OSError where it cannot."""
    # Not multiprocessing: it would run the main module, the pages, again in the other process.
    command = [sys.executable, "-m", "bench.records.index"]
    with tempfile.TemporaryFile() as asked:
        asked.write(json.dumps([str(root), part]).encode())
        asked.seek(0)
        process = subprocess.Popen(
            command, stdin=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    return functools.cache(lambda: _parsed(process.communicate()[0]))


def main() -> None:
    """The other process: reads the files that stdin names and answers as an index would."""
    folder, part = json.load(sys.stdin)
    read = {}
    for below, stamp in part.items():
        path = Path(folder) / below
        with contextlib.suppress(*store.DAMAGE):  # who asked reads it too, and says what is wrong
            read[below] = (Stamp(*stamp), entries.read(path))
    sys.stdout.buffer.write(_dump(read, Path(folder)))


# ---------------------------------------------------------------- the file

# What the file says of one record: an entry's facts, or a refusal with a NUL for where it lies.
_Line = tuple[Stamp, Protocol | None, dict[str, Any]]
_REFUSED, _HERE = "refused", "\0"
_LARGEST = 2**29  # bytes; 10,000 records take 3 MB
_FLAGS = ("flags", "counted")
_BYTES = ("bits", "hits")
_SAID = (
    *PLAIN,
    *("sha256", "name", "weights_sha256", "class_count", "labels_sha256"),
    *("protocol_id", "passes", "columns", "card_json"),
)
_threat = functools.lru_cache(maxsize=1000)(ThreatModel.parse)  # one object for thousands of rows


def _dump(entries: Mapping[str, tuple[Stamp, Entry | str]], root: Path) -> bytes:
    """Version, checksum, then deflated JSON: the protocols, each once, and a line an entry."""
    protocols: dict[str, int] = {}  # JSON -> its place
    lines: list[list[Any]] = []
    for below, (stamp, held) in entries.items():
        if isinstance(held, str):
            said = held.replace(visible(str(root / below)), _HERE)
            lines.append([below, stamp, None, {_REFUSED: said}])
            continue
        place = protocols.setdefault(held.protocol.model_dump_json(), len(protocols))
        facts: dict[str, Any] = {name: getattr(held, name) for name in _SAID}
        facts |= {"threat": str(held.threat), "audits": [vars(each) for each in held.audits]}
        facts |= {name: base64.b64encode(getattr(held, name)).decode() for name in _BYTES}
        for name in _FLAGS:
            facts[name] = [flag.model_dump(mode="json") for flag in getattr(held, name)]
        lines.append([below, stamp, place, facts])
    # The lowest level: a quarter larger than the highest, and many times as fast.
    body = zlib.compress(json.dumps([list(protocols), lines]).encode(), 1)
    return _version() + _digest(body) + body


def _parsed(data: bytes) -> dict[str, _Line]:
    """Path below the root -> what was known of it; nothing where the index is not sound."""
    version, checksum, body = data[:32], data[32:64], data[64:]
    if version != _version() or checksum != _digest(body):
        return {}
    texts, lines = json.loads(zlib.decompressobj().decompress(body, _LARGEST))
    protocols = [Protocol.model_validate_json(text) for text in texts]
    return {
        below: (Stamp(*stamp), None if k is None else protocols[k], facts)
        for below, stamp, k, facts in lines
    }


def _entry_of(line: _Line, path: Path) -> Entry | str:
    """What is known of a record: its entry, or why there is none."""
    _, protocol, facts = line
    if protocol is None:
        return str(facts[_REFUSED]).replace(_HERE, visible(str(path)))
    made = {
        "threat": _threat(facts["threat"]),
        "columns": tuple(facts["columns"]),
        "audits": tuple(Audited(**each) for each in facts["audits"]),
        **{name: base64.b64decode(facts[name]) for name in _BYTES},
        **{name: tuple(map(Flag.model_validate, facts[name])) for name in _FLAGS},
    }
    return Entry(path=path, protocol=protocol, **facts | made)


if __name__ == "__main__":
    main()
