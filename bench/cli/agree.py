"""bench agree: our attacks against the published ones, seed by seed on the same images."""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.attacks.problem import Model
from bench.cli.arguments import answer, confirm, failed
from bench.measure import estimate, keeping, processes, sweep
from bench.measure.processes import Report
from bench.measure.question import default_rows
from bench.measure.sweep import Job
from bench.reliability import agreement
from bench.reliability.agreement import Agreement, Cell, Question, Study
from bench.schema import BenchError, InvalidInput, ModelCard, Protocol
from bench.sources import checkpoint, opening
from bench.sources.opening import Source


def run(a: argparse.Namespace) -> int:
    """Runs what is missing of every checkpoint's study and prints whether the engines agree."""
    if a.seeds < 1 or a.workers < 1:
        raise InvalidInput(f"--seeds and --workers must be at least 1, got {a.seeds}, {a.workers}")
    if a.proven is not None and (len(a.checkpoint) > 1 or not 0 <= a.proven <= 1):
        raise InvalidInput("--proven is the bound of one checkpoint, a share such as 0.485")
    status, found = 0, []
    for folder in a.checkpoint:
        study, agreements, failure = _study(folder, a)
        status = max(status, failure)
        found.append((study, agreements))
    text = "\n\n".join(agreement.summary(*each) for each in found)
    answer([agreement.as_json(*each) for each in found], text, as_json=a.json)
    return status


@dataclass(frozen=True)
class _Task:
    """One cell to run, in this process or another."""

    job: Job
    batch: int
    question: Question
    weights_sha256: str  # of the study: what the cell must be measured with


def _study(folder: Path, a: argparse.Namespace) -> tuple[Study, list[Agreement], int]:
    """Runs what is missing of one checkpoint; a failed cell is said and leaves a gap."""
    job = sweep.make_job(
        folder, dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, n=a.n,
        threat=a.threat, protocol="autoattack", device=a.device,
    )  # fmt: skip
    card, data = checkpoint.read_card(folder), sweep.examples(job)
    # One batch for both: the published attacks' answer depends on it.
    batch = a.batch or default_rows(data.x[:1], card.n_parameters, "reference")
    names = a.columns.split(",") if a.columns else ()
    columns = agreement.compared_columns(job.threat, card.class_count, names)
    study = agreement.begin(card, data, job.threat)
    path = agreement.path_of(study, a.out)
    study = agreement.read(path) if path.exists() else study
    missing = agreement.unanswered(study, columns, seeds=a.seeds, batch=batch)
    status, workers = 0, 1 if job.device.startswith("cuda") else a.workers
    if missing:
        keeping.refuse_unwritable(path.parent)
        if job.device == "cpu" and batch > 64:
            torch.set_num_threads(1)  # small networks: threads cost more than they give
        model = opening.open_model(job.source, job.device)[0]
        every = Protocol(name="agreement", version=1, columns=tuple(q.column for q in missing))
        seconds = estimate.estimate_seconds(model, data.x, every, len(data))
        what = f"{card.name}: {len(missing)} runs of an attack, n = {len(data)}"
        confirm(seconds / min(workers, len(missing)), what, yes=a.yes)
    tasks = [_Task(job, batch, question, card.weights_sha256) for question in missing]
    for task, cell in processes.run(_run, tasks, workers=workers, label="agree", quiet=a.json):
        if isinstance(cell, BenchError):
            status = max(status, failed(cell))
        else:
            study = agreement.keep(path, study, task.question.column, cell)
    found = agreement.agreements(study, columns, seeds=a.seeds, batch=batch, proven=a.proven)
    if tasks:
        print(path, file=sys.stderr)
    return study, found, status


def _run(task: _Task, report: Report) -> Cell:
    job, question = task.job, task.question
    model, card = _loaded(job.source, job.device)
    if card.weights_sha256 != task.weights_sha256:
        raise InvalidInput(f"{job.source} was replaced while it was measured; start again")
    return agreement.measure_cell(
        question, model, sweep.examples(job), card, threat=job.threat, batch=task.batch,
        work=job.work,
        report=lambda share, text: report(
            share, f"{card.name}, seed {question.seed}, {question.engine}: {text}"
        ),
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _loaded(source: Source, device: str) -> tuple[Model, ModelCard]:
    return opening.open_model(source, device)
