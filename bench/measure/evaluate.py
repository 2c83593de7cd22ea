"""evaluate(): model, images, threat, protocol -> an EvaluationRecord and its evidence.

Every column starts from all clean-correct images. Inside a column the attacks run one after another on
the images still standing; each claimed example is judged by the untouched float32 model.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from bench import evidence
from bench.as_found import leaving_undisturbed
from bench.attacks.problem import Model
from bench.judge import guarded
from bench.measure import processes
from bench.measure.audits import Audits, Columns, Proofs, share_of_cost
from bench.measure.given import fitting, whole
from bench.measure.parts import alone, discard, merged, parts_folder
from bench.measure.processes import Report
from bench.measure.question import question
from bench.measure.request import Engine, Precision, Request
from bench.measure.shards import Shards
from bench.records.one_read import sha256_of_bytes
from bench.records.store import now
from bench.reliability.flags import answer_findings, column_findings, finding, masked, raised
from bench.reliability.probes import doubts_of
from bench.schema import (
    ConflictingRecord,
    EvaluationRecord,
    Flag,
    MeasurementFailed,
    ModelCard,
    OutOfTime,
    Protocol,
    Scalar,
    ThreatModel,
)
from bench.schema.packing import pack_ints
from bench.schema.record import AuditSize

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Measurement:
    """A record together with the evidence file that its hash names."""

    record: EvaluationRecord
    evidence: bytes
    # Of an audit of every standing image: AutoAttack alone on all images, kept first.
    plain: Measurement | None = None

    @property
    def all(self) -> tuple[Measurement, ...]:
        """What is kept, in that order."""
        return (*([self.plain] if self.plain else []), self)


def evaluate(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    threat: str | ThreatModel,
    protocol: str | Protocol = "standard",
    seed: int = 0,
    **details: Any,
) -> EvaluationRecord:
    """Measures any callable that maps images (B, C, H, W) in [0, 1] to logits (B, K).

    x (N, C, H, W) is uint8 or float in [0, 1], y (N,) are class numbers: tensors, arrays or lists of
    them, or x is a DataLoader or Dataset of both; threat such as "linf:8/255".
    Further arguments are those of `measure`. A model that raises or does not return logits gives a
    record whose `failure` says why. Raises InvalidInput on a wrong call.
    """
    return measure(model, x, y, threat=threat, protocol=protocol, seed=seed, **details).record


@leaving_undisturbed
def measure(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    threat: str | ThreatModel,
    protocol: str | Protocol = "standard",
    seed: int = 0,
    card: ModelCard | None = None,
    note: str = "",
    dataset: str = "unnamed",
    split: str = "",
    engine: Engine = "ours",
    precision: Precision = "float32",
    audit: AuditSize = "sample",
    batch: int | None = None,
    workers: int = 1,
    max_seconds: float | None = None,
    work: Path | None = None,
    report: Report | None = None,
    keep: Callable[[Measurement], object] | None = None,
) -> Measurement:
    """As evaluate(), with evidence.

    card None: the model is named and hashed as it is. note says what the hash of a given card leaves
    out. engine says whose AutoAttack runs: ours, or the published one. precision "mixed" searches in
    bfloat16 where that is safe, and never judges in it. audit says how much of what an audited column
    leaves standing is attacked again: a sample, all of it (which measures AutoAttack alone too, as
    `plain`), or none. batch is how many images (rows of image and
    target) go through the model at once, everywhere at most; a model that takes exactly so many gets
    so many. Model, random states and settings are left as they were. workers are processes, one thread
    each, over shards; on a GPU there is one. `work` is a folder for finished parts: a second call
    resumes, unless another model left them. After max_seconds OutOfTime is raised, and what is finished
    stays in `work`. `report` is told of progress. `keep` writes the measurement down: the parts are
    deleted after it, and stay where it raises OSError. Raises InvalidInput where another process
    measures the same in `work`.
    """
    started = time.monotonic()
    max_seconds = fitting("max_seconds", Seconds | None, max_seconds)
    for what, kind, value in (
        ("work", str | Path | None, work), ("report", Callable | None, report),
        ("keep", Callable | None, keep),
    ):  # fmt: skip
        fitting(what, kind, value)  # before anything is measured
    workers = whole(workers, "workers")
    asked = question(
        model, x, y, threat=threat, protocol=protocol, seed=seed, card=card, note=note,
        dataset=dataset, split=split, engine=engine, precision=precision, audit=audit, batch=batch,
    )  # fmt: skip
    card, request, failure = asked.card, asked.request, asked.failure
    found, searched = [Answer(request, {}, evidence.to_bytes({}))], ""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()) if work is None else work)
        folder = parts_folder(folder, request.id, card)
        held.enter_context(alone(folder, card))
        try:
            if failure is None:
                until = math.inf if max_seconds is None else started + max_seconds
                shards = asked.shards(folder, until)
                found = _answers(
                    shards, asked.classes, asked.at_once(workers), report or (lambda *news: None)
                )
                searched = shards.prepared.notes
        except MeasurementFailed as error:
            failure = str(error)
        about: dict[str, Any] = {
            "card": card, "dataset": dataset, "split": split, "n": len(asked.y),
            "failure": failure and failure[:2000], "created": now(),
            "seconds": round(time.monotonic() - started, 3),
            "environment": environment(asked.device, asked.rows, workers, searched) | asked.notes,
        }  # fmt: skip
        measured = None
        for answer in reversed(found):
            id, said = answer.request.id, answer.request.recorded()
            record = EvaluationRecord(id=id, **about, **said, **answer.said)
            measured = Measurement(record, answer.evidence, measured)
        assert measured is not None
        try:
            for each in measured.all:
                if keep is not None:
                    keep(each)
        except ConflictingRecord:  # written down too, as refused: the same parts would be again
            discard(folder)
            raise
        discard(folder)
    return measured


@dataclass(frozen=True)
class Answer:
    """What a record says of the images, and the evidence for it."""

    request: Request
    said: dict[str, Any]
    evidence: bytes


def _answers(shards: Shards, classes: int, workers: int, report: Report) -> list[Answer]:
    """The answer to the request of the shards, then that of AutoAttack alone where all is audited."""
    logits = shards.own_logits()
    clean, layout, y = shards.clean(), shards.layout(), shards.y.numpy()
    correct = clean == y

    def answer(of: Shards, columns: Columns, proofs: Proofs) -> Answer:
        raw = evidence.to_bytes(proofs, logits=logits)
        said = {"labels": pack_ints(y), "clean_predictions": pack_ints(clean), "columns": columns}
        flags = _flags(of, clean, columns, classes)
        return Answer(
            of.request, said | {"flags": flags, "evidence_sha256": sha256_of_bytes(raw)}, raw
        )

    search = 1 - share_of_cost(shards.request.protocol, int(correct.sum()))
    _run(shards, layout, correct, workers, lambda share, text: report(search * share, text))
    columns, proofs = merged(shards.request, layout, correct, shards.part)
    audits = Audits(
        shards, correct, workers,
        lambda share, why: report(search + (1 - search) * share, f"{why}: {share:.0%}"),
    )  # fmt: skip
    doubts = masked(_flags(shards, clean, columns, classes))
    columns, proofs = audits.completed(columns, proofs, doubts)
    plain = audits.plain(columns) if shards.request.audit == "all" else None
    return [answer(shards, columns, proofs), *([answer(*plain)] if plain else [])]


def _flags(shards: Shards, clean: np.ndarray, columns: Columns, classes: int) -> tuple[Flag, ...]:
    """What is to be doubted of the columns; clean (n,) are the classes of the clean images."""
    y = shards.y.numpy()
    chance: dict[str, Scalar] = {"clean": int((clean == y).sum()), "n": len(y), "classes": classes}
    findings = [
        *doubts_of(shards),
        finding("chance-level", chance),
        *column_findings(columns, len(y)),
        *answer_findings(y, clean),
    ]
    return tuple(raised(findings))


def _run(
    shards: Shards, layout: Sequence[np.ndarray], correct: np.ndarray, workers: int, report: Report
) -> None:
    """Leaves every part and the doubts on disk; report is told how much can still be standing.

    The doubts come last: they are short, and fill the time in which a worker would wait for another.
    Raises OutOfTime saying what is missing, or MeasurementFailed.
    """
    sizes, n = [len(shard) for shard in layout], len(correct)
    standing, shares = [int(correct[s].sum()) for s in layout], [0.0] * len(layout)

    def one(number: int, told: Callable[[float, Any], None]) -> None:
        if number == len(layout):
            doubts_of(shards)
        else:
            shards.run(layout[number], correct[layout[number]], told)

    def observe(number: int, share: float, news: tuple[int, str] | None) -> None:
        if number == len(layout):
            return
        shares[number] = share
        after = ""
        if news is not None:
            standing[number], after = news[0], f" after {news[1]}"
        done = sum(size for share, size in zip(shares, sizes, strict=True) if share >= 1)
        report(
            float(np.dot(shares, sizes)) / n,
            f"clean {correct.sum() / n:.1%}, at most {sum(standing) / n:.1%} standing{after}, "
            f"{done}/{n} images done",
        )

    guarded(lambda: shards.prepared)  # once, before processes are forked
    try:
        processes.run_here(one, len(layout) + 1, workers, observe)
    except OutOfTime as late:
        parts = [part for shard in layout for part in shards.paths(shard)]
        finished = sum(part.exists() for part in parts)
        raise OutOfTime(
            f"{late}: {finished} of {len(parts)} shards x attacks are finished and kept, "
            f"{len(parts) - finished} are missing; the same command goes on from here"
        ) from None


def environment(
    device: torch.device, batch: int, workers: int = 1, notes: str = ""
) -> dict[str, str]:
    """What the numbers were computed with; not part of what makes two records identical."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": gpu or f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "batch": str(batch),
        "workers": str(workers),
        "searched": notes,
    }
