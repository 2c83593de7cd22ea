"""What a column's evidence proves: broken bits, survival on 256 levels, distances.

N images, M of them with evidence. Forward passes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.attacks.geometry import admissible, distance
from bench.evidence import Perturbations
from bench.judge import Judge
from bench.schema import EvaluationRecord
from bench.schema.packing import unpack_bits, unpack_floats

# How near a recorded distance must be to that of the evidence: its perturbations may be kept in 127
# steps, which moves an L2 distance by less than this.
SLACK = 0.01
BATCH = 256  # images on the device at once


@dataclass(frozen=True)
class Rounded:
    """Broken images that stay misclassified on 256 levels, where the record counts them."""

    broken: int
    recorded: int
    recounted: int


@dataclass(frozen=True)
class Distances:
    """The finite distances of a column above 0, and how many of them the evidence backs.

    The evidence backs a distance where its image lies that near. The others come from points that
    are not stored (a minimum-norm attack, or one that went on after success): not proven.
    """

    finite: int
    proven: int
    contradicted: int


@dataclass(frozen=True)
class ColumnProof:
    """One column: how many images its record calls broken, and how many of them are proven."""

    broken: int
    proven: int
    largest_perturbation: float  # of the proven images, float64, in the threat's norm
    uint8: Rounded | None = None  # None: not recorded
    distances: Distances | None = None  # None: not recorded


@dataclass(frozen=True)
class Look:
    """The judge on a device, given and giving tensors of the CPU."""

    judge: Judge
    device: str

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) broken and (N,) predicted class of images (N, C, H, W)."""
        broken, predictions = torch.zeros(len(labels), dtype=torch.bool), labels.clone()
        for first in range(0, len(labels), BATCH):
            part = slice(first, first + BATCH)
            verdict = self.judge(images[part].to(self.device), labels[part].to(self.device))
            broken[part], predictions[part] = verdict.broken.cpu(), verdict.predictions.cpu()
        return broken, predictions


def prove_column(
    record: EvaluationRecord,
    look: Look,
    x: Tensor,
    y: Tensor,
    name: str,
    proof: Perturbations,
    problems: list[str],
) -> ColumnProof:
    """What the evidence proves of one column; what it does not goes to `problems`."""
    index = torch.from_numpy(proof.index).long()
    images = proof.decode(x)
    far = distance(x[index], images, record.threat.norm).numpy()
    broken = record.clean_correct & ~record.standing(name)
    inside = admissible(x[index], images, record.threat, record.protocol)
    wrong, predictions = look(images, y[index])
    recorded = torch.from_numpy(record.adversarial_predictions(name))[index]
    good = (inside & wrong & (predictions == recorded)).numpy()
    proven = np.zeros(record.n, dtype=bool)
    proven[proof.index[good]] = True
    missing = np.flatnonzero(broken & ~proven)
    if len(missing):
        problems.append(f"{name}: {len(missing)} broken bits without proof, first {missing[:5]}")
    found = np.full(record.n, np.inf)  # how far away each image is proven misclassified
    found[proof.index[good]] = far[good]
    return ColumnProof(
        int(broken.sum()),
        int((broken & proven).sum()),
        float(far[good].max(initial=0.0)),
        _rounded(record, look, y, name, index[good], images[good], problems),
        _distances(record, name, found, problems),
    )


def _rounded(
    record: EvaluationRecord,
    look: Look,
    y: Tensor,
    name: str,
    index: Tensor,  # (M,) the proven images
    images: Tensor,
    problems: list[str],
) -> Rounded | None:
    """Counts again, attack by attack, which broken images survive rounding."""
    before, counted = record.clean_correct, []
    for outcome in record.columns[name].outcomes:
        after = unpack_bits(outcome.standing, record.n)
        if outcome.uint8_survivors is not None:
            counted.append((outcome.spec.name, before & ~after, outcome.uint8_survivors))
        before = after
    if not counted:
        return None
    survives = np.zeros(record.n, dtype=bool)
    survives[index.numpy()] = look(evidence.on_256_levels(images), y[index])[0].numpy()
    held, parts = np.isin(np.arange(record.n), index.numpy()), []
    for attack, broken, said in counted:
        count = int((broken & survives).sum())
        parts.append((int(broken.sum()), said, count))
        if held[broken].all() and count != said:
            problems.append(
                f"{name}: {count} of {broken.sum()} images that {attack} broke survive rounding to "
                f"256 levels, the record says {said}"
            )
    return Rounded(*(sum(numbers) for numbers in zip(*parts, strict=True)))


def _distances(
    record: EvaluationRecord, name: str, found: np.ndarray, problems: list[str]
) -> Distances | None:
    """Holds recorded distances (N,) against those of the evidence, infinite where there is none.

    A distance is an upper bound seen while attacking. Contradictions are: not 0 for a clean error or 0
    for another image; larger than the evidence shows; inside the ball of an image that stands.
    """
    packed = record.columns[name].distances
    if packed is None:
        return None
    said = unpack_floats(packed, record.n).astype(np.float64)
    correct, standing = record.clean_correct, record.standing(name)
    wrong = (said == 0) != ~correct
    wrong |= correct & (said > found * (1 + SLACK))
    wrong |= correct & standing & (said <= record.threat.epsilon)
    if wrong.any():
        first = np.flatnonzero(wrong)[:5]
        problems.append(f"{name}: {wrong.sum()} distances are contradicted, first {first}")
    finite = np.isfinite(said) & (said > 0)
    proven = finite & ~wrong & (said >= found * (1 - SLACK))
    return Distances(int(finite.sum()), int(proven.sum()), int(wrong.sum()))
