"""Carries out a study: trains what is missing, measures best and last, writes what follows.

Everything is resumable, and nothing is chosen on test images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from awp_train.cost import described
from awp_train.pool import train_jobs
from awp_train.retell import measured_of, write
from awp_train.stages import Job, is_of, job_of
from awp_train.studies import KEPT, Arm, Study, split_of, study_of
from bench import training_log
from bench.measure import processes, sweep
from bench.records import store
from bench.schema import BenchError, InvalidInput
from bench.sources import checkpoint

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
    """Trains and measures what is missing; writes `<out>/studies/<name>.md`, `.csv` and `.json`.

    seeds and only (a word of the arms' names, such as n_train=2000) say which part is carried out;
    the summary is of that part and of all that was measured before. A run whose records are there is
    neither trained nor measured again, with or without its weights. Returns the summary. Raises
    InvalidInput above `longest` seconds, and BenchError where runs or measurements failed, after
    those that did not.
    """
    study = study_of(name)
    asked = list(range(study.seeds)) if seeds is None else list(seeds)
    # Seed after seed, so that an interrupted study compares what it has.
    wanted = [(arm, seed) for seed in asked for arm in _chosen(study, only)]
    whole = [(arm, seed) for seed in range(study.seeds) for arm in study.arms]
    jobs = {
        (arm, seed): job_of(arm.preset, arm.config(seed), out=checkpoints, runs=runs)
        for arm, seed in dict.fromkeys([*wanted, *whole])
    }
    before = {who: _recorded_before(study, job, out) for who, job in jobs.items()}
    left = {jobs[who].name: who for who in wanted if not before[who]}
    _say(f"{len(wanted) - len(left)} of {len(wanted)} runs are measured already")
    done: list[Job] = []
    if left:
        waiting = [jobs[who] for who in left.values()]
        done = train_jobs(waiting, workers=workers, longest=longest, again=again, recorded=out)
    folders = _folders(done, left)
    records, failures = _measure(study, list(folders), out, workers, longest, again)
    found = [(*who, kept, record) for who in before for kept, record in before[who].items()]
    found += [(*folders[folder], record) for folder, record in records.items()]
    measured = [measured_of(*one) for one in found if not _is_withdrawn(one[-1])]
    measured.sort(key=lambda m: (study.arms.index(m.arm), m.kept, m.seed))
    text = write(name, measured, out)
    if len(done) < len(left) or failures:
        failed = len(left) - len(done)
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


def _recorded_before(study: Study, job: Job, out: Path) -> dict[str, Path]:
    """best, last -> the record of a run of these settings; none unless both were measured.

    Card, curve and record are enough: the weights need not be there.
    """
    found: dict[str, Path] = {}
    for kept in KEPT:
        folder = job.recorded(out, kept)
        if folder is None or not (folder / training_log.NAME).is_file() or not is_of(job, folder):
            return {}
        if (path := _record_of(_measurement(study, folder, out), folder)) is None:
            return {}
        found[kept] = path
    return found


def _folders(jobs: Sequence[Job], left: Mapping[str, Who]) -> dict[Path, tuple[Arm, int, str]]:
    """Checkpoint folder -> arm, seed, best or last."""
    return {
        job.out / f"{job.name}-{kept}": (*left[job.name], kept)
        for job in jobs
        for kept in KEPT
        if (job.out / f"{job.name}-{kept}").exists()
    }


def _measurement(study: Study, folder: Path, out: Path) -> sweep.Job:
    split = split_of(checkpoint.read_card(folder).dataset, study.n)
    return sweep.make_job(folder, split=split, n=None, protocol=study.protocol, out=out)


def _record_of(job: sweep.Job, folder: Path) -> Path | None:
    return sweep.recorded(job, sweep.examples(job), checkpoint.read_card(folder))


def _measure(
    study: Study,
    folders: Sequence[Path],
    out: Path,
    workers: int | None,
    longest: float | None,
    again: str,
) -> tuple[dict[Path, Path], int]:
    """Checkpoint folder -> its record, measured where there is none, and how many failed."""
    if not folders:
        return {}, 0
    jobs = {folder: _measurement(study, folder, out) for folder in folders}
    workers = workers or processes.cores()
    waiting = [job for folder, job in jobs.items() if not _record_of(job, folder)]
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
            records[Path(str(job.source))] = outcome.path
    return records, failures


def _is_withdrawn(path: Path) -> bool:
    if withdrawn := store.is_withdrawn(path):
        _say(f"{path} was withdrawn and is left out")
    return withdrawn


def _say(text: str) -> None:
    print(text, file=sys.stderr)
