"""Parts: what one attack did on one shard, judged, and kept on disk.

B images.
"""

from __future__ import annotations

import io
import logging
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.attacks.geometry import admissible, distance
from bench.evidence import FIELDS, Perturbations
from bench.judge import Judge, Verdict, guarded
from bench.measure.request import Request

log = logging.getLogger(__name__)


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


def read(path: Path, before: np.ndarray) -> Part | None:
    """A finished part; None where there is none, or where it is damaged (said, then redone)."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
            proof = Perturbations(*(saved[f] for f in FIELDS))
            numbers = {str(k): float(v) for k, v in saved["numbers"]}
            part = Part(saved["standing"], saved["predictions"], saved["distances"], proof, numbers)
        broken = int((before & ~part.standing).sum())
        if part.standing.shape != before.shape or len(part.predictions) != broken:
            raise ValueError("it does not fit the images standing before it")
        return part
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        log.warning("%s is damaged (%s) and is computed again", path, error)
        return None
