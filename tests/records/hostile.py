"""Files that others may have left where ours are expected, and a process that reads them all.

`python -m tests.records.hostile FOLDER RESULTS` reads each kind in each hostile form with 500 MB beside
what its imports took and 5 seconds a file, and prints what was said: {"kind/form": [words, seconds]}.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 500 * 2**20  # bytes
SECONDS = 5
SECRET = "root:$6$secret"

Maker = Callable[[Path, bytes], object]  # writes a hostile file; is told what a good one holds


def _with(more: bytes) -> Maker:
    """A good JSON object that holds one more field first."""
    return lambda path, good: path.write_bytes(b"{" + more + b"," + good.lstrip()[1:])


def _sparse(path: Path, good: bytes) -> None:
    with path.open("wb") as file:
        file.truncate(8 * 2**30)


def _fields(count: int) -> Maker:
    return lambda path, good: _with(_many(count))(path, good)


@functools.cache
def _many(count: int) -> bytes:
    return b",".join(b'"x%d":%d' % (k, k) for k in range(count))


def _secret(path: Path, good: bytes) -> None:
    path.with_name("elsewhere").write_text(SECRET)
    path.symlink_to("elsewhere")


def _linked(path: Path, good: bytes) -> None:
    path.with_name("a good one").write_bytes(good)
    path.symlink_to("a good one")


# Files of any kind, then JSON alone; of each the words of its refusal.
FILES: dict[str, tuple[Maker, str]] = {
    "endless link": (lambda path, good: path.symlink_to("/dev/zero"), "is a link"),
    "link to a secret": (_secret, "is a link"),
    "link to a good one": (_linked, "is a link"),
    "link to nowhere": (lambda path, good: path.symlink_to("nowhere"), "is a link"),
    "pipe": (lambda path, good: os.mkfifo(path), "not a regular file"),
    "folder": (lambda path, good: path.mkdir(), "not a regular file"),
    "8 GB of holes": (_sparse, "at most [0-9,]+ are read"),
}
UNSIGNED = "is not what was written"  # a record of schema 3, whose checksum is compared first
_UNKNOWN = "Extra inputs|Field required|at most [0-9,]+ are read"
LARGE = "2 million fields"  # of a record alone: the file takes 40 MB
JSON: dict[str, tuple[Maker, str]] = {
    LARGE: (_fields(2_000_000), "at most [0-9,]+ are read"),
    "as many fields as are read": (_fields(12_000), _UNKNOWN),
    "a secret": (lambda path, good: path.write_text(SECRET), "is not JSON"),
    "empty": (lambda path, good: path.write_bytes(b""), "is not JSON"),
    "cut off": (lambda path, good: path.write_bytes(good[: len(good) // 2]), "is not JSON"),
    "deep": (lambda path, good: path.write_bytes(b"[" * 40_000), "nested too deeply"),
    "deep but whole": (_with(b'"x":' + b"[" * 500 + b"]" * 500), "not a valid|nested|not JSON"),
    "a byte order mark": (
        lambda path, good: path.write_bytes(b"\xef\xbb\xbf" + good), "BOM"
    ),
    "latin-1": (lambda path, good: path.write_bytes(b'{"caf\xe9":1}'), "byte 5 is no UTF-8"),
    "half a surrogate": (_with(rb'"x":"\ud800"'), "not a valid"),
    "a key twice": (_with(b'"schema_version":1,"schema_version":1'), "a key stands twice"),
    "no number": (_with(b'"x":NaN'), "infinite or none"),
    "an endless number": (_with(b'"x":1e999'), "infinite or none"),
    "5,000 digits": (_with(b'"x":' + b"3" * 5000), "more than 18 digits"),
    "400 digits": (_with(b'"x":' + b"3" * 400), "more than 18 digits"),
    "an escape code": (_with(b'"\\u001b[31mred\\u202e":1'), r"\\x1b\[31mred\\u202e: Extra|Field"),
    "a long key": (_with(b'"' + b"k" * 200_000 + b'":1'), f"k{{20,59}}…: {_UNKNOWN}"),
}  # fmt: skip


KINDS = ("record", "card", "gap", "contamination", "study", "agreement", "run")


def kinds(good: Path) -> dict[str, tuple[Callable[[Path], object], Path, str]]:
    """Kind -> (its reader, a good file of it, the name that a file of it has)."""
    from awp_train.run_files import read_run
    from bench.contamination import read_contamination
    from bench.gap import read_gap
    from bench.records import cards, store
    from bench.reliability import agreement
    from bench.stats import study_files

    record = next(p for p in sorted(good.glob("digits/linf-0.15/*/*.json")) if len(p.stem) == 16)
    return {
        "record": (store.read, record, record.name),
        "card": (lambda path: cards.read_card(path.parent), record.with_name("card.json"), "card.json"),
        "gap": (
            functools.partial(_of_folder, read_gap, weights_sha256="0" * 64),
            next(iter(sorted(good.rglob("gap.json")))), "gap.json",
        ),
        "contamination": (
            functools.partial(_of_folder, read_contamination, weights_sha256="0" * 64),
            next(iter(sorted(good.rglob("contamination.json")))), "contamination.json",
        ),
        "study": (study_files.read, good / "studies/digits-methods.json", "digits-methods.json"),
        "agreement": (agreement.read, next(iter(sorted(good.rglob("agreement/*/*.json")))), "x.json"),
        "run": (lambda path: read_run(path.parent.parent, path.parent.name), record, "run.json"),
    }  # fmt: skip


def cases() -> list[tuple[str, str]]:
    """Every kind in every form."""
    return [(k, f) for k in KINDS for f in FILES | JSON if f != LARGE or k == "record"]


def _of_folder(read: Callable[..., object], path: Path, **more: Any) -> object:
    return read(path.parent, **more)


def main(folder: Path, good: Path) -> None:
    """Reads every kind in every form."""
    readers = kinds(good)
    _limit()
    said = {}
    for kind, form in cases():
        read, example, name = readers[kind]
        place = folder / kind / form.replace(" ", "-")
        place.mkdir(parents=True)
        (FILES | JSON)[form][0](place / name, example.read_bytes())
        said[f"{kind}/{form}"] = _answer(read, place / name)
    print(json.dumps(said))


def _limit() -> None:
    taken = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MEMORY, taken + MEMORY))


def _answer(read: Callable[[Path], object], path: Path) -> tuple[str, float]:
    from bench.schema import InvalidInput

    started = time.monotonic()
    signal.alarm(SECONDS)
    try:
        read(path)
        said = "read"
    except InvalidInput as error:
        said = str(error)
    finally:
        signal.alarm(0)
    return said, time.monotonic() - started


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
