"""Carries out a study: trains what is missing, measures best and last, writes what follows.

Everything is resumable, and nothing is chosen on test images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from awp_train.contrasts import KEPT, Measured, counts, summary
from awp_train.cost import described
from awp_train.findings import PAGE, findings
from awp_train.pool import train_jobs
from awp_train.stages import Job, bring_back, is_finished, job_of
from awp_train.studies import Arm, Study, split_of, study_of
from bench import checkpoint, parallel, sweep
from bench.results import write_atomic
from bench.schema import BenchError, EvaluationRecord, InvalidInput

Who = tuple[Arm, int]  # and its seed


def carry_out(
    name: str,
    *,
    seeds: Sequence[int] | None,
    only: str | None = None,
    out: Path,
    checkpoints: Path,
    runs: Path,
    workers: int | None,
    longest: float | None,
    again: str,
) -> str:
    """Trains and measures what is missing; writes `<out>/studies/<name>.md` and `.csv`.

    seeds and only (a word of the arms' names, such as n_train=2000) say which part is carried out;
    the summary is of that part and of all that was measured before. Networks whose weights lie beside
    their records count as trained, measurements whose records are there as measured. Returns the
    summary. Raises InvalidInput above `longest` seconds, and BenchError where runs or measurements
    failed, after those that did not.
    """
    study = study_of(name)
    asked = list(range(study.seeds)) if seeds is None else list(seeds)
    arms = _chosen(study, only)
    # Seed after seed, so that an interrupted study compares what it has.
    wanted = [(arm, seed) for seed in asked for arm in arms]
    whole = [(arm, seed) for seed in range(study.seeds) for arm in study.arms]

    def jobs_of(which: Sequence[Who]) -> dict[str, tuple[Job, Who]]:
        jobs = [job_of(a.preset, a.config(s), out=checkpoints, runs=runs) for a, s in which]
        return {job.name: (job, who) for job, who in zip(jobs, which, strict=True)}

    asked_for, others = jobs_of(wanted), jobs_of([who for who in whole if who not in wanted])
    jobs = [job for job, _ in asked_for.values()]
    done = train_jobs(jobs, workers=workers, longest=longest, again=again, recorded=out)
    folders = _folders(done, asked_for)
    known = {
        folder: who
        for folder, who in _folders(_finished([j for j, _ in others.values()], out), others).items()
        if _is_recorded(_measurement(study, folder, out), folder)
    }
    folders |= known
    records, failures = _measure(study, list(folders), out, workers, longest, again)
    measured = [
        Measured(*folders[folder], record, *_logged(folder, record))
        for folder, record in records.items()
    ]
    measured.sort(key=lambda m: (study.arms.index(m.arm), m.kept, m.seed))
    text = summary(name, measured)
    write_atomic(out / "studies" / f"{name}.md", text)
    write_atomic(out / "studies" / f"{name}.csv", counts(measured))
    write_atomic(out / "studies" / PAGE, findings(out / "studies"))
    if len(done) < len(jobs) or failures:
        failed = len(jobs) - len(done)
        raise BenchError(
            f"{failed} runs and {failures} measurements failed; the summary in {out / 'studies'} "
            "is of the others"
        )
    return text


def _chosen(study: Study, only: str | None) -> list[Arm]:
    """The arms of the contrasts that name the word; InvalidInput where none does."""
    if only is None:
        return list(study.arms)
    words = {arm: set(str(arm).replace("-", " ").split()) | {arm.preset} for arm in study.arms}
    both = [(c.control, c.treated) for c in study.contrasts]
    chosen = [arm for pair in both if any(only in words[a] for a in pair) for arm in pair]
    if not chosen:
        raise InvalidInput(f"no arm named {only!r}; there are: {', '.join(map(str, study.arms))}")
    return list(dict.fromkeys(chosen))


def _finished(jobs: Sequence[Job], results: Path) -> list[Job]:
    """Those that need no training any more."""
    for job in jobs:
        if not job.needs:
            bring_back(job, results)
    return [job for job in jobs if is_finished(job)]


def _folders(
    jobs: Sequence[Job], asked_for: dict[str, tuple[Job, Who]]
) -> dict[Path, tuple[Arm, int, str]]:
    """Checkpoint folder -> arm, seed, best or last."""
    return {
        job.out / f"{job.name}-{kept}": (*asked_for[job.name][1], kept)
        for job in jobs
        for kept in KEPT
        if (job.out / f"{job.name}-{kept}").exists()
    }


def _measurement(study: Study, folder: Path, out: Path) -> sweep.Job:
    split = split_of(checkpoint.read_card(folder).dataset, study.n)
    return sweep.make_job(folder, split=split, n=None, protocol=study.protocol, out=out)


def _is_recorded(job: sweep.Job, folder: Path) -> bool:
    return bool(sweep.recorded(job, sweep.examples(job), checkpoint.read_card(folder)))


def _measure(
    study: Study,
    folders: Sequence[Path],
    out: Path,
    workers: int | None,
    longest: float | None,
    again: str,
) -> tuple[dict[Path, EvaluationRecord], int]:
    """The records of checkpoint folders, measured where they are not there, and how many failed."""
    jobs = {folder: _measurement(study, folder, out) for folder in folders}
    workers = workers or parallel.cores()
    waiting = [job for folder, job in jobs.items() if not _is_recorded(job, folder)]
    seconds = sweep.estimate_seconds(waiting) / min(workers, len(waiting) or 1)
    _say(f"{len(waiting)} of {len(jobs)} networks to measure: at most {described(seconds)}")
    if longest is not None and seconds > longest:
        raise InvalidInput(
            f"measuring takes over {described(longest)}. To start it: {again} --yes (or make … YES=1)"
        )
    records, failures = {}, 0
    for job, outcome in sweep.measure_all(list(jobs.values()), workers=workers, label="measuring"):
        if isinstance(outcome, BenchError):
            failures += 1
            _say(f"error: {outcome}")
        else:
            records[Path(str(job.source))] = outcome.record
    return records, failures


def _logged(folder: Path, record: EvaluationRecord) -> tuple[int, int, int, int]:
    """Images, and robust ones, of training and validation at the epoch that was kept."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["epoch"] == record.card.epoch_kept)
    train_n, n = line.get("train_n", 0), line.get("validation_n", 0)
    train, validation = (line.get(f"{p}_robust_correct", 0) for p in ("train", "validation"))
    return train_n, train, n, validation


def _say(text: str) -> None:
    print(text, file=sys.stderr)
