"""The shards of one measurement, run here or in several processes, and merged into one answer.

n images in all; a shard is the places of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench import evidence
from bench.attacks import ATTACKS
from bench.evidence import Perturbations
from bench.judge import guarded
from bench.measure import processes
from bench.measure.parts import Part
from bench.measure.shards import Job, attack_version
from bench.reliability.probes import doubts_of
from bench.schema import AttackOutcome, AttackSpec, ColumnOutcome, OutOfTime
from bench.schema.packing import pack_bits, pack_floats, pack_ints

Report = Callable[[float, str], None]  # (share of the work done, what is known so far)


def run_shards(
    job: Job, shards: Sequence[np.ndarray], clean: np.ndarray, workers: int, report: Report
) -> None:
    """Leaves every part and the doubts on disk; report is told how much can still be standing.

    The doubts come last: they are short, and fill the time in which a worker would wait for another.
    Raises OutOfTime saying what is missing, or MeasurementFailed.
    """
    correct, n = clean == job.y.numpy(), len(clean)
    standing, shares = [int(correct[s].sum()) for s in shards], [0.0] * len(shards)

    def one(number: int, told: Callable[[float, Any], None]) -> None:
        if number == len(shards):
            doubts_of(job)
        else:
            job.run_shard(shards[number], clean[shards[number]], told)

    def observe(number: int, share: float, news: tuple[int, str] | None) -> None:
        if number == len(shards):
            return
        shares[number] = share
        after = ""
        if news is not None:
            standing[number], after = news[0], f" after {news[1]}"
        sizes = [len(shard) for shard in shards]
        done = sum(size for share, size in zip(shares, sizes, strict=True) if share >= 1)
        report(
            float(np.dot(shares, sizes)) / n,
            f"clean {correct.sum() / n:.1%}, at most {sum(standing) / n:.1%} standing{after}, "
            f"{done}/{n} images done",
        )

    guarded(lambda: job.prepared)  # once, before processes are forked
    try:
        processes.run_here(one, len(shards) + 1, workers, observe)
    except OutOfTime as late:
        parts = [job.path(s, column, k) for s in shards for column, k, _ in job.steps()]
        finished = sum(part.exists() for part in parts)
        raise OutOfTime(
            f"{late}: {finished} of {len(parts)} shards x attacks are finished and kept, "
            f"{len(parts) - finished} are missing; the same command goes on from here"
        ) from None


def merged(
    job: Job, shards: Sequence[np.ndarray], clean: np.ndarray
) -> tuple[dict[str, ColumnOutcome], dict[str, Perturbations]]:
    """Each column's outcomes and proof, from the parts on disk."""
    correct = clean == job.y.numpy()
    columns: dict[str, ColumnOutcome] = {}
    proofs: dict[str, Perturbations] = {}
    nearest = np.where(correct, np.inf, 0.0)  # over every column: any of them bounds the curve
    for column in job.request.protocol.columns:
        before, outcomes, parts = correct, [], []
        for place, spec in enumerate(column.attacks):
            found = [job.part(s, column, place, before[s]) for s in shards]
            after, predictions = before.copy(), np.zeros(len(before), dtype=np.int64)
            for shard, part in zip(shards, found, strict=True):
                after[shard] = part.standing
                predictions[shard[before[shard] & ~part.standing]] = part.predictions
                nearest[shard] = np.minimum(nearest[shard], part.distances)
            version = attack_version(job.request.engine, spec)
            outcomes.append(_outcome(spec, found, before, after, predictions, version))
            before = after
            parts += found
        columns[column.name] = ColumnOutcome(column_id=column.column_id, outcomes=tuple(outcomes))
        proofs[column.name] = evidence.merge([part.proof for part in parts])
    for column in job.request.protocol.columns:
        if any(ATTACKS[spec.name].minimum_norm for spec in column.attacks):
            columns[column.name] = columns[column.name].model_copy(
                update={"distances": pack_floats(_not_above(nearest))}
            )
    return columns, proofs


def _outcome(
    spec: AttackSpec,
    parts: Sequence[Part],
    before: np.ndarray,  # (n,) bool
    after: np.ndarray,
    predictions: np.ndarray,  # (n,) class of the images it broke
    version: str,
) -> AttackOutcome:
    total = {key: sum(p.numbers[key] for p in parts) for key in parts[0].numbers}
    broken = before & ~after
    return AttackOutcome(
        spec=spec,
        engine=version,
        attacked=int(before.sum()),
        broken=int(broken.sum()),
        standing=pack_bits(after),
        adversarial_predictions=pack_ints(predictions[broken]),
        largest_perturbation=max(p.numbers["largest"] for p in parts),
        forward_passes=int(total["forward"]),
        backward_passes=int(total["backward"]),
        rejected=int(total["rejected"]),
        uint8_survivors=int(total["uint8"]),
        seconds=round(total["seconds"], 3),
    )


def _not_above(values: np.ndarray) -> np.ndarray:
    """float32 at most the float64 given: rounding up could lift a point out of its own ball."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(0)), near)
