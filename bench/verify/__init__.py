"""verify: re-prove every broken bit of a record from its evidence; attack some standing images again.

A standing bit says that no attack tried broke the image; that cannot be proved, and is said together
with what a second attack on a sample of them could have seen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from bench import datasets, evidence
from bench.attacks.problem import Model
from bench.evidence import Perturbations
from bench.judge import Judge
from bench.records import store
from bench.records.one_read import read_whole, sha256_of_bytes
from bench.schema import EvaluationRecord, InvalidInput, MeasurementFailed
from bench.sources import checkpoint, zoo
from bench.verify import reattack
from bench.verify.proofs import BATCH, SLACK, ColumnProof, Look, prove_column
from bench.verify.reattack import Reattack


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
    model: Model
    data: datasets.Examples
    proofs: dict[str, Perturbations] | None  # None: the evidence file is not here


def gather(
    path: Path,
    *,
    weights: Path | None = None,
    proof: Path | None = None,
    dataset: str | None = None,
    device: str = "cpu",
) -> Materials:
    """Reads the record and finds its files, beside it or where they are given.

    Raises InvalidInput where weights or images are missing, or a file is not the one the record
    names. Missing evidence alone raises nothing: what it would prove is counted as not proven.
    """
    record = store.read(path)
    if record.failure is not None:
        raise InvalidInput(f"{path} is a failed measurement; there is nothing to prove")
    model = _model(record, weights or path.parent, device)
    data = _data(record, dataset)
    return Materials(record, model, data, _evidence(record, path, proof))


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
    look = Look(Judge(model, batch=BATCH), device)
    x, y = data.x, data.labels
    _, predictions = look(x, y)
    agrees = int((predictions.numpy() == record.clean_prediction_array).sum())
    problems = [] if agrees == record.n else [f"{record.n - agrees} clean predictions differ"]
    columns: dict[str, ColumnProof] = {}
    for column in record.protocol.columns:
        proof = (proofs or {}).get(column.name) or Perturbations.none(tuple(x.shape[1:]))
        columns[column.name] = prove_column(record, look, x, y, column.name, proof, problems)
    second = None
    try:
        second = reattack.run(again, record, model, data) if again else None
    except MeasurementFailed as error:  # what the evidence proves is still told
        problems.append(str(error))
    return Verification(
        record, agrees, look.judge.close_calls, proofs is not None, columns, tuple(problems), second
    )


# ---------------------------------------------------------------- the files


def evidence_path(path: Path, record: EvaluationRecord) -> Path:
    """Beside the record, else under var/evidence by its sha256 (files above 1 MB)."""
    beside = path.with_suffix(".evidence.npz")
    return beside if beside.exists() else Path("var/evidence") / f"{record.evidence_sha256}.npz"


def _evidence(
    record: EvaluationRecord, path: Path, given: Path | None
) -> dict[str, Perturbations] | None:
    where = given or evidence_path(path, record)
    if not where.exists():
        if given:
            raise InvalidInput(f"no evidence at {given}")
        return None
    raw = read_whole(where)
    if sha256_of_bytes(raw) != record.evidence_sha256:
        raise InvalidInput(f"{where} is not the evidence the record names (sha256 differs)")
    return evidence.from_bytes(raw, where=str(where))


def _model(record: EvaluationRecord, folder: Path, device: str) -> Model:
    card = record.card
    model: Model | None = None
    if (folder / checkpoint.WEIGHTS).exists():
        model, found = checkpoint.load(folder, device=device)
        if found.weights_sha256 != card.weights_sha256:
            raise InvalidInput(f"{folder} holds other weights than the record names")
    elif card.link.startswith("robustbench:"):
        model, found = zoo.load(card.link, device=device)
        if found.weights_sha256 != card.weights_sha256:
            raise InvalidInput(
                f"{card.link} has other weights than the record names "
                f"(sha256 {card.weights_sha256}); put that file there, or give --weights"
            )
    if model is None:
        raise InvalidInput(
            f"no weights in {folder}: give the checkpoint folder of {card.name} with --weights "
            f"(sha256 {card.weights_sha256})"
        )
    return model


def _data(record: EvaluationRecord, dataset: str | None) -> datasets.Examples:
    data = datasets.load(dataset or record.dataset, record.split, name=record.dataset)
    if data.sha256 != record.examples_sha256:
        raise InvalidInput(
            f"{dataset or record.dataset} {record.split} is not what was measured (sha256 differs)"
        )
    return data


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
            f"record or var/evidence/{record.evidence_sha256}.npz"
        )
    lines += [f"NOT PROVEN: {problem}" for problem in found.problems]
    lines.append("standing images are not proven robust: no attack of the protocol broke them")
    lines += reattack.lines(found.reattack) if found.reattack else []
    head = f"{record.card.name}, {record.dataset} {record.threat} {record.protocol.name}"
    return "\n  ".join([f"{head}, n = {record.n}", *lines])
