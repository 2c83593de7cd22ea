"""What a challenge claims, proven again from the images that are kept of what it broke. N images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import evidence, verify
from bench.attacks import ENGINE_VERSION
from bench.attacks.geometry import admissible, distance
from bench.attacks.problem import Model
from bench.datasets import Examples
from bench.evidence import Perturbations
from bench.judge import Judge
from bench.records import challenges, proven, store
from bench.records.one_read import LARGEST_EVIDENCE, read_named
from bench.records.proven import Proof
from bench.schema import InvalidInput, Protocol
from bench.schema.challenge import Challenge

BATCH = 256  # images on the device at once
# Ball and box as every protocol of ours has them.
JUDGED = Protocol(name="challenge", version=1, columns=())


@dataclass(frozen=True)
class Proved:
    """What was re-checked of a challenge."""

    challenge: Challenge
    sha256: str  # of its file
    broken: int
    proven: int
    uint8_survivors: int
    largest: float  # distance of the proven images
    has_evidence: bool
    problems: tuple[str, ...]  # empty where everything that can be proven is proven


def prove(path: Path, model: Model, data: Examples, *, device: str = "cpu") -> Proved:
    """Judges the images of the challenge at `path` again by the network that it names.

    Raises InvalidInput where a file is not the one that is named, and MeasurementFailed.
    """
    challenge, sha256 = challenges.read_hashed(path)
    if data.sha256 != challenge.examples_sha256 or len(data) != challenge.n:
        raise InvalidInput(f"{path} is about other images than are here (sha256 differs)")
    proof = _evidence(path, challenge, tuple(data.images.shape[1:]))
    held = Perturbations.none(tuple(data.images.shape[1:])) if proof is None else proof
    index, images = torch.from_numpy(held.index).long(), held.decode(data.x)
    y, judge = data.labels[index], Judge(model, batch=BATCH)

    def look(images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        found = judge(images.to(device), labels.to(device))
        return found.broken.cpu().numpy(), found.predictions.cpu().numpy()

    clean_wrong = look(data.x[index], y)[0]
    wrong, classes = look(images, y)
    inside = admissible(data.x[index], images, challenge.threat, JUDGED).numpy()
    good = inside & wrong & ~clean_wrong & (classes == challenge.predictions[held.index])
    shown = np.zeros(challenge.n, dtype=bool)
    shown[held.index[good]] = True
    survive = int(look(evidence.on_256_levels(images[good]), y[good])[0].sum())
    far = distance(data.x[index], images, challenge.threat.norm).numpy()
    largest = float(far[good].max(initial=0.0))
    problems = []
    broken = challenge.broken_bits
    missing = np.flatnonzero(broken & ~shown)
    if len(missing):
        problems.append(f"{len(missing)} broken bits without proof, first {missing[:5]}")
    elif survive != challenge.uint8_survivors:
        problems.append(
            f"{survive} images survive rounding to 256 levels, it says {challenge.uint8_survivors}"
        )
    elif abs(largest - challenge.largest_perturbation) > 1e-6 * max(1.0, largest):
        problems.append(
            f"the largest perturbation is {largest:.8f}, it says {challenge.largest_perturbation:.8f}"
        )
    return Proved(
        challenge, sha256, int(broken.sum()), int((broken & shown).sum()), survive, largest,
        proof is not None, tuple(problems),
    )  # fmt: skip


def _evidence(path: Path, challenge: Challenge, shape: tuple[int, ...]) -> Perturbations | None:
    """The images kept of a challenge; None where they are not here. Raises InvalidInput."""
    where = challenges.evidence_path(path)
    if not where.exists():
        return None
    raw = read_named(where, challenge.evidence_sha256, largest=LARGEST_EVIDENCE)
    columns = evidence.from_bytes(raw, n=challenge.n, shape=shape, where=str(where))
    if list(columns) != [challenges.COLUMN]:
        raise InvalidInput(f"{where} is not the evidence of a challenge; left in place")
    return columns[challenges.COLUMN]


def gather(
    path: Path, *, weights: Path | None = None, dataset: str | None = None, device: str = "cpu"
) -> Proved:
    """Proves a challenge with the network and images of a record beside it. Raises as `prove`."""
    challenge, _ = challenges.read_hashed(path)
    for beside in sorted(path.parent.glob("*.json")):
        if len(beside.stem) == 16:
            record = store.read(beside)
            asked = (record.card.weights_sha256, record.examples_sha256, str(record.threat))
            if asked == challenge.key and record.failure is None:
                model, data = verify.opened(
                    record, beside, weights=weights, dataset=dataset, device=device
                )
                return prove(path, model, data, device=device)
    raise InvalidInput(
        f"no record beside {path} is of its network, images and ball: put it where those records lie"
    )


def keep_proof(found: Proved, path: Path) -> None:
    """Lists a challenge as proven, or takes it from the list where its evidence denies it.

    One that lies where none of its content belongs changes nothing. Raises InvalidInput or OSError
    where the list cannot be written.
    """
    path = path.absolute()
    if len(path.parts) < 5 or challenges.place_of(found.challenge, path.parents[3]) != path:
        return
    root = path.parents[3]
    below = path.relative_to(root).as_posix()
    if not found.problems:
        proof = Proof(record=below, sha256=found.sha256, date=store.now(), engine=ENGINE_VERSION)
        proven.add(root, proof)
    elif found.has_evidence:
        proven.remove(root, below)


def as_json(found: Proved) -> dict[str, object]:
    """The same for programs."""
    said = found.challenge
    return {
        "challenge": said.id, "name": said.name, "by": said.by, "n": said.n,
        "proven": not found.problems, "broken": found.broken, "broken_proven": found.proven,
        "uint8_survivors": found.uint8_survivors, "largest_perturbation": found.largest,
        "evidence": found.has_evidence, "problems": list(found.problems),
    }  # fmt: skip


def summary(found: Proved) -> str:
    """What was proven, in words that can be pasted."""
    said = found.challenge
    lines = [
        f"challenge of {said.name} by {said.by}, {said.dataset} {said.threat}, n = {said.n}",
        f"{found.proven} of {found.broken} broken bits proven, largest perturbation "
        f"{found.largest:.8f}; {found.uint8_survivors} survive rounding to 256 levels",
    ]
    if not found.has_evidence:
        lines.append(f"NO EVIDENCE HERE: expected {said.id}{challenges.EVIDENCE} beside it")
    lines += [f"NOT PROVEN: {problem}" for problem in found.problems]
    return "\n  ".join(lines)
