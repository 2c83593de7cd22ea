"""Many runs at a time: what is left of them to train, how long that takes, which of them failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from awp_train.cards import finished
from awp_train.cost import described, estimated_seconds
from awp_train.presets import check
from awp_train.train import train
from bench import parallel
from bench.schema import BenchError, TrainConfig


@dataclass(frozen=True)
class Job:
    """One run."""

    name: str
    config: TrainConfig
    pair: str | None  # run name of the vanilla twin
    out: Path
    runs: Path


def train_jobs(
    jobs: Sequence[Job],
    *,
    workers: int | None,
    longest: float | None,
    again: str,
) -> int:
    """Trains what is not finished, lists the checkpoint folders; returns an exit status.

    workers: by default the cores, one thread each, or 1 on a GPU. Estimates the time first; above
    `longest` seconds it stops with `again`, the command that was given, and --yes. A run that fails
    is reported and the others go on.
    """
    for job in jobs:
        check(job.config)
    waiting = [job for job in jobs if not finished(job.config, job.name, job.out)]
    _say(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished already")
    on_gpu = torch.cuda.is_available()
    workers = min(workers or (1 if on_gpu else parallel.cores()), len(waiting) or 1)
    if not on_gpu and workers > 1:
        torch.set_num_threads(1)  # as the workers, so that the estimate is theirs
    seconds = _estimated(waiting) / workers
    if waiting:
        _say(f"estimated time {described(seconds)} with {workers} at a time")
    if longest is not None and seconds > longest:
        _say(f"That is over {described(longest)}. To start it: {again} --yes")
        return 2
    failures = []
    try:
        for job, error in parallel.run(_train_one, waiting, workers=workers, label="training"):
            if isinstance(error, BenchError):
                _say(f"error: {error}")
                failures.append(job.name)
    except KeyboardInterrupt:
        _say(f"interrupted. Go on with the same command: {again}")
        return 130
    except BrokenProcessPool:
        _say(f"error: a worker was killed, perhaps for memory. Go on with fewer --workers: {again}")
        return 1
    if failures:
        _say(f"error: {len(failures)} of {len(jobs)} runs failed: {', '.join(failures)}")
    for job in jobs:
        for folder in finished(job.config, job.name, job.out):
            print(folder)
    return 1 if failures else 0


def _train_one(job: Job, report: parallel.Report) -> None:
    def named(share: float, text: str) -> None:
        report(share, f"{job.name} {text}")

    train(
        job.config, name=job.name, pair=job.pair, out=job.out, runs=job.runs,
        progress=False, report=named,
    )  # fmt: skip


def _estimated(jobs: Sequence[Job]) -> float:
    """Seconds of all jobs, one after another; seeds of one configuration cost the same."""
    known: dict[str, float] = {}
    total = 0.0
    for job in jobs:
        config = job.config.model_copy(update={"seed": 0})
        key = config.model_dump_json()
        if key not in known:
            known[key] = estimated_seconds(config)
        total += known[key]
    return total


def _say(text: str) -> None:
    print(text, file=sys.stderr)
