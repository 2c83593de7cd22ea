"""Many runs at a time: what is left of them to train, how long that takes, which of them failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from awp_train.checks import check, check_settings
from awp_train.cost import described, estimated_seconds
from awp_train.run_files import finished
from awp_train.stages import Job, bring_back, is_finished, prepared, stages
from awp_train.train import train
from bench.measure import processes
from bench.schema import BenchError, ExtraData, InvalidInput, TrainConfig


class Unconfirmed(InvalidInput):
    """A long job that was not confirmed; the text says how."""


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
    `longest` seconds it raises Unconfirmed with `again`, the command that was given, and --yes. A
    run that fails is reported, what needs it is left out, and the others go on. recorded: a results
    folder whose networks count as trained.
    """
    order = stages(jobs)
    every = [job for stage in order for job in stage]
    for job in every:
        check_settings(job.config)
    if recorded is not None:
        for job in every:
            if not job.needs:
                bring_back(job, recorded)
    waiting = [job for job in every if not is_finished(job)]
    needed = len(every) - len(jobs)
    also = f" and {needed} that they need" if needed > 0 else ""
    _say(f"{len(jobs)} runs{also}, {len(every) - len(waiting)} of them finished already")
    workers = _workers(workers, len(waiting))
    if waiting:
        seconds = _estimated(waiting) / workers
        _say(f"estimated time {described(seconds)} with {workers} at a time")
        if longest is not None and seconds > longest:
            raise Unconfirmed(
                f"That is over {described(longest)}. To start it: {again} --yes (or make … YES=1)"
            )
    failed: dict[str, str] = {}
    done: dict[str, Job] = {}
    for stage in order:
        ready = _ready(stage, failed, recorded)
        failed |= train_stage(ready, workers=workers, again=again)
        done |= {job.name: job for job in ready if job.name not in failed}
    for name, reason in failed.items():
        _say(f"error: {name}: {reason}")
    return [done[job.name] for job in jobs if job.name in done]


def train_stage(jobs: Sequence[Job], *, workers: int, again: str) -> dict[str, str]:
    """Trains jobs that wait for nothing; returns why each of those that failed did."""
    waiting = [job for job in jobs if not finished(job.config, job.name, job.out)]
    failed = {}
    try:
        for job, result in processes.run(_train_one, waiting, workers=workers, label="training"):
            if isinstance(result, BenchError):
                failed[job.name] = str(result)
    except KeyboardInterrupt:
        _say(f"interrupted. Go on with: {again}")
        raise
    except BrokenProcessPool:
        text = "a worker was killed, perhaps for memory. Go on with fewer --workers"
        raise BenchError(f"{text}: {again}") from None
    return failed


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


def _workers(asked: int | None, waiting: int) -> int:
    on_gpu = torch.cuda.is_available()
    workers = min(asked or (1 if on_gpu else processes.cores()), waiting or 1)
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {asked}")
    if not on_gpu and workers > 1:
        torch.set_num_threads(1)  # as the workers, so that the estimate is theirs
    return workers


def _train_one(job: Job, report: processes.Report) -> None:
    def named(share: float, text: str) -> None:
        report(share, f"{job.name} {text}")

    train(
        job.config, name=job.name, pair=job.pair, control_of=job.control_of, places=job.places,
        out=job.out, runs=job.runs, progress=False, report=named,
    )  # fmt: skip


def _estimated(jobs: Sequence[Job]) -> float:
    """Seconds of all jobs, one after another; seeds of one configuration cost the same."""
    known: dict[str, float] = {}
    total = 0.0
    for job in jobs:
        config = as_costly(job.config)
        key = config.model_dump_json()
        if key not in known:
            known[key] = estimated_seconds(config)
        total += known[key]
    return total


def as_costly(config: TrainConfig) -> TrainConfig:
    """The configuration as far as its cost goes: seed 0, and extra images whichever they will be."""
    fraction = config.extra.fraction if config.extra else 0.5
    some = ExtraData(file="any", sha256="0" * 64, n=1, fraction=fraction)
    extra = some if config.extra or config.objective == "rst" else None
    return config.model_copy(update={"seed": 0, "start": None, "extra": extra})


def _say(text: str) -> None:
    print(text, file=sys.stderr)
