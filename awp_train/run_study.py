"""Carries out a study: trains what is missing, measures best and last, writes what follows.

Everything is resumable, and nothing is chosen on test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from awp_train.plan import Job, duration, is_of, job_of, say, train_jobs
from awp_train.retell import counted, write
from awp_train.studies import KEPT, Arm, Study, is_settled, split_of, study_of
from bench import training_log
from bench.measure import processes, sweep
from bench.records.lock import made
from bench.schema import BenchError, InvalidInput
from bench.sources import checkpoint


def run_study(
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
    InvalidInput above `longest` seconds and for settings that are not chosen yet, and BenchError
    where runs or measurements failed, after those that did not.
    """
    study = study_of(name)
    asked = range(study.seeds) if seeds is None else seeds
    # Seed after seed, so that an interrupted study compares what it has.
    wanted = [(arm, seed) for seed in asked for arm in _chosen(study, only)]
    there = [arm for arm in study.arms if is_settled(arm)]
    whole = [(arm, seed) for seed in range(study.seeds) for arm in there]
    jobs = {
        (arm, seed): job_of(arm.preset, arm.config(seed), out=checkpoints, runs=runs)
        for arm, seed in dict.fromkeys([*wanted, *whole])
    }
    before = {who: _recorded_before(study, job, out) for who, job in jobs.items()}
    left = {jobs[who].name: who for who in wanted if not before[who]}
    say(f"{len(wanted) - len(left)} of {len(wanted)} runs are measured already")
    made(out)  # before hours of training, whose records go there
    done: list[Job] = []
    if left:
        waiting = [jobs[who] for who in left.values()]
        done = train_jobs(waiting, workers=workers, longest=longest, again=again, recorded=out)
    # Checkpoint folder -> arm, seed, best or last.
    folders = {
        job.out / f"{job.name}-{kept}": (*left[job.name], kept)
        for job in done
        for kept in KEPT
        if (job.out / f"{job.name}-{kept}").exists()
    }
    records = _measure(study, list(folders), out, workers, longest, again)
    found = [(*who, kept, record) for who in before for kept, record in before[who].items()]
    found += [(*folders[folder], record) for folder, record in records.items()]
    measured = counted(found, out)
    measured.sort(key=lambda m: (study.arms.index(m.arm), m.kept, m.seed))
    text = write(name, measured, out)
    runs_failed, measurements_failed = len(left) - len(done), len(folders) - len(records)
    if runs_failed or measurements_failed:
        raise BenchError(
            f"{runs_failed} runs and {measurements_failed} measurements failed; the summary in "
            f"{out / 'studies'} is of the others"
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
) -> dict[Path, Path]:
    """Checkpoint folder -> its record, measured where there is none; what failed is told."""
    if not folders:
        return {}
    jobs = {folder: _measurement(study, folder, out) for folder in folders}
    workers = workers or processes.cores()
    waiting = [job for folder, job in jobs.items() if not _record_of(job, folder)]
    seconds = sweep.estimate_seconds(waiting) / min(workers, len(waiting) or 1)
    say(f"{len(waiting)} of {len(jobs)} networks to measure: at most {duration(seconds)}")
    if longest is not None and seconds > longest:
        raise InvalidInput(
            f"measuring takes over {duration(longest)}. To start it: {again} --yes (or make … YES=1)"
        )
    records = {}
    for job, outcome in sweep.measure_all(list(jobs.values()), workers=workers, label="measuring"):
        if isinstance(outcome, BenchError):
            say(f"error: {outcome}")
        else:
            records[Path(str(job.source))] = outcome.path
    return records
