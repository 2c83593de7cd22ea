"""Hostile challenges: files of adversarial images handed in, and files that stand as judged ones."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile import archives
from tests.hostile.member import Accepted, Build, Member, Outcome, Refused, Stands, command
from tests.hostile.results import COMMITTED, GOOD, PLACE, TABLE, TEXTS, good

FILE, MODEL = "handed.safetensors", "digits-at-s0-last"
N, SHAPE = 1000, (1, 8, 8)
_CALL = command("challenge", f"{PLACE}/{MODEL}", FILE, "--by", "a stranger", "--results", "results")


def board(folder: Path) -> Path:
    """A results folder with one network, its record and weights; the folder of the network."""
    there = folder / PLACE / MODEL
    there.mkdir(parents=True)
    for name in (f"{GOOD[MODEL]}.json", "card.json", "weights.safetensors"):
        shutil.copy(COMMITTED / MODEL / name, there / name)
    return there


@functools.cache
def images(count: int = 3, **changes: Any) -> bytes:
    """Clean images of digits as a file; changes are other tensors, by name, None for none."""
    import safetensors.torch
    import torch

    held = {"indices": torch.arange(count), "images": torch.full((count, *SHAPE), 0.5)}
    held |= {k: v() for k, v in changes.items()}
    return bytes(safetensors.torch.save({k: v for k, v in held.items() if v is not None}))


def _handed(make: Callable[[], bytes]) -> Build:
    def build(folder: Path) -> None:
        board(folder)
        (folder / FILE).write_bytes(make())

    return build


def _of(how: str) -> Callable[[], Any]:
    import torch

    return {
        "nan": lambda: torch.full((3, *SHAPE), torch.nan),
        "infinite": lambda: torch.full((3, *SHAPE), torch.inf),
        "huge": lambda: torch.full((3, *SHAPE), 3e38),
    }[how]


def _declared(count: int, **shape: Any) -> bytes:
    """A header that declares so many images, and next to no bytes behind it."""
    size = 64 * count
    return archives.packed(
        {
            "indices": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
            "images": {
                "dtype": "U8", "shape": [count, *SHAPE], "data_offsets": [8 * count, 8 * count + size],
            },
        }
    )  # fmt: skip


# ---------------------------------------------------------------- challenges on disk


@functools.cache
def judged() -> str:
    """A sound challenge of the network, as its file holds it; no evidence lies beside it."""
    from bench.records import challenges, store
    from bench.schema.challenge import Challenge
    from bench.schema.packing import pack_bits, pack_ints

    record = store.read(COMMITTED / MODEL / f"{GOOD[MODEL]}.json")
    one = np.arange(record.n) == int(np.flatnonzero(record.worst_case_standing)[0])
    asked = (record.card.weights_sha256, record.examples_sha256)
    made = Challenge(
        id=Challenge.id_of(*asked, record.threat, "0" * 64), name=record.card.name,
        weights_sha256=asked[0], dataset=record.dataset, split=record.split, n=record.n,
        examples_sha256=asked[1], threat=record.threat, by="a stranger", file_sha256="0" * 64,
        handed=pack_bits(one), outside_box=0, outside_ball=0, clean_wrong=0, right=0,
        broken=pack_bits(one), new=pack_bits(one), adversarial_predictions=pack_ints(np.ones(1)),
        uint8_survivors=1, largest_perturbation=0.1, evidence_sha256="0" * 64,
        engine_version="2.0", created="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return challenges.text_of(made)


def laid_out(folder: Path, text: str | bytes) -> Path:
    """Good records, and beside one of them a challenge of this text; its path."""
    good(folder)
    path = folder / PLACE / MODEL / f"{json.loads(judged())['id']}.challenge.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def _filed(write: Callable[[str], str | bytes]) -> Build:
    return lambda folder: laid_out(folder, write(judged()))


def _fields(**fields: Any) -> Build:
    """Other fields, under a checksum that fits."""

    def build(folder: Path) -> None:
        from bench.schema.frozen import content_hash

        raw = json.loads(judged()) | fields
        del raw["checksum"]
        laid_out(folder, json.dumps(raw | {"checksum": content_hash(raw)}))

    return build


def _member(name: str, build: Build, outcome: Outcome, *, short: bool = False) -> Member:
    return Member(f"challenge: {name}", "data", build, _CALL, outcome, short)


def _table(
    name: str, build: Build, words: str = r"\.challenge\.json", short: bool = False
) -> Member:
    return Member(f"challenge on disk: {name}", "records", build, TABLE, Stands(words), short)


MEMBERS = (
    _member("honest images that break nothing", _handed(images), Accepted("nothing new is broken")),
    *(
        _member(
            how, _handed(lambda how=how: images(images=_of(how))), Accepted("outside the box: 3")
        )
        for how in ("nan", "infinite", "huge")
    ),
    _member(
        "10^7 images, declared", _handed(lambda: _declared(10**7)), Refused("handed"), short=True
    ),
    _member("2^60 images, declared", _handed(lambda: _declared(2**53)), Refused("handed")),
    _member(
        "a state dict", _handed(lambda: archives._safe(archives.weights())), Refused("nothing else")
    ),
    _member(
        "torch.save", _handed(lambda: archives.saved(archives.weights())), Refused("safetensors")
    ),
    *(
        _member(f"header, {name}", _handed(make), Refused("handed"))
        for name, make in archives._HEADERS.items()
        if name != "10^6 tensors"  # takes seconds to make, and is among the weights
    ),
    _table("not proven", _filed(lambda text: text), "not count", short=True),
    *(_table(name, _filed(write)) for name, write in TEXTS.items() if "seed" not in name),
    _table("a name with escapes", _fields(by="\x1b[2J\u202e"), "not count"),
    _table("a name of 10^6 letters", _fields(by="n" * 10**6)),
    _table("another network's", _fields(weights_sha256="1" * 64)),
    _table("10^9 images", _fields(n=10**9)),
    _table("another place", _fields(dataset="../../elsewhere")),
)
