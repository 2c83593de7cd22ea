"""Chooses settings on validation images, and lists every value tried.

What is tried is declared: draws from the spaces of arms (spaces.py), and the grids that the presets
were chosen in (grids.py). Test images are not opened here. The seeds differ from those of committed
results, so that a choice is not favoured by the runs it is later shown on. `results/choices/<name>.csv`
holds a line a run, written as it ends: a second call tries only what is missing.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from awp_train.flags import number
from awp_train.grids import GRIDS, Grid, Setting
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
from awp_train.spaces import ARMS, Drawn
from awp_train.train import TrainingFailed
from bench import training_log
from bench.catalogue import unknown_name
from bench.measure import processes
from bench.records import store
from bench.records.lock import locked
from bench.records.one_read import read_whole
from bench.schema import BenchError, InvalidInput
from bench.schema.frozen import content_hash

Line = dict[str, Any]  # column -> what is written there; a collapsed run has no counts
FOLDER = Path("results/choices")
ALL = "all"  # every arm
_LARGEST = 2**20  # bytes of a choice
COUNTS = (
    "validation_n", "validation_robust_correct", "validation_clean_correct", "train_n",
    "train_robust_correct", "collapsed",
)  # fmt: skip


def declared(name: str) -> Grid | Drawn:
    """The arm or grid of a name; InvalidInput suggests the nearest."""
    every: dict[str, Grid | Drawn] = {**GRIDS, **ARMS}
    if name not in every:
        raise unknown_name("arm or grid of settings", name, every)
    return every[name]


def asked(names: Iterable[str], only: str | None = None) -> list[str]:
    """The names, `all` being every arm; only: those in whose names this stands, as whole words."""
    every = [each for name in names for each in (ARMS if name == ALL else [name])]
    chosen = [name for name in dict.fromkeys(every) if f"-{only}-" in f"-{name}-" or not only]
    if not chosen:
        raise InvalidInput(f"--only: no arm named {only!r}; there are: {', '.join(every)}")
    return chosen


# ---------------------------------------------------------------- trying


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


# ---------------------------------------------------------------- choosing


def read(path: Path) -> list[Line]:
    """The lines of `<name>.csv`, as numbers where they are; none where there is no such file.

    A collapsed run has no counts. Raises InvalidInput where it is no list of that name's tries; it is
    left in place.
    """
    if not path.exists():
        return []
    columns = (*declared(path.stem).columns, "seed")
    text = read_whole(path, largest=_LARGEST).decode("utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(rows.fieldnames or ()) != (*columns, *COUNTS):
        raise InvalidInput(
            f"{path}: expected the columns {', '.join((*columns, *COUNTS))}; it is left in place"
        )
    lines = []
    for place, row in enumerate(rows, start=2):
        cells = [row.get(key) for key in (*columns, "collapsed")]
        if None in row or None in row.values() or "" in cells:
            raise InvalidInput(f"{path}, line {place}: a cell is missing; it is left in place")
        line = {key: number(value) for key, value in row.items() if value != ""}
        if reason := _unlikely(line):
            raise InvalidInput(f"{path}, line {place}: {reason}; it is left in place")
        lines.append(line)
    return lines


def _unlikely(line: Line) -> str:
    """What cannot be in a line; empty where nothing is."""
    counts = {key: line[key] for key in COUNTS if key in line}
    if wrong := {k: v for k, v in counts.items() if not isinstance(v, int) or v < 0}:
        return f"expected counts, got {wrong}"
    for part in ("validation", "train"):
        right, n = counts.get(f"{part}_robust_correct", 0), counts.get(f"{part}_n", 0)
        if right > n:
            return f"expected at most {n} {part} images right, got {right}"
    if not counts["collapsed"] and not counts.get("validation_n"):
        return "expected validation images of a run that did not collapse"
    return ""


def means(name: str, lines: Sequence[Line]) -> dict[Setting, float]:
    """Setting -> mean validation robust accuracy over seeds; a collapse is 0."""
    rates = defaultdict(list)
    for line in lines:
        right, n = line.get("validation_robust_correct", 0), line.get("validation_n", 1)
        rates[tuple(line[column] for column in declared(name).columns)].append(right / n)
    return {key: sum(v) / len(v) for key, v in sorted(rates.items())}


def chosen(name: str, lines: Sequence[Line]) -> Setting:
    """The setting that is chosen of those tried: the values of the columns."""
    return declared(name).choose(means(name, lines))


def is_whole(name: str, lines: Sequence[Line]) -> bool:
    """Whether everything that is declared was tried."""
    columns = (*declared(name).columns, "seed")
    there = {tuple(line[column] for column in columns) for line in lines}
    return all((*setting, config.seed) in there for setting, config in declared(name).tried())


def expected_best(rates: Sequence[float]) -> tuple[float, ...]:
    """For k = 1 to n: the mean, over all subsets of k of n tries, of their best.

    The try above i others is the best of C(i, k - 1) of the C(n, k) subsets: exact, nothing is sampled.
    It says what fewer tries would have found, so that arms can be compared at equal effort.
    """
    ordered, n = sorted(rates), len(rates)
    return tuple(
        sum(math.comb(i, k - 1) * rate for i, rate in enumerate(ordered)) / math.comb(n, k)
        for k in range(1, n + 1)
    )


def summary(name: str, lines: Sequence[Line]) -> str:
    """The tried values with their means, the chosen one marked, and what is to be known of it."""
    what, rates = declared(name), means(name, lines)
    if not rates:
        return f"{name}: nothing is tried yet"
    pick = what.choose(rates)
    widths = [max(len(column), 7) for column in what.columns]
    head = "  ".join(f"{c:>{w}}" for c, w in zip(what.columns, widths, strict=True))
    rows = [name, f"{head}  validation robust (last epoch, mean over seeds)"]
    for key, rate in rates.items():
        mark = "  <- chosen" if key == pick else ""
        values = "  ".join(f"{v!s:>{w}}" for v, w in zip(key, widths, strict=True))
        rows.append(f"{values}  {rate:6.1%}{mark}")
    if isinstance(what, Drawn):
        best = ", ".join(
            f"{k}: {rate:.1%}" for k, rate in enumerate(expected_best(list(rates.values())), 1)
        )
        rows.append(f"the best of k tries, mean over all subsets: {best}")
    if edges := what.edges(pick):
        rows.append(f"{'; '.join(edges)}: widen the space (WIDENED in awp_train/spaces.py)")
    if not is_whole(name, lines):
        rows.append("not all that is declared was tried: the choice may change")
    return "\n".join(rows)
