"""verify: re-prove every broken bit of a record from its evidence, with forward passes only.

A standing bit says that no attack tried broke the image; that cannot be proved, and is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench import checkpoint, datasets, evidence, results
from bench.attacks.geometry import admissible, distance
from bench.attacks.pgd import Model
from bench.evidence import Perturbations
from bench.judge import Judge
from bench.schema import EvaluationRecord, InvalidInput


@dataclass(frozen=True)
class ColumnProof:
    """One column: how many images its record calls broken, and how many of them are proven."""

    broken: int
    proven: int
    largest_perturbation: float  # of the proven images, float64, in the threat's norm


@dataclass(frozen=True)
class Verification:
    """What was re-checked of a record."""

    record: EvaluationRecord
    clean_agrees: int  # images whose clean prediction is the recorded one, of n
    columns: dict[str, ColumnProof]
    problems: tuple[str, ...]  # empty where everything that can be proven is proven

    @property
    def proven(self) -> bool:
        return not self.problems


def verify(
    path: Path,
    *,
    weights: Path | None = None,
    proof: Path | None = None,
    dataset: str | None = None,
) -> Verification:
    """Re-proves the record at `path` from the files beside it, or from those that are given.

    weights is a checkpoint folder, proof an evidence file, dataset as `datasets.load` takes it.
    Raises InvalidInput where one of them is missing or is not the one the record names.
    """
    record = results.read(path)
    if record.failure is not None:
        raise InvalidInput(f"{path} is a failed measurement; there is nothing to prove")
    model = _model(record, weights or path.parent)
    data = _data(record, dataset)
    found = _evidence(record, proof or evidence_path(path, record))
    return check(record, model, data, found)


def check(
    record: EvaluationRecord,
    model: Model,
    data: datasets.Examples,
    proofs: dict[str, Perturbations],
) -> Verification:
    """As verify(), with everything in hand."""
    judge, x, y = Judge(model), data.x, data.labels
    predictions = judge(x, y).predictions.numpy()
    agrees = int((predictions == record.clean_prediction_array).sum())
    problems = [] if agrees == record.n else [f"{record.n - agrees} clean predictions differ"]
    columns: dict[str, ColumnProof] = {}
    for column in record.protocol.columns:
        broken = record.clean_correct & ~record.standing(column.name)
        proof, proven = proofs.get(column.name), np.zeros(record.n, dtype=bool)
        if proof is not None and len(proof.index):
            proven = _proven(record, judge, x, y, column.name, proof)
        missing = np.flatnonzero(broken & ~proven)
        if len(missing):
            problems.append(
                f"{column.name}: {len(missing)} broken bits without proof, first {missing[:5]}"
            )
        columns[column.name] = ColumnProof(
            int(broken.sum()), int((broken & proven).sum()), _largest(record, x, proof, proven)
        )
    return Verification(record, agrees, columns, tuple(problems))


def _proven(
    record: EvaluationRecord,
    judge: Judge,
    x: torch.Tensor,
    y: torch.Tensor,
    column: str,
    proof: Perturbations,
) -> np.ndarray:
    """(n,) images whose evidence is admissible, misclassified, and as the recorded class."""
    index = torch.from_numpy(proof.index).long()
    images = proof.decode(x)
    inside = admissible(x[index], images, record.threat, record.protocol)
    verdict = judge(images, y[index])
    recorded = torch.from_numpy(record.adversarial_predictions(column))[index]
    good = inside & verdict.broken & (verdict.predictions == recorded)
    proven = np.zeros(record.n, dtype=bool)
    proven[index[good].numpy()] = True
    return proven


def _largest(
    record: EvaluationRecord, x: torch.Tensor, proof: Perturbations | None, proven: np.ndarray
) -> float:
    if proof is None or not proven.any():
        return 0.0
    index = torch.from_numpy(proof.index).long()
    keep = torch.from_numpy(proven)[index]
    return float(distance(x[index], proof.decode(x), record.threat.norm)[keep].max())


def evidence_path(path: Path, record: EvaluationRecord) -> Path:
    """Beside the record, else under var/evidence by its sha256 (files above 1 MB)."""
    beside = path.with_suffix(".evidence.npz")
    return beside if beside.exists() else Path("var/evidence") / f"{record.evidence_sha256}.npz"


def _evidence(record: EvaluationRecord, path: Path) -> dict[str, Perturbations]:
    if not path.exists():
        raise InvalidInput(
            f"the evidence of {record.card.name} is not here: expected {path} "
            f"with sha256 {record.evidence_sha256}. Without it no broken bit can be proven"
        )
    if results.sha256_of(path) != record.evidence_sha256:
        raise InvalidInput(f"{path} is not the evidence the record names (sha256 differs)")
    return evidence.read(path)


def _model(record: EvaluationRecord, folder: Path) -> Model:
    if not (folder / checkpoint.WEIGHTS).exists():
        raise InvalidInput(
            f"no weights in {folder}: give the checkpoint folder of {record.card.name} with --weights "
            f"(sha256 {record.card.weights_sha256})"
        )
    model, card = checkpoint.load(folder)
    if card.weights_sha256 != record.card.weights_sha256:
        raise InvalidInput(f"{folder} holds other weights than the record names")
    return model


def _data(record: EvaluationRecord, dataset: str | None) -> datasets.Examples:
    data = datasets.load(dataset or record.dataset, record.split, name=record.dataset)
    if data.sha256 != record.examples_sha256:
        raise InvalidInput(
            f"{dataset or record.dataset} {record.split} is not what was measured (sha256 differs)"
        )
    return data


def as_json(found: Verification) -> dict[str, object]:
    """The same for programs."""
    return {
        "name": found.record.card.name,
        "record": found.record.id,
        "n": found.record.n,
        "proven": found.proven,
        "clean_agrees": found.clean_agrees,
        "columns": {name: vars(column) for name, column in found.columns.items()},
        "problems": list(found.problems),
    }


def summary(found: Verification) -> str:
    """What was proven, in words that can be pasted."""
    record = found.record
    lines = [
        f"{record.card.name}, {record.dataset} {record.threat} {record.protocol.name}, n = {record.n}",
        f"  clean: {found.clean_agrees} of {record.n} predictions agree",
    ]
    for name, column in found.columns.items():
        lines.append(
            f"  {name}: {column.proven} of {column.broken} broken bits proven, "
            f"largest perturbation {column.largest_perturbation:.8f}"
        )
    lines += [f"  NOT PROVEN: {problem}" for problem in found.problems]
    lines.append("  standing images are not proven robust: no attack of the protocol broke them")
    return "\n".join(lines)
