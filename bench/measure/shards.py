"""Shards: each shard x attack of a measurement is attacked, judged and kept on disk on its own.

A finished part is on disk before the next one starts, so a killed run continues; parts do not depend
on one another's random numbers, so shards may run in several processes.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.attacks import ATTACKS, ENGINE_VERSION, Problem, Search, attack_cost
from bench.attacks.problem import Model
from bench.attacks.reference import REFERENCE_ATTACKS, reference_attack
from bench.attacks.reference import version as reference_version
from bench.evidence import Perturbations
from bench.judge import Judge, Watched, exact_float32, guarded, is_models
from bench.measure.parts import Part, judged, read, to_bytes
from bench.measure.prepare import Prepared, mixed, prepare, verdict
from bench.measure.sharding import LARGEST, boundary_distance, deal, in_order, shard_count
from bench.records.store import write_atomic
from bench.reliability.checks import left_as_found
from bench.schema import (
    AttackSpec,
    BenchError,
    Column,
    MeasurementFailed,
    OutOfTime,
    Protocol,
    ThreatModel,
)
from bench.streams import Streams

log = logging.getLogger(__name__)
Engine = Literal["ours", "reference"]
Precision = Literal["float32", "mixed"]
AUDITED = 256  # images on which half precision must prove itself in every run


@dataclass
class Job:
    """Everything that decides the parts of a measurement."""

    model: Model
    x: Tensor  # (N, C, H, W) float32, on the CPU
    y: Tensor  # (N,)
    device: torch.device
    threat: ThreatModel
    protocol: Protocol
    seed: int
    engine: Engine
    precision: Precision
    rows: int  # sent through the model at once; for the reference engine, its batch
    folder: Path  # of the finished parts
    deadline: float = math.inf  # time.monotonic()

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.model, batch=LARGEST, passes=self.protocol.passes)

    @cached_property
    def exact(self) -> Prepared:
        """The float32 copy that is searched."""
        if self.protocol.passes > 1:  # a randomised model: no copy, no near calls
            return Prepared(self.model, 0.0, "as it is: randomised")
        return guarded(lambda: prepare(self.model, self.x[:64].to(self.device)))

    @cached_property
    def prepared(self) -> Prepared:
        """What is searched first: `exact`, or its half-precision form where that passed its audit."""
        if self.precision == "float32":
            return self.exact
        x, y = self.x[:AUDITED].to(self.device), self.y[:AUDITED].to(self.device)
        fast = mixed(self.exact, x, y)
        if fast.model is self.exact.model:
            return fast
        spec = AttackSpec(name="pgd", params={"steps": 20})
        exact, half = (int(self._standing(spec, p, x, y).sum()) for p in (self.exact, fast))
        if half - exact > 0.002 * len(y):
            why = f"float32: bfloat16 left {half} of {len(y)} standing, float32 {exact}"
            return Prepared(self.exact.model, self.exact.band, f"{self.exact.notes}; {why}")
        return fast

    def _standing(self, spec: AttackSpec, prepared: Prepared, x: Tensor, y: Tensor) -> Tensor:
        streams = Streams.for_images(x, self.seed, "audit")
        search = Search(rows=self.rows, verdict=_asking(prepared, self.judge, len(y), x.device)[0])
        problem = Problem(prepared.model, x, y, self.threat, streams, search)
        x_adv = ATTACKS[spec.name].function(problem, **spec.params)
        return ~self.judge(x_adv, y).broken

    def clean(self) -> np.ndarray:
        """(N,) predictions on the clean images."""

        def ask(x: Tensor, y: Tensor) -> Tensor:
            return self.judge(x, y).predictions.cpu()

        return self._kept("clean", np.int64, lambda: self._over_images(ask, LARGEST))

    def shards(self) -> list[np.ndarray]:
        """The images of each shard: the same for every call that goes on with this folder.

        In order for the reference engine, whose answer depends on who is in a batch.
        """
        count = shard_count(len(self.y))
        if count == 1 or self.engine == "reference":
            return in_order(len(self.y), count)

        def ask(x: Tensor, y: Tensor) -> np.ndarray:
            return boundary_distance(self.model, x, y, self.threat.norm)

        def hardness() -> np.ndarray:
            with left_as_found(self.model):
                return self._over_images(ask, min(self.rows, LARGEST))

        return deal(self._kept("hardness", np.float64, hardness), count)

    def _over_images(self, ask: Callable[[Tensor, Tensor], Any], batch: int) -> np.ndarray:
        found = []
        for x, y in zip(self.x.split(batch), self.y.split(batch), strict=True):
            self.tick()
            found.append(guarded(partial(ask, x.to(self.device), y.to(self.device))))
        return np.concatenate(found)

    def _kept(self, name: str, dtype: type, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """A number an image (N,), read from disk where it is there."""
        path = self.folder / f"{name}.npy"
        try:
            saved = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
            if saved.shape == (len(self.y),) and saved.dtype == dtype:
                return cast(np.ndarray, saved)
            log.warning("%s does not fit these images and is computed again", path)
        except FileNotFoundError:
            pass
        except (ValueError, EOFError, OSError) as error:
            log.warning("%s is damaged (%s) and is computed again", path, error)
        values = compute()
        buffer = io.BytesIO()
        np.save(buffer, values)
        write_atomic(path, buffer.getvalue())
        return values

    # ------------------------------------------------------------ parts

    def run_shard(
        self, shard: np.ndarray, clean: np.ndarray, report: Callable[[float, Any], None]
    ) -> None:
        """Every column on one shard; what is finished on disk is not done again.

        shard holds the places of its images, clean (shard,) are their predictions unattacked. report is
        told (share of the shard, (images still standing under all columns so far, the attack just
        finished)).
        """
        correct = clean == self.y.numpy()[shard]
        worst, done = correct.copy(), 0.0
        total = sum(attack_cost(a) for c in self.protocol.columns for a in c.attacks)
        for column in self.protocol.columns:
            standing = correct
            for place, spec in enumerate(column.attacks):
                part = self.part(shard, column, place, standing)
                standing = part.standing
                worst &= standing
                done += attack_cost(spec) / total
                report(done, (int(worst.sum()), f"{spec.name} ({column.name})"))

    def part(self, shard: np.ndarray, column: Column, place: int, standing: np.ndarray) -> Part:
        """One attack of a column on one shard, read from disk where it is finished."""
        path = self.path(shard, column, place)
        saved = read(path, standing)
        if saved is None:
            saved = self._attack(shard, column, column.attacks[place], standing)
            write_atomic(path, to_bytes(saved))
        return saved

    def path(self, shard: np.ndarray, column: Column, place: int) -> Path:
        """Where a part is kept: named by its images, so that another layout has other parts."""
        images = hashlib.sha256(shard.astype("<i8").tobytes()).hexdigest()[:12]
        return self.folder / f"{images}-{column.column_id}-{place}.npz"

    def tick(self) -> None:
        """Raises OutOfTime once the deadline is over."""
        if time.monotonic() > self.deadline:
            raise OutOfTime("the time allowed is over")

    def _attack(
        self, shard: np.ndarray, column: Column, spec: AttackSpec, standing: np.ndarray
    ) -> Part:
        self.tick()
        started = time.monotonic()
        numbers = {"largest": 0.0, "rejected": 0.0, "uint8": 0.0, "forward": 0, "backward": 0}
        predictions = np.full(len(standing), -1, dtype=np.int64)
        distances = np.full(len(standing), np.inf)
        places, proofs = np.flatnonzero(standing), []
        by_batch = self.engine == "reference" and spec.name in REFERENCE_ATTACKS
        size = self.rows if by_batch else max(len(places), 1)
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            index = torch.from_numpy(shard[chosen])
            x, y = self.x[index].to(self.device), self.y[index].to(self.device)
            x_adv = self._adversarial(spec, column, x, y, numbers)
            found = judged(
                self.judge, self.threat, self.protocol, x, y, x_adv, shard[chosen], numbers
            )
            proofs.append(found.proof)
            predictions[chosen], distances[chosen] = found.classes, found.distances
        numbers["seconds"] = time.monotonic() - started
        return Part(
            standing & (predictions < 0),
            predictions[predictions >= 0],
            distances,
            evidence.merge(proofs or [Perturbations.none(tuple(self.x.shape[1:]))]),
            numbers,
        )

    def _adversarial(
        self, spec: AttackSpec, column: Column, x: Tensor, y: Tensor, numbers: dict[str, float]
    ) -> Tensor:
        """(B, C, H, W) what the attack offers; passes are added to the numbers."""
        if self.engine == "reference" and spec.name in REFERENCE_ATTACKS:
            watched = Watched(self.model)
            x_adv = _attempt(
                spec, lambda: reference_attack(spec, watched, x, y, self.threat, seed=self.seed)
            )
            _count(watched, numbers)
            return x_adv
        prepared = self.prepared
        if ATTACKS[
            spec.name
        ].minimum_norm:  # its points lie on the very boundary of the untouched model
            prepared = Prepared(self.model, 0.0, "as it is")
        x_adv, near = self._search(spec, column, prepared, x, y, numbers)
        # Half precision came near without breaking these: float32 looks once more.
        again = near & (x_adv == x).flatten(1).all(1)
        if prepared.model is self.prepared.model is not self.exact.model and bool(again.any()):
            x_adv[again], _ = self._search(spec, column, self.exact, x[again], y[again], numbers)
        return x_adv

    def _search(
        self,
        spec: AttackSpec,
        column: Column,
        prepared: Prepared,
        x: Tensor,
        y: Tensor,
        numbers: dict[str, float],
    ) -> tuple[Tensor, Tensor]:
        watched = Watched(prepared.model)
        streams = Streams.for_images(x, self.seed, column.column_id).at(spec.name)
        ask, near = _asking(prepared, self.judge, len(y), x.device)
        search = Search(rows=self.rows, verdict=ask, tick=self.tick)
        problem = Problem(watched, x, y, self.threat, streams, search)
        x_adv = _attempt(spec, lambda: ATTACKS[spec.name].function(problem, **spec.params))
        _count(watched, numbers)
        return x_adv, near


def _asking(
    prepared: Prepared, judge: Judge, images: int, device: torch.device
) -> tuple[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], Tensor]:
    near = torch.zeros(images, dtype=torch.bool, device=device)
    return verdict(prepared, judge, near), near


def _count(watched: Watched, numbers: dict[str, float]) -> None:
    forward, backward = watched.take_counts()
    numbers["forward"] += forward
    numbers["backward"] += backward


def _attempt(spec: AttackSpec, attack: Callable[[], Tensor]) -> Tensor:
    try:
        with exact_float32():
            return attack()
    except BenchError:
        raise
    except BaseException as error:  # a crashed attack is a failed record, never a robust image
        if not is_models(error):
            raise
        raise MeasurementFailed(f"{spec.name} raised {type(error).__name__}: {error}") from error


def attack_version(engine: Engine, spec: AttackSpec) -> str:
    """Which implementation runs an attack under an engine."""
    if engine == "reference" and spec.name in REFERENCE_ATTACKS:
        return reference_version()
    return f"ours {ENGINE_VERSION}"
