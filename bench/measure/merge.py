"""The shards of one measurement, run here or in several processes, and merged into one answer.

n images in all; a shard is the places of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from bench import evidence
from bench.attacks import ATTACKS
from bench.evidence import Perturbations
from bench.judge import guarded
from bench.measure import processes
from bench.measure.parts import Part
from bench.measure.shards import Job, attack_version
from bench.reliability.doubts import doubts_of
from bench.schema import (
    AttackOutcome,
    AttackSpec,
    BenchError,
    ColumnOutcome,
    MeasurementFailed,
    OutOfTime,
)
from bench.schema.packing import pack_bits, pack_floats, pack_ints

Report = Callable[[float, str], None]  # (share of the work done, what is known so far)


class Progress:
    """Adds up what the shards report, and says how much can still be standing."""

    def __init__(self, correct: np.ndarray, shards: Sequence[np.ndarray], report: Report) -> None:
        self.clean, self.n = int(correct.sum()), len(correct)
        self.sizes = [len(s) for s in shards]
        self.standing = [int(correct[s].sum()) for s in shards]
        self.shares = [0.0] * len(shards)
        self.report = report

    def update(self, shard: int, share: float, news: tuple[int, str] | None) -> None:
        """One shard has come so far; news is (images standing there, the attack just finished)."""
        self.shares[shard] = share
        if news is not None:
            self.standing[shard] = news[0]
        weights = zip(self.shares, self.sizes, strict=True)
        done = sum(size for share, size in zip(self.shares, self.sizes, strict=True) if share >= 1)
        total = sum(share * size for share, size in weights) / self.n
        text = (
            f"clean {self.clean / self.n:.1%}, at most {sum(self.standing) / self.n:.1%} standing"
        )
        if news is not None:
            text += f" after {news[1]}"
        self.report(total, f"{text}, {done}/{self.n} images done")


def run_shards(
    job: Job, shards: Sequence[np.ndarray], clean: np.ndarray, workers: int, progress: Progress
) -> None:
    """Leaves every part and the doubts on disk.

    The doubts come last: they are short, and fill the time in which a worker would wait for another.
    Raises OutOfTime saying what is missing, or MeasurementFailed.
    """

    def one(number: int, report: Callable[[float, Any], None]) -> None:
        if number == len(shards):
            doubts_of(job)
        else:
            job.run_shard(shards[number], clean[shards[number]], report)

    def observe(number: int, share: float, news: Any) -> None:
        if number < len(shards):
            progress.update(number, share, news)

    guarded(lambda: job.prepared)  # once, before processes are forked
    late: OutOfTime | None = None
    try:
        for _, answer in processes.run_here(one, len(shards) + 1, workers, observe):
            if isinstance(answer, OutOfTime):
                late = answer
            elif isinstance(answer, BenchError):
                raise answer
    except BrokenProcessPool:
        raise MeasurementFailed(
            "a worker process was killed, perhaps for memory; use fewer --workers or a smaller --batch"
        ) from None
    if late is not None:
        steps = [(c, k) for c in job.protocol.columns for k in range(len(c.attacks))]
        wanted = len(shards) * len(steps)
        finished = sum(job.path(s, column, k).exists() for s in shards for column, k in steps)
        raise OutOfTime(
            f"{late}: {finished} of {wanted} shards x attacks are finished and kept, "
            f"{wanted - finished} are missing; the same command goes on from here"
        )


def merged(
    job: Job, shards: Sequence[np.ndarray], clean: np.ndarray
) -> tuple[dict[str, ColumnOutcome], dict[str, Perturbations]]:
    """Each column's outcomes and proof, from the parts on disk."""
    correct = clean == job.y.numpy()
    columns: dict[str, ColumnOutcome] = {}
    proofs: dict[str, Perturbations] = {}
    nearest = np.where(correct, np.inf, 0.0)  # over every column: any of them bounds the curve
    for column in job.protocol.columns:
        before, outcomes, parts = correct, [], []
        for place, spec in enumerate(column.attacks):
            found = [job.part(s, column, place, before[s]) for s in shards]
            after, predictions = before.copy(), np.zeros(len(before), dtype=np.int64)
            for shard, part in zip(shards, found, strict=True):
                after[shard] = part.standing
                predictions[shard[before[shard] & ~part.standing]] = part.predictions
                nearest[shard] = np.minimum(nearest[shard], part.distances)
            version = attack_version(job.engine, spec)
            outcomes.append(_outcome(spec, found, before, after, predictions, version))
            before = after
            parts += found
        columns[column.name] = ColumnOutcome(column_id=column.column_id, outcomes=tuple(outcomes))
        proofs[column.name] = evidence.merge([part.proof for part in parts])
    for column in job.protocol.columns:
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
