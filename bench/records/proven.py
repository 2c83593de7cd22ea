"""The list of proven records: those whose every broken bit `verify` has judged again from its evidence.

It lies at the root of a results folder, a line a record, and names the bytes of the record's file: one
that was changed since is not proven any more. What lies beside a record says nothing of the kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bench.records import store
from bench.records.one_read import read_whole
from bench.schema import InvalidInput
from bench.schema.frozen import Frozen, Sha256, Text

NAME = "proven.jsonl"
LARGEST = 2**25  # bytes; a line has about 200
_NAMED = 5  # lines that are named in one note


class Proof(Frozen):
    """One line: which record is proven, when, by which version of the engine."""

    record: Text  # path below the results folder
    sha256: Sha256  # of the record's file
    date: Text  # UTC, ISO 8601
    engine: Text


def read(root: Path) -> tuple[dict[str, Proof], list[str]]:
    """sha256 of a record's file -> its proof; and a note for whatever of the list cannot be read."""
    try:
        lines = _lines(root)
    except InvalidInput as error:
        return {}, [f"{error}; no record counts as proven"]
    found, wrong = {}, []
    for number, line in enumerate(lines, 1):
        proof = _proof(line)
        if proof is not None:
            found[proof.sha256] = proof
        elif line.strip():
            wrong.append(number)
    if not wrong:
        return found, []
    which = ", ".join(map(str, wrong[:_NAMED])) + (", …" if len(wrong) > _NAMED else "")
    return found, [f"{NAME}: {len(wrong)} lines are no proof and are ignored (line {which})"]


def strays(proofs: Mapping[str, Proof], files: Mapping[str, str]) -> list[str]:
    """A note for each proof that is not of the bytes that a file has now.

    files: path of a record below the results folder -> sha256 of its file.
    """
    held, notes, gone = set(files.values()), [], []
    for sha256, proof in sorted(proofs.items(), key=lambda item: item[1].record):
        if sha256 in held:
            continue
        if proof.record in files:
            notes.append(
                f"{proof.record}: changed since it was proven; it speaks for its own row alone until "
                "bench verify proves it again"
            )
        else:
            gone.append(proof.record)
    if gone:
        which = ", ".join(gone[:_NAMED]) + (", …" if len(gone) > _NAMED else "")
        notes.append(f"{NAME}: {len(gone)} proofs are of records that are not here ({which})")
    return notes


def add(root: Path, proof: Proof) -> None:
    """Puts a proof in the list, in the place of an older one of the same record.

    What is there and cannot be read stays. Raises InvalidInput or OSError where the list cannot be
    written; one that holds this proof already is not.
    """
    there = read(root)[0].get(proof.sha256)
    if there is not None and there.record == proof.record:
        return
    _rewrite(root, proof.record, json.dumps(proof.model_dump(), sort_keys=True).encode())


def remove(root: Path, record: str) -> None:
    """Takes the proof of a record out of the list, where it is in it. Raises as `add`."""
    if record in [proof.record for proof in read(root)[0].values()]:
        _rewrite(root, record, None)


def _rewrite(root: Path, record: str, line: bytes | None) -> None:
    """The list with this line and no other one of the record, in the order of the paths."""
    from bench.records.lock import locked  # 0.1 s, which a table does without

    with locked(root / f".{NAME}.lock", f"the list {root / NAME}", wait=60):
        there = [each for each in _lines(root) if each.strip()]
        kept = [each for each in there if (p := _proof(each)) is None or p.record != record]
        lines = sorted([*kept, *([line] if line else [])], key=_place)
        if lines != there:
            store.write_atomic(root / NAME, b"".join(each + b"\n" for each in lines))


def _place(line: bytes) -> tuple[str, bytes]:
    proof = _proof(line)
    return (proof.record if proof else "", line)


def _lines(root: Path) -> list[bytes]:
    """The lines of the list; none where there is no list. Raises InvalidInput."""
    path = root / NAME
    if path.is_symlink():  # what it leads to is not ours
        raise InvalidInput(f"{path} is a link, expected a file; left in place")
    return read_whole(path, largest=LARGEST).split(b"\n") if path.exists() else []


def _proof(line: bytes) -> Proof | None:
    try:
        return Proof.model_validate_json(line)
    except ValidationError:
        return None
