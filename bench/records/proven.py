"""The list of known records: proven ones, and those that were measured here.

Of a proven one `verify` has judged every broken bit again from its evidence. The list lies at the root
of a results folder, a line a record, and names the bytes of the record's file: one that was changed
since is not known any more. What lies beside a record says nothing of the kind.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from bench.records import store
from bench.records.one_read import read_whole
from bench.schema import EvaluationRecord, InvalidInput
from bench.schema.frozen import Frozen, Sha256, Text

NAME = "proven.jsonl"
LARGEST = 2**25  # bytes; a line has about 200
_NAMED = 5  # lines that are named in one note

How = Literal["proven", "measured"]


class Proof(Frozen):
    """One line: which record is proven or was measured here, when, by which version of the engine."""

    record: Text  # path below the results folder
    sha256: Sha256  # of the record's file
    date: Text  # UTC, ISO 8601
    engine: Text
    how: How = "proven"  # in the file only where it is measured

    @property
    def line(self) -> bytes:
        """As the list holds it."""
        return json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True).encode()


def measured(record: EvaluationRecord, sha256: str, root: Path) -> Proof:
    """The line of a record that was measured here; sha256 is that of its file under `root`."""
    below = store.record_path(record, root).relative_to(root).as_posix()
    return Proof(
        record=below, sha256=sha256, date=record.created, engine=record.engine_version,
        how="measured",
    )  # fmt: skip


def read(root: Path) -> tuple[dict[str, Proof], list[str]]:
    """sha256 of a record's file -> its line; and a note for whatever of the list cannot be read.

    Of two lines of the same bytes, as the joined lists of two machines may hold, the proof counts.
    """
    try:
        lines = _lines(root)
    except InvalidInput as error:
        return {}, [f"{error}; no record counts as proven or measured here"]
    found, wrong = {}, []
    for number, line in enumerate(lines, 1):
        proof = _proof(line)
        if proof is not None:
            if proof.sha256 not in found or proof.how == "proven":
                found[proof.sha256] = proof
        elif line.strip():
            wrong.append(number)
    if not wrong:
        return found, []
    which = ", ".join(map(str, wrong[:_NAMED])) + (", …" if len(wrong) > _NAMED else "")
    return found, [f"{NAME}: {len(wrong)} lines are no proof and are ignored (line {which})"]


def known_among(root: Path, paths: Iterable[Path]) -> set[Path]:
    """Those of these files of records whose bytes the list holds."""
    found, known = read(root)[0], set()
    for path in paths if found else ():
        with contextlib.suppress(InvalidInput):  # who reads it says what is wrong
            known |= {path} if store.sha256_of(path) in found else set()
    return known


def strays(proofs: Mapping[str, Proof], files: Mapping[str, str]) -> list[str]:
    """A note for each line that is not of the bytes that a file has now.

    files: path of a record below the results folder -> sha256 of its file.
    """
    held, notes, gone = set(files.values()), [], []
    for sha256, proof in sorted(proofs.items(), key=lambda item: item[1].record):
        if sha256 in held or files.get(proof.record) in proofs:  # in another place; listed anew
            continue
        if proof.record in files:
            how = "proven" if proof.how == "proven" else "measured here"
            notes.append(
                f"{proof.record}: changed since it was {how}; it speaks for its own row alone until "
                "bench verify proves it or bench evaluate --again measures it"
            )
        else:
            gone.append(proof.record)
    if gone:
        which = ", ".join(gone[:_NAMED]) + (", …" if len(gone) > _NAMED else "")
        notes.append(f"{NAME}: {len(gone)} lines are of records that are not here ({which})")
    return notes


def add(root: Path, proof: Proof) -> None:
    """Puts a line in the list, in the place of an older one of the same record.

    What is there and cannot be read stays. Raises InvalidInput or OSError where the list cannot be
    written; one that says as much of these bytes already is not.
    """
    there = read(root)[0].get(proof.sha256)
    if there is not None and there.record == proof.record and there.how in ("proven", proof.how):
        return
    _rewrite(root, proof.record, proof.line)


def remove(root: Path, record: str) -> None:
    """Takes the line of a record out of the list, where it is in it. Raises as `add`."""
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
