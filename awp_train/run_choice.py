"""Tries settings on validation images, and keeps what every try said.

Test images are not opened here. The seeds differ from those of committed results, so that a choice is
not favoured by the runs it is later shown on. `results/choices/<name>.csv` gets a line a run as it
ends: a second call tries only what is missing.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from awp_train.choice import COUNTS, Line, declared, read, summary
from awp_train.grids import Setting
from awp_train.plan import (
    Job,
    at_a_time,
    duration,
    estimated,
    job_of,
    prepared,
    say,
    stages,
    train_one,
    train_stage,
)
from awp_train.spaces import ARMS
from awp_train.train import TrainingFailed
from bench import training_log
from bench.measure import processes
from bench.records import store
from bench.records.lock import locked, made
from bench.schema import BenchError, InvalidInput
from bench.schema.frozen import content_hash

ALL = "all"  # every arm


def asked(names: Iterable[str], only: str | None = None) -> list[str]:
    """The names, `all` being every arm; only: those in whose names this stands, as whole words."""
    every = [each for name in names for each in (ARMS if name == ALL else [name])]
    chosen = [name for name in dict.fromkeys(every) if f"-{only}-" in f"-{name}-" or not only]
    if not chosen:
        raise InvalidInput(f"--only: no arm named {only!r}; there are: {', '.join(every)}")
    return chosen


def choose(
    names: Sequence[str],
    *,
    out: Path,
    home: Path,
    workers: int | None = None,
    longest: float | None = None,
    again: str = "",
) -> str:
    """Tries what is missing of these names, keeping `<out>/<name>.csv`; returns the summaries.

    What is interrupted goes on from its state under `home`, where networks lie too. Raises InvalidInput
    above `longest` seconds, for a list that cannot be read, and while another process tries the same;
    BenchError where tries failed, after those that did not.
    """
    made(out)
    with ExitStack() as held:
        for name in names:
            declared(name)
            held.enter_context(locked(home / f"{name}.lock", f"the choice {name}"))
        lists = {name: read(out / f"{name}.csv") for name in names}
        jobs: dict[str, Job] = {}
        asking: dict[str, list[tuple[str, Setting]]] = defaultdict(
            list
        )  # job -> lists that want it
        for name in names:
            for setting, seed, job in _missing(name, lists[name], home):
                jobs[job.name] = job
                asking[job.name].append((name, (*setting, seed)))
        tries = sum(len(list(declared(name).tried())) for name in names)
        left = sum(map(len, asking.values()))
        say(f"{len(names)} lists of {tries} tries, {tries - left} of them there already")
        failed = {}
        if jobs:
            workers = at_a_time(workers, len(jobs))
            if not torch.cuda.is_available():
                # With one worker too: a try says the same however many there are, and on a busy
                # machine two threads of so small a network wait for each other.
                torch.set_num_threads(1)
            _say_how_long(list(jobs.values()), workers, longest, again)
            ready = _after_what_they_need(list(jobs.values()), workers, again)
            try:
                for job, counts in processes.run(try_one, ready, workers=workers, label="trying"):
                    if isinstance(counts, BenchError):
                        failed[job.name] = str(counts)
                        continue
                    for name, key in asking[job.name]:
                        columns = (*declared(name).columns, "seed")
                        lists[name].append(dict(zip(columns, key, strict=True)) | counts)
                        _write(name, lists[name], out)
            except KeyboardInterrupt:
                say(f"interrupted. Go on with: {again}")
                raise
    for job_name, reason in failed.items():
        say(f"error: {', '.join(name for name, _ in asking[job_name])}: {reason}")
    if failed:
        raise BenchError(f"{len(failed)} of {len(jobs)} tries failed; the others are in {out}")
    return "\n\n".join(summary(name, lists[name]) for name in names)


def _missing(name: str, lines: Sequence[Line], home: Path) -> Iterable[tuple[Setting, int, Job]]:
    """What a list has no line of. A run is called by its settings: another declaration, another run."""
    what = declared(name)
    there = {tuple(line[column] for column in (*what.columns, "seed")) for line in lines}
    for setting, config in what.tried():
        if (*setting, config.seed) not in there:
            job = job_of(
                what.base, config, name=f"try-{content_hash(config)[:16]}",
                out=home / "checkpoints", runs=home / "runs",
            )  # fmt: skip
            yield setting, config.seed, job


def _say_how_long(jobs: Sequence[Job], workers: int, longest: float | None, again: str) -> None:
    seconds = estimated(jobs) / workers
    say(f"{len(jobs)} tries, estimated time {duration(seconds)} with {workers} at a time")
    if longest is not None and seconds > longest:
        raise InvalidInput(f"That is over {duration(longest)}. To start it: {again} --yes")


def _after_what_they_need(jobs: Sequence[Job], workers: int, again: str) -> list[Job]:
    """The jobs prepared, once teachers and starting points are trained for all that need them."""
    *before, tries = stages(jobs)
    for stage in before:
        ready = [prepared(job) if job.needs else job for job in stage]
        for name, reason in train_stage(ready, workers=workers, again=again).items():
            raise BenchError(f"{name}: {reason}")
    return [prepared(job) if job.needs else job for job in tries]


def try_one(job: Job, report: processes.Report) -> Line:
    """Trains one configuration; its counts after the last epoch."""
    try:
        written = train_one(job, report, gap=False)
    except TrainingFailed:
        return {"collapsed": 1}
    last = training_log.read_log(written[-1] / training_log.NAME)[-1]
    return {k: last[k] for k in COUNTS if k in last} | {"collapsed": 0}


def _write(name: str, lines: Sequence[Line], out: Path) -> None:
    text = io.StringIO()
    keys = (*declared(name).columns, "seed")
    writer = csv.DictWriter(text, (*keys, *COUNTS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(lines, key=lambda line: [line[k] for k in keys]))
    store.write_atomic(out / f"{name}.csv", text.getvalue())
