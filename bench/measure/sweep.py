"""Evaluates many checkpoints: finds those not measured yet, measures, keeps record and evidence."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bench import datasets, verify
from bench.attacks.problem import Model
from bench.catalogue import DATASETS, dataset_info
from bench.cli import watch
from bench.judge import Judge, guarded
from bench.measure import estimate, evaluate, keeping, parts, processes
from bench.measure import question as questions
from bench.measure.audits import refuse_unaudited
from bench.measure.keeping import keep as keep
from bench.measure.question import default_rows, engine_version
from bench.measure.request import Engine, Precision, Request
from bench.protocols import protocol as named_protocol
from bench.records import cards, proven, store
from bench.schema import (
    BenchError,
    EvaluationRecord,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    Protocol,
    ThreatModel,
)
from bench.schema.record import AuditSize
from bench.sources import checkpoint, opening, zoo
from bench.sources.opening import Source
from bench.sources.python_file import OwnModel

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """One model under one threat and protocol."""

    source: Source
    dataset: str  # as `datasets.load` takes it
    dataset_name: str
    threat: ThreatModel
    protocol: str
    device: str
    split: str = "test"
    n: int | None = None  # None: all on a GPU, at most 1,000 on a CPU
    seed: int = 0
    engine: Engine = "ours"
    precision: Precision = "float32"
    audit: AuditSize = "sample"
    batch: int | None = None  # None: chosen by the model and the images
    out: Path = Path("results")
    work: Path | None = Path("var/work")
    again: bool = False
    max_seconds: float | None = None
    workers: int = 1  # processes over the shards of this job

    def folder(self, card: ModelCard) -> Path:
        """Where its record lies."""
        return self.out / self.dataset_name / self.threat.folder / card.name


@dataclass(frozen=True)
class Outcome:
    """Where a job's record is, and whether it was measured now."""

    record: EvaluationRecord
    path: Path
    measured: bool
    job: Job | None = None  # whose it is, where it was a job's


def pick_device(name: str) -> str:
    """`auto` is the GPU where there is one. Raises InvalidInput for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidInput(f"device must be auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("no CUDA device is visible; use --device cpu")
    return name


def make_job(
    source: Source,
    *,
    dataset: str | None = None,
    dataset_name: str | None = None,
    threat: str | None = None,
    protocol: str = "standard",
    device: str = "auto",
    **more: Any,
) -> Job:
    """Fills what was not said from the card and the data set's defaults; `more` are fields of Job.

    A zoo model is measured under the threat of its leaderboard, whatever the data set's default.
    """
    card = opening.read_card(source)
    dataset = dataset or card.dataset
    split = more.get("split", "test")
    name = dataset_name or _name_of(dataset, split, card)
    known = DATASETS.get(name) or DATASETS.get(card.dataset)
    if threat is None and isinstance(source, zoo.Entry) and source.ranked_under:
        threat = str(source.ranked_under)
    trained = card.threat or (card.train.threat if card.train else None)
    if threat is None and known is None and trained is None:
        raise InvalidInput(f"no default threat is known for {name}: give --threat linf:8/255")
    chosen = ThreatModel.asked(threat or (known.default_threat if known else str(trained)))
    job = Job(source, dataset, name, chosen, protocol, pick_device(device), **more)
    if job.batch is not None and job.batch < 1:
        raise InvalidInput(f"--batch must be at least 1, got {job.batch}")
    asked = named_protocol(protocol, norm=chosen.norm, classes=card.class_count)
    refuse_unaudited(asked, job.audit)
    return job


def _name_of(dataset: str, split: str, card: ModelCard) -> str:
    """What records call a data set: its name, or that of the images the model was trained on.

    Raises InvalidInput for a folder that holds others, and where the card's own images are not given.
    """
    own = card.train.own if card.train else None
    if ":" not in dataset:
        if own and dataset == card.dataset:
            raise InvalidInput(
                f"{card.name} was trained on images of one's own, {dataset}: say where they lie with "
                "--dataset FORM:FOLDER, as for training"
            )
        return dataset
    if own is None:
        raise InvalidInput(f"--dataset {dataset} needs --dataset-name, such as cifar10-jpeg")
    part = "train" if split.startswith("train") else "test"
    found = _load(dataset, part, card.dataset).sha256
    if part == "test" and found == own.sha256:
        raise InvalidInput(
            f"{dataset} holds the training images of {card.name}: measure it on others, named with "
            "--dataset-name"
        )
    if found != (own.sha256 if part == "train" else own.test_sha256):
        raise InvalidInput(
            f"{dataset} does not hold the {part} images of {card.dataset}, which {card.name} was "
            "trained on: give others a name with --dataset-name"
        )
    return card.dataset


def checkpoints(
    root: Path,
    problems: list[str],
    *,
    kept: str = "last",
    dataset: str | None = None,
    arch: str | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Path]:
    """The checkpoint folders under root, of a kept epoch (last, best or all), data set and seeds.

    A folder whose card cannot be read is named in `problems` and left out.
    """
    if dataset:
        dataset_info(dataset)
    found = []
    for folder in cards.folders(root):
        try:
            card = checkpoint.read_card(folder)
        except InvalidInput as error:
            problems.append(str(error))
            continue
        other = {"last": "validation", "best": "last"}.get(kept)  # a foreign one is neither
        if (
            (other is None or card.selected_on != other)
            and dataset in (None, card.dataset)
            and arch in (None, "", card.arch)
            and (seeds is None or card.seed in seeds)
        ):
            found.append(folder)
    return found


def examples(job: Job) -> datasets.Examples:
    """The images of a job."""
    everything = _load(job.dataset, job.split, job.dataset_name)
    n = job.n
    if n is None and not job.device.startswith("cuda"):
        n = min(1000, len(everything))
    return everything if n is None else everything.first(n)


@functools.lru_cache(maxsize=1)  # jobs of one sweep mostly share their images
def _load(dataset: str, split: str, name: str) -> datasets.Examples:
    return datasets.load(dataset, split, name=name)


def recorded(job: Job, data: datasets.Examples, card: ModelCard) -> Path | None:
    """The record that already answers this job, if there is one.

    A withdrawn one too: asking the same question again would only repeat its answer.
    """
    path = job.folder(card) / f"{_request(job, data, card)[0].id}.json"
    return path if path.exists() else None


def _request(job: Job, data: datasets.Examples, card: ModelCard) -> tuple[Request, int]:
    """What a job asks, and how many rows go through the model at once."""
    rows = job.batch or default_rows(data.x[:1], card.n_parameters, job.engine)
    version = engine_version(job.engine, rows)
    return Request(
        card.weights_sha256, data.sha256, job.threat, _protocol(job, card), job.seed, job.engine,
        version, job.precision, job.audit,
    ), rows  # fmt: skip


def should_it_not_return(job: Job) -> AbstractContextManager[None]:
    """Inside, the failed record is at hand that stands should the model never return."""
    data, card = examples(job), opening.read_card(job.source)
    request, rows = _request(job, data, card)
    record = EvaluationRecord(
        id=request.id, card=card, dataset=data.name, split=data.split, n=len(data),
        failure="the model did not return", created=store.now(), seconds=0,
        environment=evaluate.environment(torch.device(job.device), rows, job.workers),
        **request.recorded(),
    )  # fmt: skip
    return watch.will(f"{store.record_path(record, job.out)}\n{store.pretty_json(record)}")


def _protocol(job: Job, card: ModelCard) -> Protocol:
    return named_protocol(job.protocol, norm=job.threat.norm, classes=card.class_count)


def estimate_seconds(jobs: Sequence[Job]) -> float:
    """At most how long the jobs take one after another; models of one size are timed once.

    A model that fails takes no time: its measurement says why.
    """
    total, timed = 0.0, {}
    for job in jobs:
        data, card = examples(job), opening.read_card(job.source)
        key = (card.arch, card.n_parameters, tuple(data.images.shape), job.protocol, job.device)
        if key not in timed:
            try:
                model, _ = opening.open_model(job.source, job.device)
                with should_it_not_return(job):
                    timed[key] = estimate.estimate_seconds(
                        model, data.x, _protocol(job, card), len(data)
                    )
            except MeasurementFailed:
                continue
        total += timed[key]
    return total


def clean_predictions(model: Model, data: datasets.Examples) -> np.ndarray:
    """(N,) int64: the class of every clean image, as a measurement judges it."""
    return guarded(lambda: Judge(model)(data.x, data.labels).predictions.cpu().numpy())


def answered(job: Job) -> bool:
    """Whether nothing of this job is to be measured: its record is there, with its evidence.

    A record that cannot be read is not measured again either: measure() names it.
    """
    path = recorded(job, examples(job), opening.read_card(job.source))
    try:
        return path is not None and not _unbacked(job, path, store.read(path))
    except InvalidInput:
        return True


def _unbacked(job: Job, path: Path, record: EvaluationRecord) -> str:
    """Why a recorded job is measured again: its evidence is not what the record names."""
    begun = job.work and parts.parts_folder(job.work, record.id, record.card).exists()
    return keeping.evidence_lost(path, record, expected=bool(begun))


def measure(job: Job, report: processes.Report) -> Outcome:
    """Measures one checkpoint, or finds its record; writes evidence, then the record.

    What is missing or damaged beside a record that is found is repaired: files are copied again,
    evidence is made again, from finished parts where there are some. Raises MeasurementFailed after
    writing a failed record, InvalidInput before anything is measured where nothing can be written,
    and BenchError where that became so meanwhile: finished parts are kept.
    """
    with should_it_not_return(job):
        return _measured(job, report)


def _measured(job: Job, report: processes.Report) -> Outcome:
    model, card = opening.open_model(job.source, job.device)
    data = examples(job)
    path = recorded(job, data, card)
    old = store.read(path) if path else None
    if path and old and not job.again:
        lost = _unbacked(job, path, old) or keeping.changed_since(old, path, model, data)
        if not lost:
            _complete(job, path, old)
            _prove(job, path, model, data)
            return Outcome(old, path, measured=False, job=job)
        log.warning("%s is not used: %s. The model is measured anew", path, lost)
    keeping.refuse_unwritable(job.folder(card))
    try:
        found = evaluate.measure(
            model, data.images, data.labels, **_asked(job, card, data),
            work=job.work, workers=job.workers, max_seconds=job.max_seconds,
            keep=lambda found: keep(found, job.source, job.out),
            report=lambda share, text: report(share, f"{card.name}: {text}"),
        )  # fmt: skip
    except OSError as error:
        kept = "; what is finished is kept, and the same command goes on from there"
        raise BenchError(f"{card.name}: {error}{kept if job.work else ''}") from error
    path = store.record_path(found.record, job.out)
    if found.record.failure is not None:
        raise MeasurementFailed(f"{card.name}: {found.record.failure} (recorded in {path})")
    for each in found.all:
        _prove(job, store.record_path(each.record, job.out), model, data)
    return Outcome(store.read(path), path, measured=True, job=job)


def _asked(job: Job, card: ModelCard, data: datasets.Examples) -> dict[str, Any]:
    """What a job asks of its model and images, as `question.question` takes it."""
    return {
        "threat": job.threat, "protocol": job.protocol, "seed": job.seed, "card": card,
        "note": job.source.note if isinstance(job.source, OwnModel) else "",
        "dataset": data.name, "split": data.split, "engine": job.engine,
        "precision": job.precision, "audit": job.audit, "batch": job.batch,
    }  # fmt: skip


def question(job: Job) -> questions.Question:
    """A job as a question, with its model and images. Raises InvalidInput."""
    model, card = opening.open_model(job.source, job.device)
    data = examples(job)
    return questions.question(model, data.images, data.labels, **_asked(job, card, data))


def _complete(job: Job, path: Path, record: EvaluationRecord) -> None:
    """Copies again what is missing beside a record; deletes the parts that a killed run left."""
    try:
        keeping.copy_checkpoint(path, record, job.source)
    except OSError as error:  # the answer is there all the same
        log.warning("%s: what is missing beside it cannot be copied (%s)", path, error)
    begun = job.work and parts.parts_folder(job.work, record.id, record.card)
    if begun and begun.exists():
        with contextlib.suppress(InvalidInput), parts.alone(begun, record.card):
            parts.discard(begun)  # else another process measures it again just now


def _prove(job: Job, path: Path, model: Model, data: datasets.Examples) -> None:
    """Has `verify` judge the evidence of a record again, for the list of proven records.

    One pass an image and one or two a broken image and column, beside the thousands of an attack.
    Evidence that was removed on purpose, and a model that answers at random, prove nothing.
    """
    record, sha256 = store.read_hashed(path)
    known = proven.read(job.out)[0].get(sha256)
    if record.protocol.passes > 1 or (known is not None and known.how == "proven"):
        return
    try:
        evidence = verify.evidence_of(record, path)
        if evidence is not None:
            found = verify.check(record, model, data, evidence, device=job.device)
            verify.keep_proof(found, path, sha256)
    except (MeasurementFailed, InvalidInput, OSError) as error:
        log.warning("%s is not in the list of proven records: %s", path, error)


def measure_all(
    jobs: Sequence[Job], *, workers: int, label: str = "evaluate", quiet: bool = False
) -> Iterator[tuple[Job, Outcome | BenchError]]:
    """Measures every job: as many at a time as there are workers, else one after another by shards.

    On a GPU one after another.
    """
    yield from over(measure, jobs, workers=workers, label=label, quiet=quiet)


def over(
    work: Callable[[Job, processes.Report], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    label: str,
    quiet: bool = False,
) -> Iterator[tuple[Job, Result | BenchError]]:
    """Does a work on every job, over processes as `measure_all`."""
    if any(job.device.startswith("cuda") for job in jobs):
        workers = 1
    if len(jobs) < workers:
        jobs, workers = [dataclasses.replace(job, workers=workers) for job in jobs], 1
    if workers > 1 or any(job.workers > 1 for job in jobs):
        torch.set_num_threads(1)  # one thread a process: more get into one another's way
    yield from processes.run(work, jobs, workers=workers, label=label, quiet=quiet)
