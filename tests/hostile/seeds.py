"""The valid files that are damaged, and for each kind: its damage, its first check, its reader."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.hostile import archives, cards, challenges, images, mutations, results
from tests.hostile.results import COMMITTED, GOOD


@dataclass(frozen=True)
class Kind:
    """One kind of file: made damaged by a random source, and read as a stranger's is."""

    name: str
    make: Callable[[Random, Path], Path]  # writes into an empty folder; what is to be read
    sound: Callable[[Path], object]  # the container is what it says; raises or is false where not
    read: Callable[[Path], object]
    weight: float = 1.0
    prepare: Callable[[], object] = lambda: None  # once, before processes are forked


# ---------------------------------------------------------------- weights


def _raw(name: str, damage: Callable[[Random, bytes], bytes], seed: Callable[[], bytes]) -> Any:
    def make(rng: Random, folder: Path) -> Path:
        raw = seed()
        (folder / name).write_bytes(damage(rng, raw) if rng.random() > 0.02 else raw)
        return folder / name

    return make


_made: dict[str, bytes] = {}


def _weights(how: str) -> bytes:
    """The bytes of honest weights, made once."""
    if how not in _made:
        state = archives.weights()
        _made["zip"] = archives.saved({"state_dict": {f"module.{k}": v for k, v in state.items()}})
        _made["legacy"] = archives.saved(state, _use_new_zipfile_serialization=False)
        _made["safe"] = archives._safe(state)
    return _made[how]


def _zip_damage(rng: Random, raw: bytes) -> bytes:
    if rng.random() < 0.1:
        return mutations.octets(rng, raw)
    return mutations.archive(
        rng,
        raw,
        lambda r, name, held: (mutations.pickled if name.endswith(".pkl") else mutations.octets)(
            r, held
        ),
    )


def _legacy_damage(rng: Random, raw: bytes) -> bytes:
    """The third pickle, which holds the tensors, or any byte."""
    if rng.random() < 0.3:
        return mutations.octets(rng, raw)
    start = _ends(raw)[2]
    end = _ends(raw)[3]
    return raw[:start] + mutations.pickled(rng, raw[start:end]) + raw[end:]


def _ends(raw: bytes) -> list[int]:
    """Where each of the pickles of a file before torch 1.6 ends."""
    import pickletools

    file, found = io.BytesIO(raw), []
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        found.append(file.tell())
    return found


def _safe_damage(rng: Random, raw: bytes) -> bytes:
    return mutations.octets(rng, raw) if rng.random() < 0.1 else mutations.safetensors(rng, raw)


def _imported(path: Path) -> object:
    from bench.sources import checkpoint

    found = checkpoint.foreign(
        path, arch="small_cnn", dataset="digits", name="mine", arch_args={"width": 4}
    )
    return checkpoint.add(*found, out=path.parent / "out")


def _zip_sound(path: Path) -> bool:
    with zipfile.ZipFile(path) as held:
        return held.testzip() is None and any(n.endswith(".pkl") for n in held.namelist())


def _safe_sound(path: Path) -> bool:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return isinstance(json.loads(raw[8 : 8 + size]), dict)


# ---------------------------------------------------------------- folders, records, evidence


def _folder(rng: Random, folder: Path) -> Path:
    """A checkpoint folder with a damaged card, or with damaged weights that its card names."""
    there = cards.checkpoint(folder)
    path = there / "card.json"
    card = json.loads(path.read_text())
    if rng.random() < 0.7:
        path.write_bytes(mutations.json_text(rng, card))
    else:
        raw = _safe_damage(rng, (there / "weights.safetensors").read_bytes())
        (there / "weights.safetensors").write_bytes(raw)
        path.write_text(json.dumps({**card, "weights_sha256": hashlib.sha256(raw).hexdigest()}))
    return there


def _loaded(path: Path) -> object:
    from bench.sources import checkpoint

    return checkpoint.load(path)


def _is_object(path: Path) -> bool:
    return isinstance(json.loads(path.read_bytes()), dict)


def _record(rng: Random, folder: Path) -> Path:
    """A results folder with a damaged record, signed again, beside two good ones."""
    there = results.good(folder)
    raw = mutations.json_text(rng, results.record())
    name = results.ID
    try:
        said = results.signed(json.loads(raw))
        raw, name = json.dumps(said).encode(), said["id"]
    except Exception:  # no longer JSON, or no longer a record: left as it is
        name = results.ID
    if not isinstance(name, str) or len(name) != 16 or not name.isalnum():
        name = results.ID
    (there / f"{name}.json").write_bytes(raw)
    return there / f"{name}.json"


def _board(path: Path) -> Any:
    from bench.exports import formats
    from bench.exports.view import select
    from bench.schema import BenchError
    from bench.table import build

    board = build(path.parents[3])
    shown = [row.record.name for group in board.groups for row in group.rows]
    if missing := set(GOOD) - set(shown):
        raise AssertionError(f"the good rows {missing} are gone")
    view = select(board, published=None, dataset=None, threat=None, protocol=None, n=None)
    for kind in ("md", "csv", "json", "html"):
        try:
            formats.text_of(kind, view)
        except BenchError:
            formats.write(kind, view, path.parents[3] / f"table.{kind}")
    return board


def _tabled(path: Path) -> object:
    from bench.records import store

    _board(path)
    return store.read(path)


def _evidence(rng: Random, folder: Path) -> Path:
    """A record with damaged evidence, whose hash it names."""
    there = cards.checkpoint(folder)
    path, proof = there / f"{GOOD[there.name]}.json", there / f"{GOOD[there.name]}.evidence.npz"
    raw = proof.read_bytes()
    if rng.random() < 0.1:
        raw = mutations.octets(rng, raw)
    else:
        raw = mutations.archive(
            rng,
            raw,
            lambda r, name, held: (
                mutations.npy(r, held) if name.endswith(".npy") else mutations.octets(r, held)
            ),
        )
    proof.write_bytes(raw)
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "evidence_sha256": hashlib.sha256(raw).hexdigest()}))
    return path


def _npz_sound(path: Path) -> bool:
    with np.load(path.with_suffix(".evidence.npz"), allow_pickle=False) as held:
        return all(held[name] is not None for name in held.files)


def _proven(path: Path) -> object:
    from bench import verify

    held = verify.gather(path)
    return verify.check(held.record, held.model, held.data, held.proofs)


def _with_digits() -> None:
    from bench import datasets

    datasets.load("digits")


# ---------------------------------------------------------------- challenges


def _handed_in(path: Path) -> object:
    from bench.readers import adversarial

    return adversarial.read(path, n=challenges.N, shape=challenges.SHAPE).images.sum()


def _challenge(rng: Random, folder: Path) -> Path:
    """A damaged challenge beside two good records, its checksum made to fit."""
    from bench.schema.frozen import content_hash

    said = json.loads(challenges.judged())
    del said["checksum"]
    raw = mutations.json_text(rng, said)
    try:
        held = json.loads(raw)
        raw = json.dumps({**held, "checksum": content_hash(held)}).encode()
    except Exception:  # no longer JSON, or of numbers that have no one text
        return challenges.laid_out(folder, raw)
    return challenges.laid_out(folder, raw)


def _challenged(path: Path) -> object:
    from bench.records import challenges as kept

    board = _board(path)
    if any(row.challenges for group in board.groups for row in group.rows):
        raise AssertionError("a challenge that nobody proved counts")
    return kept.read_hashed(path)


# ---------------------------------------------------------------- what lies beside records


def _log(rng: Random, folder: Path) -> Path:
    lines = (COMMITTED / "digits-at-s0-last" / "train.jsonl").read_text().splitlines()
    damaged = rng.randrange(len(lines))
    raw = [line.encode() for line in lines]
    raw[damaged] = mutations.json_text(rng, json.loads(lines[damaged]))
    (folder / "train.jsonl").write_bytes(b"\n".join(raw))
    return folder / "train.jsonl"


def _told(path: Path) -> object:
    from bench import training_log as log

    lines = log.read_log(path)
    return [
        (log.measured(lines, part), log.mean_of_last(lines, part)) for part in log.PARTS
    ], log.held_out(lines)


def _json_kind(
    name: str, source: Path, read: Callable[[Path], object], weight: float = 0.5
) -> Kind:
    def make(rng: Random, folder: Path) -> Path:
        path = folder / source.name
        path.write_bytes(mutations.json_text(rng, json.loads(source.read_text())))
        return path

    return Kind(name, make, _is_object, read, weight)


def _gap(path: Path) -> object:
    from bench import gap

    held = json.loads((COMMITTED / "digits-at-s0-last" / "gap.json").read_text())
    found = gap.read_gap(path.parent, weights_sha256=held["weights_sha256"])
    return found and (found.gap, found.loss_gap)


_CHECK = (
    COMMITTED.parents[1]
    / "fashion_mnist/linf-0.1/fashion_mnist-subset-at-s2-last/contamination.json"
)


def _contamination(path: Path) -> object:
    from bench import contamination

    held = json.loads(_CHECK.read_text())
    found = contamination.read_contamination(path.parent, weights_sha256=held["weights_sha256"])
    return found and (found.verdict, found.share, contamination.sentence(found))


def _study(path: Path) -> object:
    from bench.stats import study_files

    found = study_files.read(path)
    return study_files.verdicts(found)


def _published(rng: Random, folder: Path) -> Path:
    source = results.COMMITTED.parents[1] / "published" / "published_awp.csv"
    rows = source.read_text().splitlines()[:6]
    k = rng.randrange(len(rows))
    cells = rows[k].split(",")
    cells[rng.randrange(len(cells))] = str(mutations.values(rng, {"a": cells[0]}, 1).get("a", ""))
    rows[k] = ",".join(cells)
    (folder / source.name).write_bytes("\n".join(rows).encode("utf-8", "surrogatepass"))
    return folder


def _rows(path: Path) -> object:
    from bench.published import files

    return files.load(path)


# ---------------------------------------------------------------- data


def _arrays(rng: Random, folder: Path) -> Path:
    sound = {"images": np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1), "labels": np.arange(3)}
    if rng.random() < 0.5:
        sound["images"] = (sound["images"] / 255).astype(np.float32)
    which = rng.choice(tuple(sound))
    for name, held in sound.items():
        made = io.BytesIO()
        np.save(made, held)
        raw = mutations.npy(rng, made.getvalue()) if name == which else made.getvalue()
        (folder / f"{name}.npy").write_bytes(raw)
    return folder


def _npy_sound(path: Path) -> bool:
    return all(
        np.load(path / f"{name}.npy", allow_pickle=False) is not None
        for name in ("images", "labels")
    )


def _idx(rng: Random, folder: Path) -> Path:
    there = folder / "mnist"
    there.mkdir()
    images_raw, labels_raw = images.idx((2, 28, 28)), images.idx((2,), b"\1\2")
    if rng.random() < 0.5:
        images_raw = mutations.octets(rng, images_raw[:16], 1) + images_raw[16:]
    else:
        labels_raw = mutations.octets(rng, labels_raw, 1)
    (there / "t10k-images-idx3-ubyte").write_bytes(images_raw)
    (there / "t10k-labels-idx1-ubyte").write_bytes(labels_raw)
    return folder


def _idx_sound(path: Path) -> bool:
    raw = (path / "mnist" / "t10k-images-idx3-ubyte").read_bytes()
    return raw[:3] == b"\0\0\x08"


def _parquet(rng: Random, folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    damaged = _picture(rng) if rng.random() < 0.7 else images.picture()
    rows = [{"bytes": each, "path": "a.png"} for each in (images.picture(), damaged)]
    label: Any = rng.choice(
        ([0, 1], [0, 1], [0.0, 1.5], ["a", "b"], [None, 1], [-1, 2**40], [[0], [1]])
    )
    table = pa.table(
        {rng.choice(("img", "img", "image", "x")): rows, rng.choice(("label", "label", "y")): label}
    )
    pq.write_table(table, folder / "test-0.parquet")
    if rng.random() < 0.3:
        raw = (folder / "test-0.parquet").read_bytes()
        (folder / "test-0.parquet").write_bytes(mutations.octets(rng, raw, 1))
    return folder


def _picture(rng: Random) -> bytes:
    kind = rng.choice(("PNG", "JPEG", "PNG", "GIF"))
    raw = images.picture(kind, rng.choice((8, 8, 9)), rng.choice(("RGB", "L")))
    return mutations.octets(rng, raw) if rng.random() < 0.7 else raw


def _parquet_sound(path: Path) -> bool:
    import pyarrow.parquet as pq

    return pq.read_table(path / "test-0.parquet").num_rows == 2


def _pictures(rng: Random, folder: Path) -> Path:
    images._folder()(folder)
    (folder / "held" / "cat" / rng.choice(("a.png", "c.png", "c.jpg", "c.txt"))).write_bytes(
        _picture(rng)
    )
    return folder / "held"


def _is_picture(path: Path) -> bool:
    from PIL import Image

    for each in (path / "cat").iterdir():
        with Image.open(each) as held:
            held.load()
    return True


def _data(scheme: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from bench import datasets

        if scheme == "idx":
            return datasets.load("mnist", root=path, download=False).sha256
        return datasets.load(f"{scheme}:{path}", download=False).sha256

    return read


def _line_sound(path: Path) -> bool:
    return all(isinstance(json.loads(line), dict) for line in path.read_bytes().splitlines())


def _always(path: Path) -> bool:
    return path.exists()


def _ready(path: Path) -> bool:
    return _ends(path.read_bytes()) != []


_STUDY = results.COMMITTED.parents[1] / "studies" / "digits-controls.json"
KINDS = (
    Kind(
        "weights .pt",
        _raw("net.pt", _zip_damage, lambda: _weights("zip")),
        _zip_sound,
        _imported,
        3,
        lambda: _weights("zip"),
    ),
    Kind(
        "weights before 1.6",
        _raw("net.pt", _legacy_damage, lambda: _weights("legacy")),
        _ready,
        _imported,
        2,
    ),
    Kind(
        "safetensors",
        _raw("net.safetensors", _safe_damage, lambda: _weights("safe")),
        _safe_sound,
        _imported,
        2,
    ),
    Kind("checkpoint folder", _folder, lambda path: _is_object(path / "card.json"), _loaded, 2),
    Kind("record", _record, _is_object, _tabled, 3),
    Kind("evidence", _evidence, _npz_sound, _proven, 1, _with_digits),
    Kind(
        "images handed in",
        _raw("handed.safetensors", _safe_damage, challenges.images),
        _safe_sound,
        _handed_in,
    ),
    Kind("challenge", _challenge, _is_object, _challenged),
    Kind("log", _log, _line_sound, _told),
    _json_kind("gap", COMMITTED / "digits-at-s0-last" / "gap.json", _gap),
    _json_kind("contamination", _CHECK, _contamination, 0.5),
    _json_kind("study", _STUDY, _study),
    Kind("published", _published, _always, _rows, 0.5),
    Kind("arrays", _arrays, _npy_sound, _data("arrays")),
    Kind("IDX", _idx, _idx_sound, _data("idx"), 0.5),
    Kind("Parquet", _parquet, _parquet_sound, _data("parquet")),
    Kind("folder of pictures", _pictures, _is_picture, _data("imagefolder"), 0.5),
)
