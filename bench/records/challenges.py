"""Challenges on disk: beside the records of the network that they were handed in for, written once.

Layout: `<id>.challenge.json`, beside it `<id>.challenge.npz` with the images of what it broke, and
`<id>.withdrawn.json` where it was found wrong. One counts only where the list of proven records
holds the bytes of its file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.notation import plain
from bench.records import json_files, store
from bench.records.one_read import NotNow, read_whole, sha256_of_bytes
from bench.records.proven import Proof
from bench.records.store import Collection, Stamp
from bench.schema import InvalidInput
from bench.schema.challenge import Challenge
from bench.schema.errors import visible
from bench.schema.frozen import content_hash

SUFFIX, EVIDENCE = store.CHALLENGE, ".challenge.npz"
COLUMN = "challenge"  # of its evidence


@dataclass(frozen=True)
class Filed:
    """A challenge as it lies in a results folder."""

    challenge: Challenge
    path: Path
    sha256: str  # of the file
    proven: bool  # whether the list holds it: only then it counts
    withdrawn: str = ""  # why; empty where it was not

    @property
    def counts(self) -> bool:
        """Whether it lowers best known."""
        return self.proven and not self.withdrawn

    @property
    def state(self) -> str:
        """Whether it counts, in words; of text from outside only its reason."""
        if self.withdrawn:
            return f"withdrawn: {plain(self.withdrawn, 300)}"
        return "counts" if self.proven else "not proven here"


def place_of(challenge: Challenge, root: Path) -> Path:
    """Where a challenge belongs under the results folder."""
    folder = root / challenge.dataset / challenge.threat.folder / challenge.name
    return folder / f"{challenge.id}{SUFFIX}"


def evidence_path(path: Path) -> Path:
    """Where the images of the challenge at `path` are."""
    return path.with_name(path.name.removesuffix(SUFFIX) + EVIDENCE)


def is_challenge(path: Path) -> bool:
    """Whether a file is named as a challenge is."""
    return path.name.endswith(SUFFIX)


def text_of(challenge: Challenge) -> str:
    """The file of a challenge, with the sha256 of its canonical JSON as `checksum`."""
    value = challenge.model_dump(mode="json")
    return store.pretty_json(value | {"checksum": content_hash(value)})


def read_hashed(path: Path) -> tuple[Challenge, str]:
    """A challenge, and the sha256 (hex) of its file. Raises InvalidInput naming the file."""
    if not os.path.lexists(path):
        raise NotNow(f"no challenge at {path}")
    raw = read_whole(path, largest=store.LARGEST_RECORD)
    content = json_files.parsed(raw, path)
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} is not a valid challenge; it is left in place")
    store.check_sum(content, path)
    wrong = f"{path} is not a valid challenge"
    found = json_files.validated(raw, lambda raw: Challenge.model_validate(content), wrong)
    if path.name != f"{found.id}{SUFFIX}":
        raise InvalidInput(f"{path}: the id is not that of its content; it is left in place")
    return found, sha256_of_bytes(raw)


@lru_cache(maxsize=1000)
def _read(path: Path, stamp: Stamp) -> tuple[Challenge, str]:
    return read_hashed(path)


def filed(
    collection: Collection[Any], proofs: Mapping[str, Proof]
) -> tuple[list[Filed], list[str]]:
    """Every challenge that a folder holds, oldest first, and a sentence for each that is not read."""
    found, notes = [], []
    for path in collection.challenges:
        try:
            status = path.stat(follow_symlinks=False)
            stamp = Stamp(status.st_size, status.st_mtime_ns, status.st_ino)
            challenge, sha256 = _read(path, stamp)
        except OSError as error:  # gone since it was listed
            notes.append(f"{path} cannot be read ({error.strerror})")
            continue
        except store.DAMAGE as error:
            notes.append(store.why(error, path))
            continue
        proof = proofs.get(sha256)
        withdrawn = collection.withdrawn.get(path.with_name(f"{challenge.id}.json"), "")
        how = proof is not None and proof.how == "proven"
        found.append(Filed(challenge, path, sha256, how, withdrawn))
    found.sort(key=lambda each: (each.challenge.created, each.challenge.id))
    return found, notes


def by_question(found: list[Filed]) -> dict[tuple[str, ...], tuple[Challenge, ...]]:
    """Network, images and ball -> the challenges that count, each once, oldest first."""
    answers: dict[tuple[str, ...], dict[str, Challenge]] = defaultdict(dict)
    for each in found:
        if each.counts:
            answers[each.challenge.key].setdefault(each.challenge.id, each.challenge)
    return {key: tuple(held.values()) for key, held in answers.items()}


def notes_of(found: list[Filed], root: Path) -> list[str]:
    """A sentence for each challenge that does not count."""
    said = []
    for each in found:
        below = each.path.relative_to(root).as_posix()
        if each.withdrawn:
            said.append(visible(f"{below}: a challenge that was withdrawn: {each.withdrawn}"))
        elif not each.proven:
            said.append(
                f"{below}: a challenge that is not proven here; it does not count before bench verify"
            )
    return said


def withdraw(path: Path, reason: str) -> Path:
    """Takes a challenge out of what is known, not out of the history."""
    challenge, _ = read_hashed(path)
    return store.write_withdrawal(path.with_name(f"{challenge.id}.json"), challenge.id, reason)
