"""Parts: what one attack did on one shard, judged, kept on disk, and merged with the other shards.

B images; n images of the whole measurement.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.attacks import ATTACKS, ENGINE_VERSION
from bench.attacks.geometry import admissible, distance
from bench.attacks.reference import REFERENCE_ATTACKS
from bench.attacks.reference import version as reference_version
from bench.evidence import FIELDS, Perturbations
from bench.judge import Judge, Verdict, guarded
from bench.measure.request import Request
from bench.records.lock import locked
from bench.records.npz import UNREADABLE
from bench.records.one_read import read_whole
from bench.records.store import write_atomic
from bench.schema import AttackOutcome, AttackSpec, Column, ColumnOutcome, ModelCard
from bench.schema.packing import pack_bits, pack_floats, pack_ints

log = logging.getLogger(__name__)
Content = TypeVar("Content")
_CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of a file


@dataclass
class Part:
    """What one attack did on one shard."""

    standing: np.ndarray  # (shard,) bool, after the attack
    predictions: np.ndarray  # (broken,) predicted class of the images it broke, in order
    distances: np.ndarray  # (shard,) float64: nearest misclassified point seen, infinity where none
    proof: Perturbations
    numbers: dict[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------- judging


def judged(
    judge: Judge,
    request: Request,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    index: np.ndarray,
    numbers: dict[str, float],
) -> tuple[Perturbations, np.ndarray, np.ndarray]:
    """(proof of the images that are admissible and misclassified, classes, distances).

    classes (B,) are those of the broken images, else -1; distances (B,) float64 are of misclassified
    points inside the box, else infinity. The image that counts is the one that is stored: where its
    compact form is not judged misclassified and admissible too, it is stored in full.
    """

    def accepts(clean: Tensor, offered: Tensor, labels: Tensor) -> tuple[Tensor, Verdict]:
        inside = admissible(clean, offered, request.threat, request.protocol)
        answer = guarded(lambda: judge(offered, labels))
        return answer.broken & inside, answer

    broken, found = accepts(x, x_adv, y)
    moved = (x_adv != x).flatten(1).any(1)
    numbers["rejected"] += int((found.broken & moved).sum()) - int((broken & moved).sum())
    steps, scale = evidence.quantise(x, x_adv)
    decoded = evidence.dequantise(x, steps, scale).to(x.device)
    compact, compact_found = accepts(x, decoded, y)
    compact &= broken
    full = broken & ~compact
    stored = torch.where(compact.view(-1, 1, 1, 1), decoded, x_adv)
    far = distance(x, stored, request.threat.norm)
    if bool(broken.any()):
        numbers["largest"] = max(numbers["largest"], far[broken].max().item())
        rounded = evidence.on_256_levels(stored[broken])
        numbers["uint8"] += int(guarded(lambda: judge(rounded, y[broken])).broken.sum())
    in_box = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    seen = torch.where(broken, far, distance(x, x_adv, request.threat.norm))
    seen[~(broken | (found.broken & in_box))] = torch.inf
    classes = torch.where(compact, compact_found.predictions, found.predictions)
    kept, whole = compact.cpu(), full.cpu().numpy()
    proof = Perturbations(
        np.concatenate([index[kept.numpy()], index[whole]]).astype(np.int32),
        steps[kept].numpy(),
        scale[kept].numpy(),
        x_adv[full].cpu().numpy(),
    )
    return proof, torch.where(broken, classes, -1).cpu().numpy(), seen.cpu().numpy()


# ---------------------------------------------------------------- parts on disk


def to_bytes(part: Part) -> bytes:
    """A part as an .npz archive."""
    buffer = io.BytesIO()
    numbers = np.array(sorted(part.numbers.items()), dtype=[("name", "U16"), ("value", "f8")])
    np.savez(
        buffer,
        standing=part.standing,
        predictions=part.predictions,
        distances=part.distances,
        numbers=numbers,
        **{f: getattr(part.proof, f) for f in FIELDS},
    )
    return buffer.getvalue()


def from_bytes(raw: bytes, before: np.ndarray | None = None) -> Part:
    """What to_bytes wrote. Raises ValueError where it does not fit the images standing before it."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as saved:
        proof = Perturbations(*(saved[f] for f in FIELDS))
        numbers = {str(k): float(v) for k, v in saved["numbers"]}
        part = Part(saved["standing"], saved["predictions"], saved["distances"], proof, numbers)
    if before is None:
        return part
    fits = part.standing.shape == part.distances.shape == before.shape
    if not fits or len(part.predictions) != int((before & ~part.standing).sum()):
        raise ValueError("it does not fit the images standing before it")
    return part


def kept(
    path: Path,
    read: Callable[[bytes], Content],
    compute: Callable[[], Content],
    write: Callable[[Content], bytes],
) -> Content:
    """What lies at `path`; computed and written where nothing does, or where it is damaged (said)."""
    if os.path.lexists(path):
        try:
            return read(unsealed(path))
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0][:300]
            log.warning("%s is damaged (%s) and is computed again", path, reason)
    found = compute()
    write_atomic(path, sealed(path, write(found)))
    return found


def sealed(path: Path, content: bytes) -> bytes:
    """The content and a checksum of it and of the last two names of its path."""
    return content + _checksum(path, content)


def unsealed(path: Path) -> bytes:
    """The content of a sealed file. Raises one of UNREADABLE where it is damaged, or another's."""
    raw = read_whole(path)
    content, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
    if checksum != _checksum(path, content):
        raise ValueError("its checksum differs")
    return content


def _checksum(path: Path, content: bytes) -> bytes:
    """Of the names too: another part's bytes under this name are no part of this measurement."""
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode())
    digest.update(content)
    return digest.digest()


def parts_folder(work: Path, identity: str, card: ModelCard) -> Path:
    """Where the finished parts of a measurement are kept until it is written down.

    Two models with the same weights, such as best and last, may be measured side by side.
    """
    return work / f"{identity}-{card.name}"


def alone(folder: Path, card: ModelCard) -> AbstractContextManager[None]:
    """Holds the parts in a folder; InvalidInput where another process works on them."""
    return locked(folder.with_name(f"{folder.name}.lock"), f"the evaluation of {card.name}")


def discard(folder: Path) -> None:
    """Deletes the parts of a measurement that is written down."""
    shutil.rmtree(folder, ignore_errors=True)


def array_bytes(values: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


# ---------------------------------------------------------------- merged


@dataclass(frozen=True)
class Merged:
    """What a column's attacks did to the images of all shards."""

    outcomes: tuple[AttackOutcome, ...]
    proof: Perturbations
    nearest: np.ndarray  # (n,) float64: nearest misclassified point seen, infinity where none


def merged_column(
    request: Request,
    shards: Sequence[np.ndarray],  # the places of the images of each
    before: np.ndarray,  # (n,) bool; images of no shard stay as they are
    part: Callable[..., Part],  # (shard, column, place of the attack, standing before it)
    column: Column,
) -> Merged:
    """One column's outcomes, proof and distances."""
    outcomes, parts = [], []
    nearest = np.full(len(before), np.inf)
    for place, spec in enumerate(column.attacks):
        found = [part(s, column, place, before[s]) for s in shards]
        after, predictions = before.copy(), np.zeros(len(before), dtype=np.int64)
        for shard, of_shard in zip(shards, found, strict=True):
            after[shard] = of_shard.standing
            predictions[shard[before[shard] & ~of_shard.standing]] = of_shard.predictions
            nearest[shard] = np.minimum(nearest[shard], of_shard.distances)
        published = request.engine == "reference" and spec.name in REFERENCE_ATTACKS
        version = reference_version() if published else f"ours {ENGINE_VERSION}"
        outcomes.append(_outcome(spec, version, found, before, after, predictions))
        before = after
        parts += found
    return Merged(tuple(outcomes), evidence.merge([each.proof for each in parts]), nearest)


def merged(
    request: Request,
    shards: Sequence[np.ndarray],
    correct: np.ndarray,  # (n,) bool, unattacked
    part: Callable[..., Part],
) -> tuple[dict[str, ColumnOutcome], dict[str, Perturbations]]:
    """Each column's outcomes and proof."""
    asked = request.protocol.columns
    found = {c.name: merged_column(request, shards, correct, part, c) for c in asked}
    columns = {
        c.name: ColumnOutcome(column_id=c.column_id, outcomes=found[c.name].outcomes) for c in asked
    }
    # Over every column: any of them bounds the curve.
    nearest = np.where(correct, np.inf, 0.0)
    nearest = np.minimum.reduce([nearest, *(each.nearest for each in found.values())])
    # float32 at most the float64: rounding up could lift a point out of its own ball.
    near = nearest.astype(np.float32)
    near = np.where(near > nearest, np.nextafter(near, np.float32(0)), near)
    for column in asked:
        if any(ATTACKS[spec.name].minimum_norm for spec in column.attacks):
            columns[column.name] = columns[column.name].model_copy(
                update={"distances": pack_floats(near)}
            )
    return columns, {name: each.proof for name, each in found.items()}


def _outcome(
    spec: AttackSpec,
    version: str,
    parts: Sequence[Part],
    before: np.ndarray,  # (n,) bool
    after: np.ndarray,
    predictions: np.ndarray,  # (n,) class of the images it broke
) -> AttackOutcome:
    keys = ("forward", "backward", "rejected", "uint8", "seconds")
    total = {key: sum(p.numbers[key] for p in parts) for key in keys}
    broken = before & ~after
    return AttackOutcome(
        spec=spec,
        engine=version,
        attacked=int(before.sum()),
        broken=int(broken.sum()),
        standing=pack_bits(after),
        adversarial_predictions=pack_ints(predictions[broken]),
        largest_perturbation=max((p.numbers["largest"] for p in parts), default=0.0),
        forward_passes=int(total["forward"]),
        backward_passes=int(total["backward"]),
        rejected=int(total["rejected"]),
        uint8_survivors=int(total["uint8"]),
        seconds=round(total["seconds"], 3),
    )
