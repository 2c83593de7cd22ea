"""A question: a request with the model and the images that answer it, every value of a call checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.attacks import ENGINE_VERSION
from bench.attacks.problem import Model
from bench.attacks.reference import version as reference_version
from bench.judge import Watched
from bench.measure.audits import refuse_unaudited
from bench.measure.given import (
    check_card,
    check_classes,
    check_layers,
    fitting,
    given,
    misfit,
    whole,
)
from bench.measure.request import Engine, Precision, Request
from bench.measure.shards import Shards
from bench.protocols import protocol as named_protocol
from bench.schema import (
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    Name,
    Protocol,
    Text,
    ThreatModel,
)
from bench.schema.record import AuditSize
from bench.sources.unregistered import Identified, device_of, identified, suited, unregistered


@dataclass(frozen=True)
class Question:
    """A request with the model and the images that answer it."""

    request: Request
    model: Model
    x: Tensor  # (N, C, H, W) float32, on the CPU
    y: Tensor  # (N,)
    device: torch.device
    rows: int  # sent through the model at once
    card: ModelCard
    classes: int
    failure: str | None  # why there is nothing to attack
    notes: dict[str, str]  # what an environment says besides

    def shards(self, folder: Path, until: float = math.inf, *, shared: bool = False) -> Shards:
        """Its shards, whose finished parts lie in a folder."""
        return Shards(
            self.request, self.model, self.x, self.y, self.device, self.rows, folder, until, shared
        )

    def at_once(self, workers: int) -> int:
        """How many processes work on it: on a GPU one."""
        return 1 if self.device.type == "cuda" else workers


def question(
    model: Model,
    x: Any,
    y: Any,
    *,
    threat: str | ThreatModel,
    protocol: str | Protocol,
    seed: int,
    card: ModelCard | None,
    note: str,
    dataset: str,
    split: str,
    engine: Engine,
    precision: Precision,
    audit: AuditSize,
    batch: int | None,
) -> Question:
    """What `measure` is asked, every value checked; raises InvalidInput on a wrong call."""
    threat = ThreatModel.asked(threat)
    for what, kind, value in (
        ("protocol", str | Protocol, protocol), ("card", ModelCard | None, card), ("note", str, note),
        ("dataset", Name, dataset), ("split", Text, split), ("engine", Engine, engine),
        ("precision", Precision, precision), ("audit", AuditSize, audit),
    ):  # fmt: skip
        fitting(what, kind, value)
    batch = None if batch is None else whole(batch, "batch")
    seed = whole(seed, "seed", 0)
    handed = given(x, y)
    x, y = handed.x, handed.y
    if card is not None:
        check_card(card, x)
    device = device_of(model)
    failure, classes = None, None
    try:
        model = suited(model, x, batch)
        classes = _class_count(Watched(model), x, y, device)
        own = Identified(card) if card else identified(model, x, dataset=dataset)
    except MeasurementFailed as error:
        check_layers(model, x)
        fits = misfit(model, x[:2].to(device))
        if fits:
            raise InvalidInput(f"images of {tuple(x.shape[1:])}: {error}{fits}") from None
        failure, own = str(error), Identified(card or unregistered(model, dataset))
    card, classes, note = own.card, classes or own.card.class_count, note or own.note
    if isinstance(protocol, str):
        protocol = named_protocol(protocol, norm=threat.norm, classes=classes)
    refuse_unaudited(protocol, audit)
    rows = batch or default_rows(x, card.n_parameters, engine, device.type)
    request = Request(
        card.weights_sha256, handed.sha256, threat, protocol, seed, engine,
        engine_version(engine, rows), precision, audit,
    )  # fmt: skip
    notes = {k: v for k, v in (("identity", note), ("images", handed.note)) if v}
    return Question(request, model, x, y, device, rows, card, classes, failure, notes)


def default_rows(x: Tensor, n_parameters: int, engine: Engine, device: str = "cpu") -> int:
    """How many rows go through the model at once: state and activations should stay in the cache.

    Depends on nothing that changes between two runs, so that they give the same bits.
    """
    if engine == "reference":  # whose answer depends on it: the same on every device
        return 64 if n_parameters >= 1_000_000 else 256
    if device == "cuda":
        return 512
    if n_parameters >= 1_000_000:
        return 64
    return min(1024, max(64, 2 ** round(math.log2(400_000 / x[0].numel()))))


def engine_version(engine: Engine, batch: int) -> str:
    """What is part of a record's identity: the reference engine's answer depends on the batch."""
    if engine == "ours":
        return ENGINE_VERSION
    return f"{reference_version()}, batch {batch}"


def _class_count(model: Watched, x: Tensor, y: Tensor, device: torch.device) -> int:
    with torch.no_grad():
        classes = int(model(x[:2].to(device)).shape[1])
    check_classes(y, classes)
    return classes
