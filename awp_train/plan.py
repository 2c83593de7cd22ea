"""Runs as jobs: what is trained before them, how long that takes, many at a time.

A run may need a teacher that labels its extra images, or a network to start from. A job names the jobs
it needs; `stages` puts them in order, and `prepared` names their results in its configuration.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from awp_train import extra_images
from awp_train.checks import check, check_settings
from awp_train.faster import running_of
from awp_train.passes import images_of_an_epoch, step_passes, validation_passes
from awp_train.presets import control_name, find, pair_name, run_name, start_of, teacher_of
from awp_train.run_files import Places, describe_start, finished
from awp_train.step import build, optimiser_of, step
from awp_train.train import train
from bench import training_log
from bench.catalogue import OBJECTIVES, dataset_info, training_images
from bench.measure import processes
from bench.measure.keeping import copied
from bench.records.lock import made
from bench.records.one_read import is_file
from bench.records.store import write_atomic
from bench.schema import BenchError, ExtraData, InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint

LONG = 2 * 3600  # seconds of estimated time from which on a call wants --yes


@dataclass(frozen=True)
class Job:
    """One run, and what has to be finished before it."""

    name: str
    config: TrainConfig
    pair: str | None  # run name of the vanilla twin
    out: Path
    runs: Path
    control_of: str | None = None  # run name of the AWP run that this is a stronger control of
    places: Places = Places()
    teacher: Job | None = None  # its last network labels the extra images
    extra_n: int | None = None  # at most so many of them
    start: Job | None = None  # its last network is what this run starts from

    @property
    def needs(self) -> tuple[Job, ...]:
        return tuple(job for job in (self.teacher, self.start) if job is not None)

    @property
    def last(self) -> Path:
        """The checkpoint folder that is there once the run is finished."""
        return self.out / f"{self.name}-last"

    def recorded(self, results: Path, kept: str) -> Path | None:
        """Where the records of its best or last network lie, with the card; None if there are none."""
        if self.config.threat is None:
            return None
        group = results / self.config.dataset / self.config.threat.folder
        folder = group / f"{self.name}-{kept}"
        return folder if (folder / checkpoint.CARD).is_file() else None


def job_of(
    preset: str,
    config: TrainConfig,
    *,
    out: Path,
    runs: Path,
    places: Places | None = None,
    name: str | None = None,
) -> Job:
    """The run of a preset, with the jobs that make what its configuration does not name yet."""
    places = places or Places()
    teacher = teacher_of(preset, config) if config.extra is None else None
    start = start_of(preset, config) if config.start is None else None
    return Job(
        name or run_name(preset, config),
        config,
        pair_name(preset, config),
        out,
        runs,
        control_name(preset, config),
        places,
        teacher and job_of(*teacher, out=out, runs=runs, places=Places(data=places.data)),
        find(preset).extra_n,
        start and job_of(*start, out=out, runs=runs),
    )


def stages(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs and all they need, once each: a stage needs nothing but the stages before it."""
    order: list[list[Job]] = []
    depths: dict[str, int] = {}

    def place(job: Job) -> int:
        if job.name not in depths:
            depth = depths[job.name] = 1 + max(map(place, job.needs), default=-1)
            order.extend([] for _ in range(1 + depth - len(order)))
            order[depth].append(job)
        return depths[job.name]

    for job in jobs:
        place(job)
    return order


# ---------------------------------------------------------------- what is there, what is missing


def is_finished(job: Job) -> bool:
    """Whether the run's checkpoints are there, whatever files they were trained with.

    Raises InvalidInput where the name belongs to a model of other settings.
    """
    if not job.last.exists():
        return False
    config = _with_files_of(checkpoint.read_card(job.last), job)
    return bool(finished(config, job.name, job.out))


def is_of(job: Job, folder: Path) -> bool:
    """Whether the card in a folder is of the run's settings, whatever files it was trained with."""
    card = checkpoint.read_card(folder)
    return card.train == _with_files_of(card, job)


def _with_files_of(card: ModelCard, job: Job) -> TrainConfig:
    """The settings of a run, with the files that the card names where those are made on the way."""
    if card.train is None or not job.needs:
        return job.config
    return job.config.model_copy(update={"extra": card.train.extra, "start": card.train.start})


def bring_back(job: Job, results: Path) -> None:
    """Copies a run that was trained before from where its records lie, if its settings are these.

    Records keep small weights with card and curve beside them, so nobody has to train them again.
    """
    wanted = {checkpoint.WEIGHTS, checkpoint.CARD, training_log.NAME}
    best, last = (job.recorded(results, kept) for kept in ("best", "last"))
    whole = [f for f in (best, last) if f and all(is_file(f / file) for file in wanted)]
    if last is None or last not in whole or job.last.exists():
        return
    if checkpoint.read_card(last).train == job.config:
        for folder in whole:  # the last one last: it marks the end
            files = {name: copied(folder, name) for name in wanted}
            if None in files.values():
                return
            for name, raw in files.items():
                write_atomic(job.out / folder.name / name, raw or b"")


def prepared(job: Job) -> Job:
    """The job with its extra file made and its starting point named in the configuration.

    The jobs it needs are finished. Extra files lie beside the checkpoints' folder, in `extra`.
    """
    fields: dict[str, object] = {}
    places = job.places
    if job.teacher is not None:
        left = left_over(job.teacher.config)
        n = left if job.extra_n is None else min(left, job.extra_n)
        file = extra_images.pseudo_label(
            job.teacher.last, out=job.out.parent / "extra", n=n, source=places.data
        )
        fields["extra"] = extra_images.describe_extra(file)
        places = replace(places, extra=file)
    if job.start is not None:
        fields["start"] = describe_start(job.start.last)
        places = replace(places, start=job.start.last)
    return replace(job, config=job.config.model_copy(update=fields), places=places)


def left_over(config: TrainConfig) -> int:
    """How many training images of its data set a run takes neither to learn from nor to validate."""
    if config.n_train is None:
        return 0
    return training_images(config) - config.n_train - config.n_validation


def asked_for(preset: str, config: TrainConfig) -> None:
    """Raises InvalidInput where a run needs images or a network that nobody gives it."""
    found = find(preset)
    given = config.extra if found.supplied.startswith("--extra") else config.start
    if found.supplied and given is None:
        raise InvalidInput(f"{preset} needs {found.supplied}")
    if found.teacher and config.extra is None and left_over(config) < 1:
        raise InvalidInput(
            f"{preset}: {config.n_train} images for training and {config.n_validation} for "
            f"validation leave none of {config.dataset} for {found.teacher} to label: lower "
            "--n_train, or give --extra FILE"
        )


# ---------------------------------------------------------------- how long it takes

_SLOW = 0.2  # seconds of the trial step of 8 images above which no whole batch is timed
_TIMED = 0.4  # seconds of timed steps


def estimated_seconds(config: TrainConfig) -> float:
    """Seconds of a run from its start, with the threads and device that training would use.

    From a few timed training steps on random images: a few times too long or short on a loaded
    machine. No data is read.
    """
    info = dataset_info(config.dataset, config.own)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config).to(device)
    optimiser = optimiser_of(model, config)
    last = config.epochs - 1  # past any warm-up
    shape = (info.channels, info.image_size, info.image_size)
    # As in training, but never compiled: that alone takes longer than the estimate.
    uncompiled = config.model_copy(update={"compiled": False})
    running = running_of(model, uncompiled, torch.rand(2, *shape, device=device))

    def timed(size: int) -> float:
        x = torch.rand(size, *shape, device=device)
        y = torch.arange(size, device=device) % info.class_count
        started = time.monotonic()
        float(step(model, optimiser, config, x, y, epoch=last, batch=0, running=running).loss)
        return time.monotonic() - started

    timed(8)
    size = 8 if timed(8) > _SLOW else config.batch
    timed(size)
    times = [timed(size)]
    while sum(times) < _TIMED:
        times.append(timed(size))
    in_training = images_of_an_epoch(config) * config.epochs
    in_validation = validation_passes(config) / step_passes(config, perturbed=True)
    return sorted(times)[len(times) // 2] / size * (in_training + in_validation)


def estimated(jobs: Sequence[Job]) -> float:
    """Seconds of all jobs, one after another; seeds of one configuration cost the same."""
    costly = [as_costly(job.config) for job in jobs]
    known = {key.model_dump_json(): key for key in costly}
    seconds = {text: estimated_seconds(config) for text, config in known.items()}
    return sum(seconds[config.model_dump_json()] for config in costly)


def as_costly(config: TrainConfig) -> TrainConfig:
    """The configuration as far as its cost goes: seed 0, extra images whichever they will be.

    How far weights decay, are perturbed or remembered costs nothing.
    """
    fraction = config.extra.fraction if config.extra else 0.5
    some = ExtraData(file="any", sha256="0" * 64, n=1, fraction=fraction)
    extra = some if config.extra or OBJECTIVES[config.objective].unlabelled else None
    awp = config.awp and config.awp.model_copy(update={"gamma": 0.01, "threshold": None})
    free = {"seed": 0, "start": None, "weight_decay": 0.0, "averaging_horizon": None, "awp": awp}
    return config.model_copy(update=free | {"extra": extra})


def duration(seconds: float) -> str:
    """`13 s`, `25 min` or `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------- training


def train_jobs(
    jobs: Sequence[Job],
    *,
    workers: int | None,
    longest: float | None,
    again: str,
    recorded: Path | None = None,
) -> list[Job]:
    """Trains what is not finished, what it needs first; returns the jobs that are then finished.

    workers: by default the cores, one thread each, or 1 on a GPU. Estimates the time first; above
    `longest` seconds it raises InvalidInput with `again`, the command that was given, and --yes. A
    run that fails is reported, what needs it is left out, and the others go on. recorded: a results
    folder whose networks count as trained. Raises InvalidInput where a folder takes no files.
    """
    order = stages(jobs)
    every = [job for stage in order for job in stage]
    for job in every:
        check_settings(job.config)
        if recorded is not None and not job.needs:
            bring_back(job, recorded)
    waiting = [job for job in every if not is_finished(job)]
    needed = len(every) - len(jobs)
    also = f" and {needed} that they need" if needed > 0 else ""
    say(f"{len(jobs)} runs{also}, {len(every) - len(waiting)} of them finished already")
    workers = at_a_time(workers, len(waiting))
    if waiting:
        seconds = estimated(waiting) / workers
        say(f"estimated time {duration(seconds)} with {workers} at a time")
        if longest is not None and seconds > longest:
            raise InvalidInput(
                f"That is over {duration(longest)}. To start it: {again} --yes (or make … YES=1)"
            )
    for folder in sorted({folder for job in waiting for folder in (job.out, job.runs)}):
        made(folder)
    failed: dict[str, str] = {}
    done: dict[str, Job] = {}
    for stage in order:
        ready = _ready(stage, failed, recorded)
        failed |= train_stage(ready, workers=workers, again=again)
        done |= {job.name: job for job in ready if job.name not in failed}
    for name, reason in failed.items():
        say(f"error: {name}: {reason}")
    return [done[job.name] for job in jobs if job.name in done]


def at_a_time(asked: int | None, waiting: int) -> int:
    """How many runs are trained at a time: those asked for, the cores, or 1 on a GPU; no idle one."""
    on_gpu = torch.cuda.is_available()
    workers = min(asked or (1 if on_gpu else processes.cores()), waiting or 1)
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {asked}")
    if not on_gpu and workers > 1:
        torch.set_num_threads(1)  # as the workers, so that the estimate is theirs
    return workers


def _ready(stage: Sequence[Job], failed: dict[str, str], recorded: Path | None) -> list[Job]:
    """The jobs of a stage whose needs are there, prepared; the others are added to the failed."""
    ready = []
    for job in stage:
        if missing := [need.name for need in job.needs if need.name in failed]:
            failed[job.name] = f"needs {missing[0]}, which failed"
            continue
        if job.needs:
            job = prepared(job)
            if recorded is not None:
                bring_back(job, recorded)
        check(job.config)
        ready.append(job)
    return ready


def train_stage(jobs: Sequence[Job], *, workers: int, again: str) -> dict[str, str]:
    """Trains jobs that wait for nothing; returns why each of those that failed did."""
    waiting = [job for job in jobs if not finished(job.config, job.name, job.out)]
    failed = {}
    try:
        for job, result in processes.run(train_one, waiting, workers=workers, label="training"):
            if isinstance(result, BenchError):
                failed[job.name] = str(result)
    except KeyboardInterrupt:
        say(f"interrupted. Go on with: {again}")
        raise
    except BrokenProcessPool:
        text = "a worker was killed, perhaps for memory. Go on with fewer --workers"
        raise BenchError(f"{text}: {again}") from None
    return failed


def train_one(job: Job, report: processes.Report | None = None, **shown: Any) -> list[Path]:
    """Trains a prepared job; its checkpoint folders. report: instead of a bar on the screen."""
    if report is not None:
        shown |= {"progress": False, "report": lambda at, text: report(at, f"{job.name} {text}")}
    return train(
        job.config, name=job.name, pair=job.pair, control_of=job.control_of, places=job.places,
        out=job.out, runs=job.runs, **shown,
    )  # fmt: skip


def say(text: str) -> None:
    """Progress, kept apart from the result."""
    print(text, file=sys.stderr)
