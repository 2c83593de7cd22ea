"""verify: re-prove every broken bit of a record from its evidence; attack some standing images again.

A standing bit says that no attack tried broke the image; that cannot be proved, and is said together
with what a second attack on a sample of them could have seen. N images, M of them with evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import datasets, evidence
from bench.attacks import ENGINE_VERSION
from bench.attacks.geometry import admissible, distance
from bench.attacks.problem import Model
from bench.catalogue import DATASETS
from bench.evidence import Perturbations
from bench.judge import Judge
from bench.models import Normalized
from bench.records import proven, store
from bench.records.one_read import LARGEST_EVIDENCE, read_named
from bench.records.proven import Proof
from bench.schema import (
    AttackOutcome,
    EvaluationRecord,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
)
from bench.schema.packing import unpack_bits, unpack_floats
from bench.sources import checkpoint, zoo
from bench.verify import reattack
from bench.verify.reattack import Reattack

# How near a recorded distance must be to that of the evidence: its perturbations may be kept in 127
# steps, which moves an L2 distance by less than this.
SLACK = 0.01
BATCH = 256  # images on the device at once

Look = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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
class Verification:
    """What was re-checked of a record."""

    record: EvaluationRecord
    clean_agrees: int  # images whose clean prediction is the recorded one, of n
    close_calls: int  # judged images so near a tie that float64 decided
    has_evidence: bool
    columns: dict[str, ColumnProof]
    problems: tuple[str, ...]  # empty where everything that can be proven is proven
    reattack: Reattack | None = None  # None: not asked for

    @property
    def proven(self) -> bool:
        """Images that a second attack breaks do not count: the record claims no more than it saw."""
        return not self.problems


@dataclass(frozen=True)
class Materials:
    """A record with everything its claims are about, each the one that the record names."""

    record: EvaluationRecord
    sha256: str  # of the record's file
    model: Model
    data: datasets.Examples
    proofs: dict[str, Perturbations] | None  # None: the evidence file is not here


def gather(
    path: Path,
    *,
    weights: Path | None = None,
    proof: Path | None = None,
    dataset: str | None = None,
    zoo_root: Path = zoo.ROOT,
    device: str = "cpu",
) -> Materials:
    """Reads the record and finds its files, beside it or where they are given.

    zoo_root is where the weights of RobustBench's models are.
    Raises InvalidInput where weights or images are missing, or a file is not the one the record
    names. Missing evidence alone raises nothing: what it would prove is counted as not proven.
    """
    record, sha256 = store.read_hashed(path)
    if record.failure is not None:
        raise InvalidInput(f"{path} is a failed measurement; there is nothing to prove")
    model, data = opened(
        record, path, weights=weights, dataset=dataset, zoo_root=zoo_root, device=device
    )
    found = evidence_of(record, path, proof, tuple(data.x.shape[1:]))
    return Materials(record, sha256, model, data, found)


def opened(
    record: EvaluationRecord,
    path: Path,
    *,
    weights: Path | None = None,
    dataset: str | None = None,
    zoo_root: Path = zoo.ROOT,
    device: str = "cpu",
) -> tuple[Model, datasets.Examples]:
    """The network and the images of the record at `path`. Raises InvalidInput as `gather`."""
    model = _model(record, weights or path.parent, zoo_root, device)
    if dataset is None and record.dataset not in DATASETS:
        raise InvalidInput(
            f"{path} was measured on images of a folder, {record.dataset}: say where they lie with "
            "--dataset FORM:FOLDER"
        )
    data = datasets.load(dataset or record.dataset, record.split, name=record.dataset)
    if data.sha256 != record.examples_sha256:
        raise InvalidInput(
            f"{dataset or record.dataset} {record.split} is not what was measured (sha256 differs)"
        )
    return model, data


def check(
    record: EvaluationRecord,
    model: Model,
    data: datasets.Examples,
    proofs: dict[str, Perturbations] | None,
    *,
    again: reattack.Plan | None = None,
    device: str = "cpu",
) -> Verification:
    """Re-proves a record from what gather() found, and attacks the planned images again."""
    judge = Judge(model, batch=BATCH)

    def look(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        verdicts = [
            judge(x.to(device), y.to(device))
            for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True)
        ]
        broken, predictions = zip(*((v.broken, v.predictions) for v in verdicts), strict=True)
        return torch.cat(broken).cpu(), torch.cat(predictions).cpu()

    x, y = data.x, data.labels
    predictions = look(x, y)[1]
    agrees = int((predictions.numpy() == record.clean_prediction_array).sum())
    problems = [] if agrees == record.n else [f"{record.n - agrees} clean predictions differ"]
    if not np.array_equal(y.numpy(), record.label_array):
        problems.append("its labels are not those of the images")
    columns: dict[str, ColumnProof] = {}
    for claim in claims_of(record):
        proof = (proofs or {}).get(claim.name) or Perturbations.none(tuple(x.shape[1:]))
        columns[claim.name] = prove_claim(record, look, x, y, claim, proof, problems)
    second = None
    try:
        second = reattack.run(again, record, model, data) if again else None
    except MeasurementFailed as error:  # what the evidence proves is still told
        problems.append(str(error))
    return Verification(
        record, agrees, judge.close_calls, proofs is not None, columns, tuple(problems), second
    )


@dataclass(frozen=True)
class Claim:
    """What a record says that attacks did, one after another: those of a column, or of its audit."""

    name: str  # of its evidence
    before: np.ndarray  # (n,) bool: the images that the first one attacked
    outcomes: tuple[AttackOutcome, ...]
    predictions: np.ndarray  # (n,) classes of the broken images, -1 of the others
    distances: str | None = None  # packed, of a security curve

    @property
    def broken(self) -> np.ndarray:
        """(n,) bool."""
        return self.before & ~unpack_bits(self.outcomes[-1].standing, len(self.before))


def claims_of(record: EvaluationRecord) -> Iterator[Claim]:
    """Every column, each followed by its audit."""
    for column in record.protocol.columns:
        name, found = column.name, record.columns[column.name]
        predictions = record.adversarial_predictions(name)
        yield Claim(name, record.clean_correct, found.outcomes, predictions, found.distances)
        if found.audit is not None:
            yield Claim(
                evidence.of_audit(name), unpack_bits(found.audit.sampled, record.n),
                found.audit.outcomes, record.audit_predictions(name),
            )  # fmt: skip


def prove_claim(
    record: EvaluationRecord,
    look: Look,  # (images, labels) -> (broken, predicted class)
    x: Tensor,
    y: Tensor,
    claim: Claim,
    proof: Perturbations,
    problems: list[str],
) -> ColumnProof:
    """What the evidence proves of one claim; what it does not goes to `problems`."""
    index = torch.from_numpy(proof.index).long()
    images = proof.decode(x)
    far = distance(x[index], images, record.threat.norm).numpy()
    broken = claim.broken
    inside = admissible(x[index], images, record.threat, record.protocol)
    wrong, predictions = look(images, y[index])
    recorded = torch.from_numpy(claim.predictions)[index]
    good = (inside & wrong & (predictions == recorded)).numpy()
    proven = np.zeros(record.n, dtype=bool)
    proven[proof.index[good]] = True
    missing = np.flatnonzero(broken & ~proven)
    if len(missing):
        problems.append(
            f"{claim.name}: {len(missing)} broken bits without proof, first {missing[:5]}"
        )
    found = np.full(record.n, np.inf)  # how far away each image is proven misclassified
    found[proof.index[good]] = far[good]
    return ColumnProof(
        int(broken.sum()),
        int((broken & proven).sum()),
        float(far[good].max(initial=0.0)),
        _rounded(record, look, y, claim, index[good], images[good], problems),
        _distances(record, claim, found, problems),
    )


def _rounded(
    record: EvaluationRecord,
    look: Look,
    y: Tensor,
    claim: Claim,
    index: Tensor,  # (M,) the proven images
    images: Tensor,
    problems: list[str],
) -> Rounded | None:
    """Counts again, attack by attack, which broken images survive rounding."""
    before, counted = claim.before, []
    for outcome in claim.outcomes:
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
                f"{claim.name}: {count} of {broken.sum()} images that {attack} broke survive rounding "
                f"to 256 levels, the record says {said}"
            )
    return Rounded(*(sum(numbers) for numbers in zip(*parts, strict=True)))


def _distances(
    record: EvaluationRecord, claim: Claim, found: np.ndarray, problems: list[str]
) -> Distances | None:
    """Holds recorded distances (N,) against those of the evidence, infinite where there is none.

    A distance is an upper bound seen while attacking, by any column of the record. Contradictions are:
    not 0 for a clean error or 0 for another image; larger than the evidence shows; inside the ball of
    an image that stands under every column.
    """
    if claim.distances is None:
        return None
    said = unpack_floats(claim.distances, record.n).astype(np.float64)
    correct, standing = record.clean_correct, record.worst_case_standing
    wrong = (said == 0) != ~correct
    wrong |= correct & (said > found * (1 + SLACK))
    wrong |= correct & standing & (said <= record.threat.epsilon)
    if wrong.any():
        first = np.flatnonzero(wrong)[:5]
        problems.append(f"{claim.name}: {wrong.sum()} distances are contradicted, first {first}")
    finite = np.isfinite(said) & (said > 0)
    proven = finite & ~wrong & (said >= found * (1 - SLACK))
    return Distances(int(finite.sum()), int(proven.sum()), int(wrong.sum()))


def keep_proof(found: Verification, path: Path, sha256: str) -> None:
    """Keeps the list of known records of the results folder in which the record at `path` lies.

    sha256 is that of the bytes of the file that was verified. A record that is proven joins the list
    or is proven there from now on, one that its evidence does not prove leaves it, whoever measured it;
    missing evidence changes nothing, nor does a record that lies where none of its content belongs.
    Raises InvalidInput or OSError where the list cannot be written.
    """
    path = path.absolute()
    if len(path.parts) < 5 or store.record_path(found.record, path.parents[3]) != path:
        return
    root = path.parents[3]
    below = path.relative_to(root).as_posix()
    if found.proven:
        proof = Proof(record=below, sha256=sha256, date=store.now(), engine=ENGINE_VERSION)
        proven.add(root, proof)
    elif found.has_evidence:
        proven.remove(root, below)


# ---------------------------------------------------------------- the files


def evidence_of(
    record: EvaluationRecord,
    path: Path,
    given: Path | None = None,
    shape: tuple[int, ...] | None = None,  # (C, H, W) of the images
) -> dict[str, Perturbations] | None:
    """The evidence of the record at `path`; None where it is not here. Raises InvalidInput."""
    where = given or store.evidence_path(path, record)
    if not where.exists():
        if given:
            raise InvalidInput(f"no evidence at {given}")
        return None
    raw = read_evidence(where, record, follow=given is not None)
    return evidence.from_bytes(raw, n=record.n, shape=shape, where=str(where))


def read_evidence(where: Path, record: EvaluationRecord, *, follow: bool = False) -> bytes:
    """The bytes of the evidence that a record names. Raises InvalidInput where they are not there."""
    try:
        return read_named(where, record.evidence_sha256, largest=LARGEST_EVIDENCE, follow=follow)
    except InvalidInput as error:
        raise InvalidInput(f"{error}: it is not the evidence the record names") from None


def _model(record: EvaluationRecord, folder: Path, zoo_root: Path, device: str) -> Model:
    card = record.card
    model: Model
    if folder.is_file():
        model, found = _of_file(record, folder)
        wrong = f"{folder} holds other weights than the record names"
        model.to(device)
    elif (folder / checkpoint.WEIGHTS).exists():
        model, found = checkpoint.load(folder, device=device)
        wrong = f"{folder} holds other weights than the record names"
    elif card.link.startswith("robustbench:"):
        model, found = zoo.load(zoo.find(card.link, zoo_root), device=device)
        wrong = (
            f"{card.link} has other weights than the record names "
            f"(sha256 {card.weights_sha256}); put that file there, or give --weights"
        )
    elif card.file_sha256 is not None:
        raise InvalidInput(
            f"no weights in {folder}: those of {card.name} are not ours to hand on. Get the file of "
            f"sha256 {card.file_sha256} from {card.link} and give it with --weights FILE"
        )
    else:
        raise InvalidInput(
            f"no weights in {folder}: give the checkpoint folder of {card.name} with --weights "
            f"(sha256 {card.weights_sha256})"
        )
    if found.weights_sha256 != card.weights_sha256:
        raise InvalidInput(wrong)
    return model


def _of_file(record: EvaluationRecord, file: Path) -> tuple[Normalized, ModelCard]:
    """The model in a file of others, read as the card of a record says it was."""
    card = record.card
    if card.arch is None:
        raise InvalidInput(f"{card.name} names no architecture: {file} cannot be read by its card")
    return checkpoint.foreign(
        file, arch=card.arch, dataset=card.dataset, name=card.name, arch_args=card.arch_args,
        mean=card.mean, std=card.std,
    )  # fmt: skip


# ---------------------------------------------------------------- the answer


def as_json(found: Verification) -> dict[str, object]:
    """The same for programs."""
    return {
        "name": found.record.card.name,
        "record": found.record.id,
        "n": found.record.n,
        "proven": found.proven,
        "clean_agrees": found.clean_agrees,
        "close_calls": found.close_calls,
        "evidence": found.has_evidence,
        "columns": {name: asdict(column) for name, column in found.columns.items()},
        "problems": list(found.problems),
        "reattack": reattack.as_json(found.reattack) if found.reattack else None,
    }


def summary(found: Verification) -> str:
    """What was proven, in words that can be pasted."""
    record = found.record
    lines = [
        f"clean: {found.clean_agrees} of {record.n} predictions agree; "
        f"{found.close_calls} close calls among all images judged, decided in float64"
    ]
    for name, column in found.columns.items():
        lines.append(
            f"{name}: {column.proven} of {column.broken} broken bits proven, "
            f"largest perturbation {column.largest_perturbation:.8f}"
        )
        if (r := column.uint8) is not None:
            share = f" ({r.recounted / r.broken:.1%})" if r.broken else ""
            lines.append(f"  {r.recounted} of {r.broken} survive rounding to 256 levels{share}")
        if (d := column.distances) is not None:
            lines.append(
                f"  {d.proven} of {d.finite} finite distances proven within {SLACK:.0%}; the points "
                "behind the others are not stored"
            )
    if not found.has_evidence:
        broken = sum(c.broken for c in found.columns.values())
        lines.append(
            f"NO EVIDENCE HERE for {broken} broken bits: expected {record.id}.evidence.npz beside the "
            f"record or {store.EVIDENCE}/{record.evidence_sha256}.npz"
        )
    lines += [f"NOT PROVEN: {problem}" for problem in found.problems]
    lines.append("standing images are not proven robust: no attack of the protocol broke them")
    lines += reattack.lines(found.reattack) if found.reattack else []
    head = f"{record.card.name}, {record.dataset} {record.threat} {record.protocol.name}"
    return "\n  ".join([f"{head}, n = {record.n}", *lines])
