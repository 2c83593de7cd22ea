"""evaluate(): model, images, threat, protocol -> an EvaluationRecord and its evidence.

Every column starts from all clean-correct images. Inside a column the attacks run one after another on
the images still standing, shard by shard; each claimed example is judged by the untouched float32
model. A finished shard x attack is on disk before the next one starts, so a killed run continues.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import platform
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench import evidence
from bench.attacks import ATTACKS, ENGINE_VERSION
from bench.attacks.geometry import admissible, distance
from bench.attacks.pgd import Model
from bench.attacks.reference import REFERENCE_ATTACKS, reference_attack
from bench.attacks.reference import version as reference_version
from bench.datasets import examples_sha256
from bench.evidence import FIELDS, Perturbations
from bench.flags import IMAGES, model_flags, outcome_flags
from bench.judge import Judge, Verdict, Watched, exact_float32
from bench.protocols import protocol as named_protocol
from bench.results import now, record_id, write_atomic
from bench.schema import (
    AttackOutcome,
    AttackSpec,
    BenchError,
    Column,
    ColumnOutcome,
    EvaluationRecord,
    Flag,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    Protocol,
    ThreatModel,
    pack_bits,
    pack_ints,
    safe_name,
)
from bench.streams import Streams

log = logging.getLogger(__name__)
SHARD = 256  # images; the unit of resuming
Engine = Literal["ours", "reference"]
Report = Callable[[float, str], None]  # (share of the work done, what is known so far)


@dataclass(frozen=True)
class Measurement:
    """A record together with the evidence file that its hash names."""

    record: EvaluationRecord
    evidence: bytes


@dataclass
class _Part:
    """What one attack did on one shard."""

    standing: np.ndarray  # (shard,) bool, after the attack
    predictions: np.ndarray  # (broken,) predicted class of the images it broke, in order
    proof: Perturbations
    numbers: dict[str, float] = field(default_factory=dict)


def evaluate(
    model: Model,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    threat: str | ThreatModel,
    protocol: str | Protocol = "standard",
    seed: int = 0,
    **details: Any,
) -> EvaluationRecord:
    """Measures any callable that maps images (B, C, H, W) in [0, 1] to logits (B, K).

    x (N, C, H, W) is uint8 or float in [0, 1], y (N,) are class numbers; threat such as "linf:8/255".
    Further arguments are those of `measure`. A model that raises or does not return logits gives a
    record whose `failure` says why. Raises InvalidInput on a wrong call.
    """
    return measure(model, x, y, threat=threat, protocol=protocol, seed=seed, **details).record


def measure(
    model: Model,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    threat: str | ThreatModel,
    protocol: str | Protocol = "standard",
    seed: int = 0,
    card: ModelCard | None = None,
    dataset: str = "unnamed",
    split: str = "",
    engine: Engine = "reference",
    batch: int = SHARD,
    work: Path | None = None,
    report: Report | None = None,
) -> Measurement:
    """As evaluate(), with evidence. `work` is a folder for finished parts; a second call resumes.

    `engine` says whose AutoAttack runs: the published one, or ours. `batch` is the largest number
    of images attacked at once. `report` is told of progress.
    """
    started = time.monotonic()
    threat = ThreatModel.parse(threat)
    x, y, sha256 = _examples(x, y)
    device = _device_of(model)
    watched = Watched(model)
    judge = Judge(model, batch=batch)
    card = card or _unregistered(model, dataset)
    failure, classes = None, card.class_count
    try:
        classes = _class_count(watched, x, y, device)
    except MeasurementFailed as error:
        failure = str(error)
    chosen = (
        named_protocol(protocol, norm=threat.norm, classes=classes)
        if isinstance(protocol, str)
        else protocol
    )
    question: dict[str, Any] = {
        "threat": threat,
        "protocol": chosen,
        "seed": seed,
        "engine": engine,
        "engine_version": engine_version(engine, batch),
        "precision": "float32",
        "examples_sha256": sha256,
    }
    identity = record_id(weights_sha256=card.weights_sha256, **question)
    run = _Run(
        watched, judge, x, y, device, threat, chosen, seed, engine, batch,
        work / identity if work else None, report or (lambda share, text: None),
    )  # fmt: skip
    columns: dict[str, ColumnOutcome] = {}
    proofs: dict[str, Perturbations] = {}
    flags: list[Flag] = []
    predictions = np.zeros(0, dtype=np.int64)
    try:
        if failure is None:
            flags = model_flags(model, x[:IMAGES].to(device), y[:IMAGES].to(device))
            predictions, columns, proofs = run.all_columns()
            clean = int((predictions == y.numpy()).sum())
            flags += outcome_flags(columns, clean, len(y), classes)
    except MeasurementFailed as error:
        failure, columns, proofs = str(error), {}, {}
    raw = evidence.to_bytes(proofs)
    record = EvaluationRecord(
        id=identity,
        card=card,
        dataset=dataset,
        split=split,
        n=len(y),
        labels="" if failure else pack_ints(y.numpy()),
        clean_predictions="" if failure else pack_ints(predictions),
        columns=columns,
        flags=tuple(flags),
        failure=failure[:2000] if failure else None,
        environment=environment(device, batch),
        created=now(),
        seconds=round(time.monotonic() - started, 3),
        evidence_sha256=None if failure else hashlib.sha256(raw).hexdigest(),
        **question,
    )
    if run.work:
        shutil.rmtree(run.work, ignore_errors=True)
    return Measurement(record, raw)


@dataclass
class _Run:
    """One evaluation under way."""

    model: Watched
    judge: Judge
    x: Tensor  # (N, C, H, W) float32, on the CPU
    y: Tensor  # (N,)
    device: torch.device
    threat: ThreatModel
    protocol: Protocol
    seed: int
    engine: Engine
    batch: int
    work: Path | None
    report: Report
    done: float = 0.0

    def all_columns(
        self,
    ) -> tuple[np.ndarray, dict[str, ColumnOutcome], dict[str, Perturbations]]:
        """Clean predictions (N,), and each column's outcomes and proof."""
        shards = [slice(i, min(i + SHARD, len(self.y))) for i in range(0, len(self.y), SHARD)]
        clean = np.concatenate([self._clean(s) for s in shards])
        correct = clean == self.y.numpy()
        parts: dict[tuple[str, int], list[_Part]] = {}
        total = len(shards) * sum(attack_cost(a) for c in self.protocol.columns for a in c.attacks)
        for number, shard in enumerate(shards):
            for column in self.protocol.columns:
                standing = correct[shard]
                for place, spec in enumerate(column.attacks):
                    part = self._part(number, shard, column, place, standing)
                    parts.setdefault((column.name, place), []).append(part)
                    standing = part.standing
                    self.done += attack_cost(spec) / total
                    seen = np.concatenate([p.standing for p in parts[column.name, place]])
                    self.report(
                        self.done,
                        f"clean {correct.mean():.1%}, {column.name} after {spec.name} at most "
                        f"{seen.mean():.1%} of the first {shard.stop}/{len(self.y)}",
                    )
        columns, proofs = {}, {}
        for column in self.protocol.columns:
            before, outcomes = correct, []
            for place, spec in enumerate(column.attacks):
                outcome = _merge(spec, parts[column.name, place], before, self.version_of(spec))
                outcomes.append(outcome)
                before = np.concatenate([p.standing for p in parts[column.name, place]])
            columns[column.name] = ColumnOutcome(
                column_id=column.column_id, outcomes=tuple(outcomes)
            )
            proofs[column.name] = evidence.merge(
                [p.proof for place in range(len(column.attacks)) for p in parts[column.name, place]]
            )
        return clean, columns, proofs

    def version_of(self, spec: AttackSpec) -> str:
        """Which implementation runs an attack."""
        if self.engine == "reference" and spec.name in REFERENCE_ATTACKS:
            return reference_version()
        return f"ours {ENGINE_VERSION}"

    def _clean(self, shard: slice) -> np.ndarray:
        x, y = self.x[shard].to(self.device), self.y[shard].to(self.device)
        return _guarded(lambda: self.judge(x, y)).predictions.cpu().numpy()

    def _part(
        self, number: int, shard: slice, column: Column, place: int, standing: np.ndarray
    ) -> _Part:
        """One attack on one shard, read from the work folder where it is finished."""
        path = None
        if self.work:
            path = self.work / f"{number:05d}-{column.column_id}-{place}.npz"
            saved = _read_part(path, standing)
            if saved is not None:
                return saved
        part = self._attack(shard, column, column.attacks[place], standing)
        if path:
            write_atomic(path, _part_bytes(part))
        return part

    def _attack(
        self, shard: slice, column: Column, spec: AttackSpec, standing: np.ndarray
    ) -> _Part:
        started = time.monotonic()
        self.model.take_counts()
        proofs, predictions = [], np.full(len(standing), -1, dtype=np.int64)
        numbers = {"largest": 0.0, "rejected": 0.0}
        places = np.flatnonzero(standing)
        for first in range(0, len(places), self.batch):
            chosen = places[first : first + self.batch]
            index = torch.from_numpy(chosen + shard.start)
            x, y = self.x[index].to(self.device), self.y[index].to(self.device)
            x_adv = self._run_attack(spec, column, x, y)
            proof, found = self._judged(x, y, x_adv, chosen + shard.start, numbers)
            proofs.append(proof)
            predictions[chosen] = found
        after = standing & (predictions < 0)
        forward, backward = self.model.take_counts()
        numbers |= {"forward": forward, "backward": backward}
        numbers["seconds"] = time.monotonic() - started
        proof = evidence.merge(proofs or [Perturbations.none(tuple(self.x.shape[1:]))])
        return _Part(after, predictions[predictions >= 0], proof, numbers)

    def _run_attack(self, spec: AttackSpec, column: Column, x: Tensor, y: Tensor) -> Tensor:
        try:
            with exact_float32():
                if self.engine == "reference" and spec.name in REFERENCE_ATTACKS:
                    return reference_attack(spec, self.model, x, y, self.threat, seed=self.seed)
                streams = Streams.for_images(x, self.seed, column.column_id).at(spec.name)
                return ATTACKS[spec.name](
                    self.model, x, y, self.threat, streams=streams, **spec.params
                )
        except (BenchError, MemoryError):
            raise
        except Exception as error:  # a crashed attack is a failed record, never a robust image
            raise MeasurementFailed(
                f"{spec.name} raised {type(error).__name__}: {error}"
            ) from error

    def _judged(
        self, x: Tensor, y: Tensor, x_adv: Tensor, index: np.ndarray, numbers: dict[str, float]
    ) -> tuple[Perturbations, np.ndarray]:
        """Proof of the images that are admissible and misclassified, and (B,) their classes or -1.

        The image that counts is the one that is stored: where its compact form is not judged
        misclassified and admissible too, it is stored in full.
        """
        broken, verdict = self._accepts(x, x_adv, y)
        claimed = int((verdict.broken & (x_adv != x).flatten(1).any(1)).sum())
        numbers["rejected"] += claimed - int((broken & (x_adv != x).flatten(1).any(1)).sum())
        steps, scale = evidence.quantise(x, x_adv)
        decoded = evidence.dequantise(x, steps, scale).to(x.device)
        compact, compact_verdict = self._accepts(x, decoded, y)
        compact &= broken
        full = broken & ~compact
        stored = torch.where(compact.view(-1, 1, 1, 1), decoded, x_adv)
        if bool(broken.any()):
            far = distance(x[broken], stored[broken], self.threat.norm).max().item()
            numbers["largest"] = max(numbers["largest"], far)
        classes = torch.where(compact, compact_verdict.predictions, verdict.predictions)
        kept, whole = compact.cpu(), full.cpu().numpy()
        proof = Perturbations(
            np.concatenate([index[kept.numpy()], index[whole]]).astype(np.int32),
            steps[kept].numpy(),
            scale[kept].numpy(),
            x_adv[full].cpu().numpy(),
        )
        return proof, torch.where(broken, classes, -1).cpu().numpy()

    def _accepts(self, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Verdict]:
        inside = admissible(x, x_adv, self.threat, self.protocol)
        verdict = _guarded(lambda: self.judge(x_adv, y))
        return verdict.broken & inside, verdict


def attack_cost(spec: AttackSpec) -> float:
    """Rough cost for an image that stays robust, in forward passes (a backward pass is two)."""
    steps = float(spec.params.get("steps", 1)) * float(spec.params.get("restarts", 1))
    steps *= float(spec.params.get("targets", 1))
    if spec.name == "square":
        return float(spec.params["queries"])
    return steps * (4 if spec.name.startswith("fab") else 3)


def estimate_seconds(model: Model, x: Tensor, protocol: Protocol, n: int) -> float:
    """Seconds that n images would take at most on one device, from a few timed passes."""
    batch = x[: min(64, len(x))].to(_device_of(model))
    with torch.no_grad():
        model(batch)
        started = time.monotonic()
        for _ in range(3):
            model(batch)
        per_pass = (time.monotonic() - started) / 3 / len(batch)
    return n * per_pass * sum(attack_cost(a) for c in protocol.columns for a in c.attacks)


def engine_version(engine: Engine, batch: int) -> str:
    """What is part of a record's identity: the reference engine's answer depends on the batch."""
    if engine == "ours":
        return ENGINE_VERSION
    return f"{reference_version()}, batch {batch}"


def environment(device: torch.device, batch: int) -> dict[str, str]:
    """What the numbers were computed with; not part of what makes two records identical."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": gpu or f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "batch": str(batch),
    }


# ---------------------------------------------------------------- pieces


def _guarded(judge: Callable[[], Verdict]) -> Verdict:
    try:
        return judge()
    except (BenchError, MemoryError):
        raise
    except Exception as error:  # the judge calls the stranger's model too
        raise MeasurementFailed(f"the model raised {type(error).__name__}: {error}") from error


def _examples(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> tuple[Tensor, Tensor, str]:
    x, y = torch.as_tensor(x).cpu(), torch.as_tensor(y).cpu().to(torch.int64)
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not len(y):
        raise InvalidInput(
            f"expected images (N, C, H, W) and labels (N,), got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise InvalidInput(f"images must be uint8 or float in [0, 1], got {x.dtype}")
    sha256 = examples_sha256(x if x.dtype == torch.uint8 else x.float(), y)
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if not (bool(torch.isfinite(x).all()) and x.min() >= 0 and x.max() <= 1):
        raise InvalidInput(
            f"images must lie in [0, 1], got {x.min():g} to {x.max():g}; divide by 255, and put the "
            "normalisation inside the model"
        )
    return x, y, sha256


def _class_count(model: Watched, x: Tensor, y: Tensor, device: torch.device) -> int:
    with torch.no_grad():
        classes = int(model(x[:2].to(device)).shape[1])
    if int(y.max()) >= classes or int(y.min()) < 0:
        raise InvalidInput(f"labels go up to {int(y.max())}, but the model has {classes} classes")
    return classes


def _device_of(model: Model) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def _unregistered(model: Model, dataset: str) -> ModelCard:
    """A card for a model that came from Python: named, hashed by its weights where it has any."""
    digest, count = hashlib.sha256(), 0
    if isinstance(model, nn.Module):
        for key, value in sorted(model.state_dict().items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
        count = sum(p.numel() for p in model.parameters())
    name = safe_name(getattr(model, "__name__", type(model).__name__))
    digest.update(name.encode())
    return ModelCard(
        name=name, dataset=dataset, class_count=2, weights_sha256=digest.hexdigest(),
        n_parameters=count,
    )  # fmt: skip


def _merge(
    spec: AttackSpec, parts: Sequence[_Part], before: np.ndarray, version: str
) -> AttackOutcome:
    standing = np.concatenate([p.standing for p in parts])
    total = {key: sum(p.numbers[key] for p in parts) for key in parts[0].numbers}
    return AttackOutcome(
        spec=spec,
        engine=version,
        attacked=int(before.sum()),
        broken=int((before & ~standing).sum()),
        standing=pack_bits(standing),
        adversarial_predictions=pack_ints(np.concatenate([p.predictions for p in parts])),
        largest_perturbation=max(p.numbers["largest"] for p in parts),
        forward_passes=int(total["forward"]),
        backward_passes=int(total["backward"]),
        rejected=int(total["rejected"]),
        seconds=round(total["seconds"], 3),
    )


def _part_bytes(part: _Part) -> bytes:
    buffer = io.BytesIO()
    numbers = np.array(sorted(part.numbers.items()), dtype=[("name", "U16"), ("value", "f8")])
    np.savez(
        buffer,
        standing=part.standing,
        predictions=part.predictions,
        numbers=numbers,
        **{f: getattr(part.proof, f) for f in FIELDS},
    )
    return buffer.getvalue()


def _read_part(path: Path, before: np.ndarray) -> _Part | None:
    """A finished part; None where there is none, or where it is damaged (said, then redone)."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
            proof = Perturbations(*(saved[f] for f in FIELDS))
            numbers = {str(k): float(v) for k, v in saved["numbers"]}
            part = _Part(saved["standing"], saved["predictions"], proof, numbers)
        broken = int((before & ~part.standing).sum())
        if part.standing.shape != before.shape or len(part.predictions) != broken:
            raise ValueError("it does not fit the images standing before it")
        return part
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        log.warning("%s is damaged (%s) and is computed again", path, error)
        return None
