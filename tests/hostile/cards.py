"""Hostile cards and evidence: what lies in a checkpoint's folder, and what is to prove a record."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile import archives
from tests.hostile.member import (
    CANARY,
    Accepted,
    Act,
    Build,
    Either,
    Member,
    Outcome,
    Refused,
    Stands,
    Unproven,
    command,
)
from tests.hostile.results import COMMITTED, DEEP, GOOD, TEXTS, THINGS

FOLDER = Path("digits-at-s0-last")
_ID = GOOD[FOLDER.name]
_EVIDENCE = f"{_ID}.evidence.npz"
EVALUATE = command(
    "evaluate",
    str(FOLDER),
    "--protocol",
    "only-fgsm",
    "--n",
    "20",
    "--workers",
    "1",
    "--out",
    "made",
)
DOCTOR = command("doctor", str(FOLDER), "--n", "20")
VERIFY = command("verify", f"{FOLDER}/{_ID}.json", "--no-reattack")


def checkpoint(folder: Path) -> Path:
    """A sound checkpoint folder with one of its records; its path."""
    there = folder / FOLDER
    there.mkdir()
    for name in (f"{_ID}.json", _EVIDENCE, "card.json", "weights.safetensors", "train.jsonl"):
        shutil.copy(COMMITTED / FOLDER / name, there / name)
    return there


# ---------------------------------------------------------------- cards


def _written(write: Callable[[str], str | bytes]) -> Build:
    def build(folder: Path) -> None:
        path = checkpoint(folder) / "card.json"
        content = write(path.read_text().replace('"seed": 0', '"seed": 1'))
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        path.write_bytes(raw)

    return build


def _with(**fields: Any) -> Build:
    """The card with other fields."""
    return _written(lambda text: json.dumps({**json.loads(text), **fields}))


def _figure(**fields: Any) -> dict[str, Any]:
    """A figure as a card holds it, sound but for the fields that are given."""
    sound = {"what": "proven", "count": 5, "n": 10, "dataset": "digits", "source": "a paper"}
    return {**sound, "threat": {"norm": "linf", "eps": "0.15"}, **fields}


def _with_arguments(**arguments: Any) -> Build:
    """The card with other arguments of the architecture."""

    def write(text: str) -> str:
        card = json.loads(text)
        return json.dumps({**card, "arch_args": {**card["arch_args"], **arguments}})

    return _written(write)


def _thing(name: str, make: Callable[[Path], object]) -> Build:
    """Something else under a name in the checkpoint's folder."""

    def build(folder: Path) -> None:
        path = checkpoint(folder) / name
        path.unlink()
        make(path)

    return build


def _rehashed(raw: bytes) -> Build:
    """Other weights, and a card that names them."""

    def build(folder: Path) -> None:
        there = checkpoint(folder)
        (there / "weights.safetensors").write_bytes(raw)
        card = json.loads((there / "card.json").read_text())
        card["weights_sha256"] = hashlib.sha256(raw).hexdigest()
        (there / "card.json").write_text(json.dumps(card))

    return build


# What a refusal of a card names: its file, or the field whose value is wrong.
_SAYS = r"card|digits-at-s0-last|architecture|small_cnn|std must|mean must|data set"
_CARDS: dict[str, Build] = {
    "a name with ../": _with(name="../../escaped"),
    "a name with escapes": _with(name="\x1b[2Jowned"),
    "a name of a million letters": _with(name="n" * 10**6),
    "an unknown architecture": _with(arch="resnet-of-mine"),
    "an architecture of a million letters": _with(arch="a" * 10**6),
    "an architecture with escapes": _with(arch="\x1b[2J"),
    "no architecture": _with(arch=None),
    "a module by its dotted name": _with(arch="os:system"),
    "width of 10^9": _with_arguments(width=10**9),
    "width of 10^30": _with_arguments(width=10**30),
    "width of 0": _with_arguments(width=0),
    "width below zero": _with_arguments(width=-4),
    "width of a half": _with_arguments(width=0.5),
    "width of words": _with_arguments(width="wide"),
    "an unknown argument": _with_arguments(depth=3),
    "images of 10^9": _with_arguments(image_size=10**9),
    "classes of 10^9": _with_arguments(num_classes=10**9),
    "std of zero": _with(std=[0.0]),
    "std of nothing": _with(std=[]),
    "mean of a million": _with(mean=[0.5] * 10**6),
    "an unknown data set": _with(dataset="no-such-data"),
    "a seed of words": _with(seed="zero"),
    "a threat of words": _with(threat="linf"),
    "a declared field of a million letters": _with(declared=["d" * 10**6]),
    "figures of nothing": _with(figures=[{}]),
    "figures that are words": _with(figures="proven"),
    "a thousand figures": _with(figures=[_figure()] * 1000),
    "a figure of 10^30 images": _with(figures=[_figure(count=10**30, n=10**30)]),
    "a figure of more images than there are": _with(figures=[_figure(count=11)]),
    "a figure of 1e9999": _with(figures=[_figure(count=None, share="1e9999")]),
    "a figure of a million digits": _with(figures=[_figure(count=None, share="0." + "9" * 10**6)]),
    "a figure of no threat": _with(figures=[_figure(threat=None)]),
    "a figure of a source of a million letters": _with(figures=[_figure(source="s" * 10**6)]),
    "a figure of an attack of a million letters": _with(
        figures=[_figure(what="attacked", attack="a" * 10**6)]
    ),
    "a file of words": _with(file_sha256="../../escaped"),
}

# ---------------------------------------------------------------- evidence


def _proof(change: Callable[[dict[str, Any]], object]) -> Build:
    """The evidence with other arrays; the record names the new file."""

    def make(raw: bytes) -> bytes:
        with np.load(io.BytesIO(raw)) as held:
            arrays = {name: held[name] for name in held.files}
        change(arrays)
        made = io.BytesIO()
        np.savez_compressed(made, **arrays)
        return made.getvalue()

    return _evidence(make)


def _evidence(make: Callable[[bytes], bytes]) -> Build:
    def build(folder: Path) -> None:
        there = checkpoint(folder)
        raw = make((there / _EVIDENCE).read_bytes())
        (there / _EVIDENCE).write_bytes(raw)
        record = json.loads((there / f"{_ID}.json").read_text())
        record["evidence_sha256"] = hashlib.sha256(raw).hexdigest()
        (there / f"{_ID}.json").write_text(json.dumps(record))

    return build


def _sets(key: str, change: Callable[[np.ndarray], object]) -> Build:
    """One array of the evidence replaced by what is made of it."""
    return _proof(lambda arrays: arrays.update({key: change(arrays[key])}))


def _repacked(extra: Callable[[zipfile.ZipFile], object]) -> Build:
    def make(raw: bytes) -> bytes:
        made = io.BytesIO(raw)
        with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as archive:
            extra(archive)
        return made.getvalue()

    return _evidence(make)


class _Runs:
    """Touches the canary when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {CANARY}",)


def npy(header: str, content: bytes = b"", *, version: int = 1) -> bytes:
    """A .npy file of a header as it is given."""
    raw = header.encode("latin-1") + b"\n"
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + len(raw).to_bytes(2 if version == 1 else 4, "little")
        + raw
        + content
    )


def _replaced(name: str, raw: bytes) -> Build:
    """One member of the archive as given bytes."""

    def make(old: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(old)) as held, zipfile.ZipFile(made, "w") as archive:
            for each in held.namelist():
                archive.writestr(each, raw if each == name else held.read(each))
        return made.getvalue()

    return _evidence(make)


def _gigabyte(archive: zipfile.ZipFile) -> None:
    with archive.open("cw/extra.npy", "w", force_zip64=True) as member:
        member.write(npy("{'descr': '|i1', 'fortran_order': False, 'shape': (4000000000,), }"))
        for _ in range(1000):
            member.write(bytes(4 * 10**6))


_REFUSED = Refused("evidence")
_EITHER = Either(_REFUSED, Unproven("fgsm.*without proof"))
_INDEX, _STEPS = "fgsm/index", "fgsm/steps"
_PROOFS: dict[str, tuple[Build, Outcome]] = {
    "honest": (_proof(lambda arrays: None), Accepted("digits-at-s0-last")),
    "empty": (_evidence(lambda raw: b""), _REFUSED),
    "zeros": (_evidence(lambda raw: bytes(10**5)), _REFUSED),
    "text": (_evidence(lambda raw: b"proof"), _REFUSED),
    "cut": (_evidence(lambda raw: raw[: len(raw) // 2]), _REFUSED),
    "a flipped byte": (_evidence(lambda raw: raw[:5000] + b"\0\1\2\3" + raw[5004:]), _REFUSED),
    "a pickle": (_evidence(lambda raw: pickle.dumps(_Runs())), _REFUSED),
    "a .npy": (
        _evidence(
            lambda raw: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(4))
        ),
        _REFUSED,
    ),
    "pickled arrays": (
        _replaced(
            f"{_INDEX}.npy",
            npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps(_Runs())),
        ),
        _REFUSED,
    ),
    "a header that calls": (_replaced(f"{_INDEX}.npy", npy(f"open('{CANARY}', 'w')")), _REFUSED),
    "a header 50,000 deep": (_replaced(f"{_INDEX}.npy", npy("(" * 50_000)), _REFUSED),
    "an array of 2.8 TiB": (
        _replaced(
            f"{_STEPS}.npy",
            npy("{'descr': '|i1', 'fortran_order': False, 'shape': (3000000000000,), }"),
        ),
        _REFUSED,
    ),
    "an array below zero": (
        _replaced(
            f"{_STEPS}.npy",
            npy("{'descr': '|i1', 'fortran_order': False, 'shape': (-1, 1, 8, 8), }"),
        ),
        _REFUSED,
    ),
    "4 GB of zeros beside it": (
        _repacked(_gigabyte),
        Either(_REFUSED, Accepted("digits-at-s0-last")),
    ),
    "4 GB of zeros as steps": (
        _sets(_STEPS, lambda v: np.zeros((400_000_000, 1), np.int8)),
        _REFUSED,
    ),
    "an index of 10^9": (_sets(_INDEX, lambda v: v + 10**9), _REFUSED),
    "an index below zero": (_sets(_INDEX, lambda v: v - 10_000), _REFUSED),
    "an index of halves": (_sets(_INDEX, lambda v: v + 0.5), _REFUSED),
    "an index of words": (_sets(_INDEX, lambda v: v.astype(str)), _REFUSED),
    "an index of two axes": (_sets(_INDEX, lambda v: v[None]), _REFUSED),
    "an index too short": (_sets(_INDEX, lambda v: v[:-1]), _REFUSED),
    "images of another size": (_sets(_STEPS, lambda v: v[:, :, :4]), _REFUSED),
    "steps of other numbers": (_sets(_STEPS, lambda v: v.astype(np.complex64)), _REFUSED),
    "a field missing": (_proof(lambda arrays: arrays.pop("fgsm/scale")), _REFUSED),
    "100,000 fields": (
        _repacked(lambda z: [z.writestr(f"c{k}/index.npy", b"") for k in range(100_000)]),
        _REFUSED,
    ),
    "names with escapes": (_repacked(lambda z: z.writestr("\x1b[2J/index.npy", b"")), _REFUSED),
    "an image twice": (_sets(_INDEX, lambda v: np.zeros_like(v)), _EITHER),
    "steps that are zero": (_sets(_STEPS, np.zeros_like), Unproven("fgsm.*without proof")),
    "scale of NaN": (_sets("fgsm/scale", lambda v: v * np.nan), _EITHER),
    "scale of infinity": (_sets("fgsm/scale", lambda v: v + np.inf), _EITHER),
    "outside the ball": (_sets("fgsm/scale", lambda v: v * 2), Unproven("fgsm.*without proof")),
    "no column": (_evidence(lambda raw: _no_column()), Unproven("without proof")),
    "of another record": (
        _evidence(
            lambda raw: (
                COMMITTED
                / "digits-at-awp-s0-last"
                / f"{GOOD['digits-at-awp-s0-last']}.evidence.npz"
            ).read_bytes()
        ),
        Unproven("without proof"),
    ),
}


def _no_column() -> bytes:
    made = io.BytesIO()
    np.savez(made)
    return made.getvalue()


def _card(
    name: str, build: Build, act: Act = DOCTOR, outcome: Outcome | None = None, *, short: bool = False
) -> Member:  # fmt: skip
    return Member(name, "records", build, act, outcome or Refused(_SAYS), short)


def _beside_good(folder: Path) -> None:
    shutil.copytree(checkpoint(folder), folder / "many" / "a-last")
    (folder / "many" / "b-last").mkdir()
    (folder / "many" / "b-last" / "card.json").write_text(DEEP)


MEMBERS = (
    *(
        _card(f"card: {name}", _written(write), DOCTOR, Refused(r"card\.json"), short=k % 7 == 0)
        for k, (name, write) in enumerate(TEXTS.items())
        if name != "a key twice"
    ),
    *(
        _card(
            f"card is {name}",
            _thing("card.json", make),
            outcome=Refused(r"card\.json"),
            short=k == 4,
        )
        for k, (name, make) in enumerate(THINGS.items())
    ),
    *(
        _card(f"card: {name}", build, short=k % 6 == 0)
        for k, (name, build) in enumerate(_CARDS.items())
    ),
    *(
        _card(
            f"weights are {name}",
            _thing("weights.safetensors", make),
            outcome=Refused(r"weights\.safetensors"),
            short=k == 0,
        )
        for k, (name, make) in enumerate(THINGS.items())
    ),
    _card(
        "weights are a bomb that the card names",
        _rehashed(
            archives.packed({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}})
        ),
        outcome=Refused(r"weights\.safetensors"),
    ),
    _card(
        "evaluate: a card 100,000 deep",
        _written(lambda text: DEEP),
        EVALUATE,
        Refused(r"card\.json"),
        short=True,
    ),
    _card(
        "evaluate: among others, a card 100,000 deep",
        _beside_good,
        command(
            "evaluate",
            "--checkpoints",
            "many",
            "--protocol",
            "only-fgsm",
            "--n",
            "20",
            "--workers",
            "1",
            "--out",
            "made",
        ),
        Stands(r"left out: .*b-last", ("digits-at-s0-last",)),
    ),
    *(
        _card(f"evidence: {name}", build, VERIFY, outcome, short=k % 5 == 0)
        for k, (name, (build, outcome)) in enumerate(_PROOFS.items())
    ),
    *(
        _card(
            f"evidence is {name}",
            _thing(_EVIDENCE, make),
            VERIFY,
            Refused("evidence|without proof"),
        )
        for name, make in THINGS.items()
        if "nowhere" not in name and "itself" not in name
    ),
)
