"""bench agree: our attacks against the published ones, seed by seed on the same images."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.evaluate import confirm
from bench.schema import BenchError, InvalidInput

if TYPE_CHECKING:
    from bench.measure.evaluate import Report
    from bench.measure.sweep import Job
    from bench.reliability.agreement import Agreement, Cell, Question, Study
    from bench.sources.opening import Source


def add(commands: Any) -> None:
    """Adds `agree` to the command line."""
    agree = commands.add_parser(
        "agree", help="do our attacks and the published ones agree? both over many seeds",
        description="What is finished is kept under --out; the same command continues, more seeds or "
        "columns add to it.",
    )  # fmt: skip
    agree.add_argument("checkpoint", nargs="+", type=Path, help="checkpoint folders")
    agree.add_argument("--seeds", type=int, default=20, metavar="S", help="seeds 0 to S - 1")
    agree.add_argument(
        "--columns", metavar="A,B",
        help="of apgd-ce, apgd-t, fab-t, square and autoattack; default: all of them",
    )  # fmt: skip
    agree.add_argument(
        "--dataset", metavar="D",
        help="a name, parquet:FOLDER or arrays:FOLDER; default: what it was trained on",
    )  # fmt: skip
    agree.add_argument("--dataset-name", metavar="N", help="how a folder's data is called")
    agree.add_argument("--split", default="test", help='such as "test[1000:2000]"')
    agree.add_argument("--threat", metavar="linf:8/255", help="default: the data set's")
    agree.add_argument("--n", type=int, help="the first n images; default all, on a CPU 1,000")
    agree.add_argument(
        "--proven", type=float, metavar="0.485", help="a proven lower bound of robust accuracy"
    )
    agree.add_argument("--device", default="auto")
    agree.add_argument("--batch", type=int, help="images attacked at once")
    agree.add_argument("--workers", type=int, default=1, help="cells at a time, on a CPU")
    agree.add_argument("--out", type=Path, default=Path("results/agreement"), metavar="DIR")
    agree.add_argument("--yes", action="store_true", help="do not ask before a long job")
    agree.add_argument("--json", action="store_true", help="one JSON document on stdout")
    agree.set_defaults(run=_agree)


def _agree(a: argparse.Namespace) -> int:
    from bench.reliability import agreement

    if a.seeds < 1 or a.workers < 1:
        raise InvalidInput(f"--seeds and --workers must be at least 1, got {a.seeds}, {a.workers}")
    if a.proven is not None and (len(a.checkpoint) > 1 or not 0 <= a.proven <= 1):
        raise InvalidInput("--proven is the bound of one checkpoint, a share such as 0.485")
    status, answers = 0, []
    for folder in a.checkpoint:
        study, found, failed = _study(folder, a)
        status = max(status, failed)
        answers.append((study, found))
    if a.json:
        print(json.dumps([agreement.as_json(*answer) for answer in answers], indent=1))
    else:
        print("\n\n".join(agreement.summary(*answer) for answer in answers))
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
    from bench.measure import evaluate, processes, sweep
    from bench.reliability import agreement as studies
    from bench.sources import checkpoint

    job = sweep.make_job(
        folder, dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, n=a.n,
        threat=a.threat, protocol="autoattack", device=a.device,
    )  # fmt: skip
    card, data = checkpoint.read_card(folder), sweep.examples(job)
    # One batch for both: the published attacks' answer depends on it.
    batch = a.batch or evaluate.default_rows(data.x[:1], card.n_parameters, "reference")
    names = a.columns.split(",") if a.columns else ()
    columns = studies.compared_columns(job.threat, card.class_count, names)
    study = studies.begin(card, data, job.threat)
    path = studies.path_of(study, a.out)
    study = studies.read(path) if path.exists() else study
    missing = studies.unanswered(study, columns, seeds=a.seeds, batch=batch)
    failed, workers = 0, 1 if job.device.startswith("cuda") else a.workers
    if missing:
        _threads(job, batch)
        what = f"{card.name}: {len(missing)} runs of an attack, n = {len(data)}"
        confirm(_seconds(job, missing) / min(workers, len(missing)), what, yes=a.yes)
    tasks = [_Task(job, batch, question, card.weights_sha256) for question in missing]
    for task, cell in processes.run(_run, tasks, workers=workers, label="agree", quiet=a.json):
        if isinstance(cell, BenchError):
            print(f"error: {cell}", file=sys.stderr)
            failed = max(failed, 2 if isinstance(cell, InvalidInput) else 1)
        else:
            study = studies.keep(path, study, task.question.column, cell)
    found = studies.agreements(study, columns, seeds=a.seeds, batch=batch, proven=a.proven)
    if tasks:
        print(path, file=sys.stderr)
    return study, found, failed


def _threads(job: Job, batch: int) -> None:
    import torch

    if job.device == "cpu" and batch > 64:
        torch.set_num_threads(1)  # small networks: threads cost more than they give


def _seconds(job: Job, questions: list[Question]) -> float:
    from bench.measure import evaluate, sweep
    from bench.schema import Protocol
    from bench.sources import opening

    model, data = opening.open_model(job.source, job.device)[0], sweep.examples(job)
    every = Protocol(name="agreement", version=1, columns=tuple(q.column for q in questions))
    return evaluate.estimate_seconds(model, data.x, every, len(data))


def _run(task: _Task, report: Report) -> Cell:
    from bench.measure import sweep
    from bench.reliability import agreement

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
def _loaded(source: Source, device: str) -> Any:
    from bench.sources import opening

    return opening.open_model(source, device)
