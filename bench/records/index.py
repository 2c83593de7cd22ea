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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench import schema
from bench.records import entry as entries
from bench.records import store
from bench.records.entry import PLAIN, Entry, entry
from bench.records.store import Collection, Stamp
from bench.reliability import flags as flag_catalogue
from bench.schema import Flag, InvalidInput, Protocol, ThreatModel

CACHE = Path("var/board")  # where the index and rank ranges lie; may be deleted at any time
# A file that changed so shortly before it was read may change again and keep its stamp.
_SETTLED = 2 * 10**9  # ns


# ---------------------------------------------------------------- a folder of records


def collect(root: Path, cache: Path | None = None) -> Collection[Entry]:
    """Every record under a results folder, as results.collect; only what is new is read.

    cache is a folder for the index; anything in it may be deleted. A file counts as known where its
    size, time and inode are; what could not be read is tried again every time.
    """
    started = time.time_ns()
    found = store.stamps(root)
    file = None if cache is None else _index_file(root, cache)
    known = {} if file is None else _load(file)
    new = {k: s for k, s in found.items() if k not in known or known[k].stamp != s}
    elsewhere = read_elsewhere(root.absolute(), new)
    held: dict[str, Entry] = {}

    def read(path: Path, below: str) -> tuple[Entry, bool]:
        line = elsewhere[below]().get(below) if below in elsewhere else known.get(below)
        if line is not None and line.stamp == found[below]:
            held[below] = _entry_of(line, path)
        else:
            held[below] = entry(store.read(path), path)
        return held[below], held[below].failure is not None

    collection = store.collected(root, found, read)
    if file is not None:
        settled = {k: found[k] for k in held if found[k].modified < started - _SETTLED}
        if settled != {below: line.stamp for below, line in known.items()}:
            with contextlib.suppress(OSError):  # a folder that cannot be written costs time alone
                store.write_atomic(file, _dump({k: (found[k], held[k]) for k in settled}))
    return collection


def _index_file(root: Path, cache: Path) -> Path:
    return cache / f"{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]}.index"


@functools.cache
def _version() -> bytes:
    """Another program may read records otherwise: its index is not ours."""
    readers = (schema, store, entries, flag_catalogue)
    sources = (Path(module.__file__ or "") for module in readers)
    return _digest(b"".join(path.read_bytes() for path in (*sources, Path(__file__))))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# ---------------------------------------------------------------- other processes

_WORTH_A_PROCESS = 500  # files; one takes as long to start as it takes to read so many
_MOST_PROCESSES = 4
_Answer = Callable[[], dict[str, "_Line"]]


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
    house = Path(__file__).parents[2]
    with contextlib.ExitStack() as where_it_fails, tempfile.TemporaryFile() as asked:
        answer = where_it_fails.enter_context(tempfile.TemporaryFile())
        asked.write(json.dumps([str(root), part]).encode())
        asked.seek(0)
        process = subprocess.Popen(
            command, stdin=asked, stdout=answer, stderr=subprocess.DEVNULL, cwd=house
        )
        where_it_fails.pop_all()

    @functools.cache
    def lines() -> dict[str, _Line]:
        with answer:
            process.wait()
            answer.seek(0)
            return _parsed(answer.read())

    return lines


def main() -> None:
    """The other process: reads the files that stdin names and answers as an index would."""
    folder, part = json.load(sys.stdin)
    read = {}
    for below, stamp in part.items():
        path = Path(folder) / below
        with contextlib.suppress(InvalidInput):  # who asked reads it too, and says what is wrong
            read[below] = (Stamp(*stamp), entry(store.read(path), path))
    sys.stdout.buffer.write(_dump(read))


# ---------------------------------------------------------------- the file


class _Line(NamedTuple):
    """What the file says of one record."""

    stamp: Stamp
    protocol: Protocol
    card_json: str
    packed: str  # base64
    facts: dict[str, Any]


def _dump(entries: dict[str, tuple[Stamp, Entry]]) -> bytes:
    """Version, checksum, then deflated JSON: the protocols, each once, and a line an entry."""
    protocols: dict[str, int] = {}  # JSON -> its place
    lines = []
    for below, (stamp, held) in entries.items():
        place = protocols.setdefault(held.protocol.model_dump_json(), len(protocols))
        packed = base64.b64encode(held.packed).decode()
        lines.append([below, stamp, place, held.card_json, packed, _facts(held)])
    # The lowest level: a quarter larger than the highest, and many times as fast.
    body = zlib.compress(json.dumps([list(protocols), lines]).encode(), 1)
    return _version() + _digest(body) + body


def _load(file: Path) -> dict[str, _Line]:
    """Path below the root -> what was known of it; nothing where the index is not sound."""
    try:
        return _parsed(file.read_bytes())
    except OSError:
        return {}


def _parsed(data: bytes) -> dict[str, _Line]:
    version, checksum, body = data[:32], data[32:64], data[64:]
    if version != _version() or checksum != _digest(body):
        return {}
    texts, lines = json.loads(zlib.decompress(body))
    protocols = [Protocol.model_validate_json(text) for text in texts]
    return {
        below: _Line(Stamp(*stamp), protocols[place], *rest) for below, stamp, place, *rest in lines
    }


def _facts(entry: Entry) -> dict[str, Any]:
    names = (*PLAIN, "name", "weights_sha256", "protocol_id", "passes", "columns")
    facts = {name: getattr(entry, name) for name in names}
    flags = {
        name: [flag.model_dump(mode="json") for flag in getattr(entry, name)] for name in _FLAGS
    }
    return facts | {"threat": str(entry.threat), **flags}


def _entry_of(line: _Line, path: Path) -> Entry:
    facts = line.facts | {
        "threat": _threat(line.facts["threat"]),
        **{name: tuple(map(Flag.model_validate, line.facts[name])) for name in _FLAGS},
        "columns": tuple(line.facts["columns"]),
    }
    packed = base64.b64decode(line.packed)
    return Entry(
        path=path, protocol=line.protocol, card_json=line.card_json, packed=packed, **facts
    )


_FLAGS = ("flags", "counted")
_threat = functools.lru_cache(maxsize=1000)(ThreatModel.parse)  # one object for thousands of rows


if __name__ == "__main__":
    main()
