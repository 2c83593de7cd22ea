"""bench evaluate and merge: attacks checkpoints, whole or a share of one, and writes records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import datasets
from bench.cli import told
from bench.cli.arguments import answer, confirm, failed, whole_numbers
from bench.measure import processes, sweep
from bench.measure.sweep import Job, Outcome
from bench.records.entry import audit_passes_of, passes_a_standing_image, passes_of
from bench.schema import BenchError, InvalidInput
from bench.sources import checkpoint, python_file, zoo
from bench.sources.opening import Source
from bench.sources.unregistered import PROBED


def run(a: argparse.Namespace) -> int:
    """Measures the checkpoints named, the user's own model, or those found that have no record."""
    sources = named(a, a.checkpoint, a.data) or _found(a)
    jobs = [job_of(source, a) for source in sources]
    if a.shard is None:
        return measure(jobs, a)
    from bench.cli.shares import make_shares

    return make_shares(jobs, a)


def named(a: argparse.Namespace, checkpoints: Sequence[Path], data: str | None) -> list[Source]:
    """The models that a call names: checkpoint folders, models of the zoo, or the user's own.

    data is what they are measured on; a model of the user's own is tried on its first images.
    """
    if a.name and not a.model:
        raise InvalidInput("--name belongs to --model; a checkpoint's name stands in its card")
    if not a.model:
        return [zoo.source(each, a.zoo) for each in checkpoints]
    if checkpoints:
        raise InvalidInput("give either CHECKPOINT or --model, not both")
    if not data:
        raise InvalidInput("--model needs --dataset: your own model has no card that names one")
    images = datasets.load(data, a.split, name=a.dataset_name)[:PROBED]
    own = python_file.open_model(
        a.model, images.x, name=a.name, dataset=images.name, device=a.device,
        batch=vars(a).get("batch"),
    )  # fmt: skip
    if own.note:
        print(f"{own.card.name}: {own.note}. Its id does not tell these apart", file=sys.stderr)
    return [own]


def _found(a: argparse.Namespace) -> list[Source]:
    """The checkpoints under --checkpoints that fit what was asked."""
    seeds = whole_numbers(a.only_seeds, "--only-seeds") if a.only_seeds else None
    problems: list[str] = []
    found = sweep.checkpoints(
        a.checkpoints, problems, kept=a.kept, dataset=a.only_dataset, arch=a.only_arch, seeds=seeds
    )
    if not a.data:
        cards = {folder: checkpoint.read_card(folder) for folder in found}
        own = [folder for folder, card in cards.items() if card.train and card.train.own]
        problems += [
            f"{folder}: its images are one's own, give --dataset FORM:FOLDER" for folder in own
        ]
        found = [folder for folder in found if folder not in own]
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not found:
        raise InvalidInput(
            f"no {a.kept} checkpoint under {a.checkpoints} fits; train some with: make train-all"
        )
    return [*found]


def job_of(source: Source, a: argparse.Namespace) -> Job:
    """The job that the arguments describe for one model."""
    return sweep.make_job(
        source, dataset=a.data, dataset_name=a.dataset_name, split=a.split, n=a.n, threat=a.threat,
        protocol=a.protocol, seed=a.seed, device=a.device, engine=a.engine, precision=a.precision,
        audit=a.audit, max_seconds=a.max_seconds, batch=a.batch, out=a.out, again=a.again,
        work=a.parts,
    )  # fmt: skip


def measure(jobs: list[Job], a: argparse.Namespace) -> int:
    """Measures the jobs, prints the answers; returns an exit status. Raises as `agreed`."""
    return measured(jobs, agreed(jobs, a), a)


def agreed(jobs: list[Job], a: argparse.Namespace) -> int:
    """How many processes measure the jobs, after saying how long that takes at most.

    Raises InvalidInput where it is long and not confirmed.
    """
    workers = workers_of(a)
    waiting = [j for j in jobs if a.again or not sweep.answered(j)]
    if waiting:
        seconds = sweep.estimate_seconds(waiting) / min(workers, len(waiting))
        confirm(seconds, f"{len(waiting)} evaluations", yes=a.yes)
    return workers


def measured(jobs: list[Job], workers: int, a: argparse.Namespace) -> int:
    """Measures jobs that are agreed on, prints the answers; returns an exit status."""
    outcomes, status = [], 0
    for _, outcome in sweep.measure_all(jobs, workers=workers, quiet=a.json):
        if isinstance(outcome, BenchError):
            status = max(status, failed(outcome))
        else:
            outcomes.append(outcome)
    for gone in [o.path for o in outcomes if not o.path.is_file()]:  # by a model measured later
        status = max(status, failed(f"{gone} was written, and is not there any more"))
    outcomes.sort(key=lambda o: o.record.card.name)
    lines = "" if a.json else told.of(outcomes, a.out)
    answer([_json(o) for o in outcomes], lines, as_json=a.json)
    return status


def workers_of(a: argparse.Namespace) -> int:
    """How many processes are asked for; as many as cores where nothing is said."""
    workers = processes.cores() if a.workers is None else int(a.workers)
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {workers}")
    return workers


def _json(outcome: Outcome) -> dict[str, Any]:
    r = outcome.record
    return {
        "name": r.card.name, "dataset": r.dataset, "threat": str(r.threat),
        "protocol": r.protocol.name, "n": r.n, "clean": r.clean_accuracy,
        "robust": r.robust_accuracy, "worst_case": r.worst_case, "passes": passes_of(r),
        "passes_a_standing_image": passes_a_standing_image(passes_of(r), r.worst_case_count),
        "audits": [vars(audit) for audit in r.audits], "passes_of_audits": audit_passes_of(r),
        "flags": told.names_of_flags(r), "records": [str(outcome.path)],
    }  # fmt: skip
