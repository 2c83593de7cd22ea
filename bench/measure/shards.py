"""Shards: each shard x attack of a measurement is attacked, judged and kept on disk on its own.

A finished part is on disk before the next one starts, so a killed run continues; parts do not depend
on one another's random numbers, so shards may run in several processes. N images in all.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.as_found import exact_float32, left_as_found
from bench.attacks import ATTACKS, Problem, Search, attack_cost
from bench.attacks.losses import margin
from bench.attacks.problem import Model, frozen, gradient
from bench.attacks.reference import REFERENCE_ATTACKS, reference_attack
from bench.evidence import Perturbations
from bench.judge import Judge, Watched, ask, guarded, is_models
from bench.measure.clean_logits import difference, steady_logits
from bench.measure.parts import (
    Part,
    array_bytes,
    from_bytes,
    judged,
    kept,
    sealed,
    to_bytes,
    unsealed,
)
from bench.measure.request import Request
from bench.measure.search import Prepared, mixed, prepare, verdict
from bench.records.npz import UNREADABLE
from bench.records.store import write_atomic
from bench.schema import (
    AttackSpec,
    BenchError,
    Column,
    InvalidInput,
    MeasurementFailed,
    OutOfTime,
)
from bench.streams import Streams

log = logging.getLogger(__name__)
LARGEST = 256  # images of a shard, the unit of resuming
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}  # order of the norm that measures gradients
AUDITED = 256  # images on which half precision must prove itself in every run


@dataclass
class Shards:
    """A request with what answers it, and the folder of its finished parts."""

    request: Request
    model: Model
    x: Tensor  # (N, C, H, W) float32, on the CPU
    y: Tensor  # (N,)
    device: torch.device
    rows: int  # sent through the model at once; for the reference engine, its batch
    folder: Path
    deadline: float = math.inf  # time.monotonic()
    shared: bool = False  # the folder is others' too: what another model left there is not removed

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.model, batch=LARGEST, passes=self.request.protocol.passes)

    @cached_property
    def exact(self) -> Prepared:
        """The float32 copy that is searched."""
        if self.request.protocol.passes > 1:  # a randomised model: no copy, no near calls
            return Prepared(self.model, 0.0, "as it is: randomised")
        return guarded(lambda: prepare(self.model, self.x[:64].to(self.device)))

    @cached_property
    def prepared(self) -> Prepared:
        """What is searched first: `exact`, or its half-precision form where that passed its audit."""
        if self.request.precision == "float32":
            return self.exact
        x, y = self._images(slice(AUDITED))
        fast = mixed(self.exact, x, y)
        if fast.model is self.exact.model:
            return fast
        spec = AttackSpec(name="pgd", params={"steps": 20})
        streams = Streams.for_images(x, self.request.seed, "audit")

        def standing(prepared: Prepared) -> int:
            x_adv, _ = self._search(spec, prepared, x, y, streams, defaultdict(float))
            return int((~self.judge(x_adv, y).broken).sum())

        exact, half = standing(self.exact), standing(fast)
        if half - exact > 0.002 * len(y):
            why = f"float32: bfloat16 left {half} of {len(y)} standing, float32 {exact}"
            return Prepared(self.exact.model, self.exact.band, f"{self.exact.notes}; {why}")
        return fast

    def own_logits(self) -> np.ndarray | None:
        """The logits of the first images; from here on the folder holds parts of this model alone.

        Parts that another model left are removed, and that is said; in a shared folder InvalidInput
        says it. None for a randomised model, whose parts stay. Raises MeasurementFailed where the model
        raises.
        """
        if self.request.protocol.passes > 1:
            return None
        now = steady_logits(self.model, self.x, self.device)
        if now is None:
            return None
        path, found = self.folder / "logits.npy", ""
        if os.path.lexists(path):
            try:
                before = _array(unsealed(path))
                found = difference(before, now)
                now = now if found else before
            except UNREADABLE as error:
                found = (
                    f"{path} is damaged ({error}), so that they cannot be told from another model's"
                )
        if found and self.shared:
            raise InvalidInput(
                f"the parts in {self.folder} are another model's: {found}. Remove that folder, or name "
                "another one with --parts"
            )
        if found:
            log.warning("the parts in %s are not used: %s", self.folder, found)
            shutil.rmtree(self.folder)
        if not path.exists():
            write_atomic(path, sealed(path, array_bytes(now)))
        return now

    def clean(self) -> np.ndarray:
        """(N,) predictions on the clean images."""

        def ask(x: Tensor, y: Tensor) -> Tensor:
            return self.judge(x, y).predictions.cpu()

        return self._an_image("clean", np.int64, ask, LARGEST)

    def layout(self) -> list[np.ndarray]:
        """The images of each shard: the same for every call that goes on with this folder.

        Of at most 256 images; at least two shards, so that two processes have work. On few images
        more would cost more than they balance: on a ResNet-18 an image alone takes 1.7 times the time
        of one in a batch of 32. In order for the reference engine, whose answer depends on who is in
        a batch.
        """
        n = len(self.y)
        count = shard_count(n)
        if count == 1 or self.request.engine == "reference":
            return in_order(n, count)

        def ask(x: Tensor, y: Tensor) -> np.ndarray:
            with left_as_found(self.model):
                return boundary_distance(self.model, x, y, self.request.threat.norm)

        return deal(self._an_image("hardness", np.float64, ask, min(self.rows, LARGEST)), count)

    def _images(self, which: Any) -> tuple[Tensor, Tensor]:
        return self.x[which].to(self.device), self.y[which].to(self.device)

    def _an_image(self, name: str, dtype: type, ask: Callable[..., Any], batch: int) -> np.ndarray:
        """A number an image (N,) that `ask` answers of a batch, read from disk where it is there."""

        def read(raw: bytes) -> np.ndarray:
            saved = _array(raw)
            if saved.shape != (len(self.y),) or saved.dtype != dtype:
                raise ValueError("it does not fit these images")
            return saved

        def compute() -> np.ndarray:
            found = []
            for first in range(0, len(self.y), batch):
                self.tick()
                found.append(guarded(partial(ask, *self._images(slice(first, first + batch)))))
            return np.concatenate(found)

        return kept(self.folder / f"{name}.npy", read, compute, array_bytes)

    # ------------------------------------------------------------ parts

    def run(
        self,
        shard: np.ndarray,
        correct: np.ndarray,
        report: Callable[[float, Any], None] = lambda share, news: None,
        columns: Sequence[Column] | None = None,
    ) -> tuple[np.ndarray, int]:
        """Every column on one shard; what is finished on disk is not done again.

        shard holds the places of its images, correct (shard,) says which are right unattacked; columns
        are those of the protocol where others are not given. report is told (share of the shard,
        (images still standing under all columns so far, the attack just finished)). Returns (shard,)
        bool, standing under all columns, and the passes of the attacks.
        """
        worst, standing, done, passes = correct.copy(), correct, 0.0, 0
        steps = self.steps(columns)
        total = sum(attack_cost(spec) for _, _, spec in steps)
        for column, place, spec in steps:
            part = self.part(shard, column, place, standing if place else correct)
            standing = part.standing
            worst &= standing
            passes += int(part.numbers["forward"] + part.numbers["backward"])
            done += attack_cost(spec) / total
            report(done, (int(worst.sum()), f"{spec.name} ({column.name})"))
        return worst, passes

    def steps(
        self, columns: Sequence[Column] | None = None
    ) -> list[tuple[Column, int, AttackSpec]]:
        """Every attack of columns, or of the protocol's: its column, its place there, what it is."""
        asked = self.request.protocol.columns if columns is None else columns
        return [(c, place, spec) for c in asked for place, spec in enumerate(c.attacks)]

    def part(self, shard: np.ndarray, column: Column, place: int, standing: np.ndarray) -> Part:
        """One attack of a column on one shard, read from disk where it is finished."""
        return kept(
            self.path(shard, column, place),
            lambda raw: from_bytes(raw, standing),
            lambda: self._attack(shard, column, column.attacks[place], standing),
            to_bytes,
        )

    def paths(self, shard: np.ndarray) -> list[Path]:
        """Where the parts of a shard are kept, once they are finished."""
        return [self.path(shard, column, place) for column, place, _ in self.steps()]

    def path(self, shard: np.ndarray, column: Column, place: int) -> Path:
        """Named by its images, so that another layout has other parts."""
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
        published = self.request.engine == "reference" and spec.name in REFERENCE_ATTACKS
        size = self.rows if published else max(len(places), 1)
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            x, y = self._images(torch.from_numpy(shard[chosen]))
            offer = self._published if published else self._ours
            x_adv = offer(spec, column, x, y, numbers)
            proof, predictions[chosen], distances[chosen] = judged(
                self.judge, self.request, x, y, x_adv, shard[chosen], numbers
            )
            proofs.append(proof)
        numbers["seconds"] = time.monotonic() - started
        return Part(
            standing & (predictions < 0),
            predictions[predictions >= 0],
            distances,
            evidence.merge(proofs or [Perturbations.none(tuple(self.x.shape[1:]))]),
            numbers,
        )

    def _published(
        self, spec: AttackSpec, column: Column, x: Tensor, y: Tensor, numbers: dict[str, float]
    ) -> Tensor:
        def attack(model: Model) -> Tensor:
            return reference_attack(spec, model, x, y, self.request.threat, seed=self.request.seed)

        return _offered(spec, self.model, attack, numbers)

    def _ours(
        self, spec: AttackSpec, column: Column, x: Tensor, y: Tensor, numbers: dict[str, float]
    ) -> Tensor:
        streams = Streams.for_images(x, self.request.seed, column.column_id).at(spec.name)
        if ATTACKS[spec.name].minimum_norm:
            # Its points lie on the very boundary of the untouched model.
            untouched = Prepared(self.model, 0.0, "as it is")
            return self._search(spec, untouched, x, y, streams, numbers)[0]
        x_adv, near = self._search(spec, self.prepared, x, y, streams, numbers)
        # Half precision came near without breaking these: float32 looks once more.
        again = near & (x_adv == x).flatten(1).all(1)
        if self.prepared.model is not self.exact.model and bool(again.any()):
            x_adv[again] = self._search(
                spec, self.exact, x[again], y[again], streams[again], numbers
            )[0]
        return x_adv

    def _search(
        self,
        spec: AttackSpec,
        prepared: Prepared,
        x: Tensor,
        y: Tensor,
        streams: Streams,
        numbers: dict[str, float],
    ) -> tuple[Tensor, Tensor]:
        """What an attack finds; (B,) bool where it came near without breaking the image."""
        near = torch.zeros(len(y), dtype=torch.bool, device=x.device)
        search = Search(rows=self.rows, verdict=verdict(prepared, self.judge, near), tick=self.tick)

        def attack(model: Model) -> Tensor:
            problem = Problem(model, x, y, self.request.threat, streams, search)
            return ATTACKS[spec.name].function(problem, **spec.params)

        return _offered(spec, prepared.model, attack, numbers), near


def _offered(
    spec: AttackSpec, model: Model, attack: Callable[[Model], Tensor], numbers: dict[str, float]
) -> Tensor:
    """What an attack answers on a model; a crash is a failed record, never a robust image."""
    watched = Watched(model)
    try:
        with exact_float32():
            x_adv = attack(watched)
    except BenchError:
        raise
    except BaseException as error:
        if not is_models(error):
            raise
        raise MeasurementFailed(f"{spec.name} raised {type(error).__name__}: {error}") from error
    numbers["forward"] += watched.forward_passes
    numbers["backward"] += watched.backward_passes
    return x_adv


def _array(raw: bytes) -> np.ndarray:
    found: np.ndarray = np.load(io.BytesIO(raw), allow_pickle=False)
    return found


# ---------------------------------------------------------------- dealing

# An image that is broken early costs next to nothing, one that stays robust nearly everything. Images
# are therefore ranked by how far they seem to lie from the decision boundary and dealt like cards: as
# many hard ones in each shard. The answer does not depend on it: random numbers belong to an image.


def shard_count(n: int) -> int:
    """How many shards n images make, a function of n alone."""
    return max(math.ceil(n / LARGEST), 2 if n >= 16 else 1)


def deal(hardness: np.ndarray, count: int) -> list[np.ndarray]:
    """The images (N,) of each of `count` shards, ascending; sizes differ by at most one.

    The hardest go to shards 0, 1 … count - 1, the next ones back again, and so on.
    """
    rank = np.empty(len(hardness), dtype=np.int64)
    rank[np.argsort(-hardness, kind="stable")] = np.arange(len(hardness))
    turn, place = np.divmod(rank, count)
    shard = np.where(turn % 2 == 0, place, count - 1 - place)
    return [np.flatnonzero(shard == number) for number in range(count)]


def in_order(n: int, count: int) -> list[np.ndarray]:
    """n images cut into `count` equal runs of neighbours."""
    ends = [round(n * k / count) for k in range(count + 1)]
    return [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]


def boundary_distance(model: Model, x: Tensor, y: Tensor, norm: str) -> np.ndarray:
    """(B,) distance to the decision boundary to first order, |margin| / ||gradient||; 0 where wrong.

    x (B, C, H, W) in [0, 1]; norm is that of the distance. Where a model has no gradient the margin
    alone says what it can.
    """
    z, grad = x.detach().requires_grad_(True), None
    with frozen(model), exact_float32():
        try:
            with torch.enable_grad():
                gap = -margin(ask(model, z).float(), y)
                grad = gradient(gap.sum(), z)
        except (RuntimeError, MeasurementFailed):  # it answers without gradients alone
            with torch.no_grad():
                gap = -margin(ask(model, x).float(), y)
    slope = torch.ones_like(gap) if grad is None else grad.flatten(1).norm(p=_DUAL[norm], dim=1)
    far = gap.detach().clamp_min(0) / slope.clamp_min(1e-30)
    return far.nan_to_num().double().cpu().numpy()
