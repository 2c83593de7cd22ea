"""bench evaluate: attacks checkpoints, writes records."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.arguments import duration
from bench.protocols import PROTOCOL_NAMES
from bench.schema import BenchError, InvalidInput

if TYPE_CHECKING:
    from bench.measure.sweep import Job, Outcome
    from bench.schema import EvaluationRecord
    from bench.sources.opening import Source

LONG = 2 * 3600  # seconds of estimated time above which a job wants to be confirmed
CHECKPOINTS = Path("var/checkpoints")
ZOO = Path("var/zoo")


def add(commands: Any) -> None:
    """Adds `evaluate` to the command line."""
    evaluate = commands.add_parser(
        "evaluate", help="attack checkpoints, write records",
        description="Without CHECKPOINT: every checkpoint under --checkpoints not yet measured.",
    )  # fmt: skip
    evaluate.add_argument(
        "checkpoint", nargs="*", type=Path, help="checkpoint folders, or robustbench:<model id>"
    )
    evaluate.add_argument(
        "--zoo", type=Path, default=ZOO, metavar="DIR", help="where the weights of its models are"
    )
    evaluate.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR")
    evaluate.add_argument("--kept", choices=("last", "best", "all"), default="last")
    evaluate.add_argument("--only-dataset", metavar="D", help="of those found: trained on D")
    evaluate.add_argument("--only-arch", metavar="A", help="of those found: of architecture A")
    evaluate.add_argument("--only-seeds", metavar="0,1", help="of those found: these seeds")
    evaluate.add_argument(
        "--model", metavar="FILE.py:FUNCTION",
        help="measure what FUNCTION() of your own file returns, a torch Module (put in eval mode) "
        "or a callable from images in [0, 1] to logits; needs --dataset. This runs the file: only "
        "your own, never one somebody sent; submissions are weights (bench submit)",
    )  # fmt: skip
    evaluate.add_argument(
        "--name", metavar="N", help="with --model: what records call it; default: file-function"
    )
    measuring(evaluate, "--dataset")
    evaluate.set_defaults(run=_evaluate)


def measuring(parser: argparse.ArgumentParser, data_flag: str) -> None:
    """Adds what every measuring command takes; data_flag names the one that chooses images."""
    parser.add_argument(
        data_flag, dest="data", metavar="D",
        help="measure on a name, parquet:FOLDER or arrays:FOLDER; default: what it was trained on",
    )  # fmt: skip
    parser.add_argument("--dataset-name", metavar="N", help="how records call a folder's data")
    parser.add_argument("--split", default="test", help='such as "test[1000:2000]"')
    parser.add_argument("--threat", metavar="linf:8/255", help="default: the data set's")
    parser.add_argument(
        "--protocol", default="standard", metavar="P", help=", ".join(PROTOCOL_NAMES)
    )
    parser.add_argument("--n", type=int, help="the first n images; default all, on a CPU 1,000")
    parser.add_argument(
        "--engine", choices=("ours", "reference"), default="ours",
        help="whose AutoAttack: ours, or the published implementation (slower)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("float32", "mixed"), default="float32",
        help="mixed: search in bfloat16 where the model bears it; float32 judges either way",
    )  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="processes; default: as many as cores")
    parser.add_argument("--batch", type=int, help="rows (image x target) in the model at once")
    parser.add_argument(
        "--max-seconds", type=float, metavar="T",
        help="stop after so long; the same command goes on from what is finished",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--again", action="store_true", help="measure even where a record exists")
    parser.add_argument("--yes", action="store_true", help="do not ask before a long job")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _evaluate(a: argparse.Namespace) -> int:
    from bench.measure import sweep
    from bench.sources import zoo

    if a.name and not a.model:
        raise InvalidInput("--name belongs to --model; a checkpoint's name stands in its card")
    if a.model:
        return measure([_own_job(a)], a)
    folders = [zoo.source(each, a.zoo) for each in a.checkpoint]
    if not folders:
        seeds = [int(s) for s in a.only_seeds.split(",")] if a.only_seeds else None
        problems: list[str] = []
        folders += sweep.checkpoints(
            a.checkpoints,
            problems,
            kept=a.kept,
            dataset=a.only_dataset,
            arch=a.only_arch,
            seeds=seeds,
        )
        for problem in problems:
            print(f"left out: {problem}", file=sys.stderr)
        if not folders:
            raise InvalidInput(
                f"no {a.kept} checkpoint under {a.checkpoints} fits; "
                "train some with: make train-all"
            )
    return measure([job_of(folder, a) for folder in folders], a)


def _own_job(a: argparse.Namespace) -> Job:
    """The job of the user's own model, opened and tried on the first images."""
    from bench import datasets
    from bench.sources import python_file

    if a.checkpoint:
        raise InvalidInput("give either CHECKPOINT or --model, not both")
    if not a.data:
        raise InvalidInput("--model needs --dataset: your own model has no card that names one")
    images = datasets.load(a.data, a.split, name=a.dataset_name)[: python_file.PROBED]
    own = python_file.open_model(
        a.model, images.x, name=a.name, dataset=images.name, device=a.device
    )  # fmt: skip
    if own.note:
        print(f"{own.card.name}: {own.note}. Its id does not tell these apart", file=sys.stderr)
    return job_of(own, a)


def job_of(source: Source, a: argparse.Namespace) -> Job:
    """The job that the arguments describe for one model."""
    from bench.measure import sweep

    said = {
        "dataset": a.data, "dataset_name": a.dataset_name, "split": a.split, "n": a.n,
        "threat": a.threat, "protocol": a.protocol, "seed": a.seed, "device": a.device,
        "engine": a.engine, "precision": a.precision, "max_seconds": a.max_seconds,
        "batch": a.batch, "out": a.out, "again": a.again,
    }  # fmt: skip
    return sweep.make_job(source, **said)


def measure(jobs: list[Job], a: argparse.Namespace) -> int:
    """Measures the jobs, prints the answers; returns an exit status."""
    from bench.measure import processes, sweep

    workers = a.workers or processes.cores()
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {workers}")
    waiting = [j for j in jobs if a.again or not sweep.answered(j)]
    if waiting:
        seconds = sweep.estimate_seconds(waiting) / min(workers, len(waiting))
        confirm(seconds, f"{len(waiting)} evaluations", yes=a.yes)
    outcomes, failed = [], 0
    for _, outcome in sweep.measure_all(jobs, workers=workers, quiet=a.json):
        if isinstance(outcome, BenchError):
            print(f"error: {outcome}", file=sys.stderr)
            failed = max(failed, 2 if isinstance(outcome, InvalidInput) else 1)
        else:
            outcomes.append(outcome)
    for gone in [o.path for o in outcomes if not o.path.is_file()]:
        print(f"error: {gone} was written, and is not there any more", file=sys.stderr)
        failed = max(failed, 1)
    outcomes.sort(key=lambda o: o.record.card.name)
    if a.json:
        print(json.dumps([_json(o) for o in outcomes], indent=1))
    else:
        for o in outcomes:
            print(_lines(o))
    return failed


def confirm(seconds: float, what: str, *, yes: bool) -> None:
    """Says how long a job takes; above two hours it needs --yes. Raises InvalidInput."""
    print(f"{what}: at most about {duration(seconds)}", file=sys.stderr)
    if seconds > LONG and not yes:
        command = " ".join(["python", "-m", "bench", *sys.argv[1:], "--yes"])
        raise InvalidInput(
            f"that is above {LONG // 3600} hours. To go ahead: {command} (or make … YES=1)"
        )


def _json(outcome: Outcome) -> dict[str, Any]:
    r = outcome.record
    return {
        "name": r.card.name, "dataset": r.dataset, "threat": str(r.threat),
        "protocol": r.protocol.name, "n": r.n, "clean": r.clean_accuracy,
        "robust": r.robust_accuracy, "worst_case": r.worst_case,
        "flags": _flags(r), "records": [str(outcome.path)],
    }  # fmt: skip


def _flags(record: EvaluationRecord) -> list[str]:
    """Names of the reasons for doubt, as every table reads them."""
    from bench.reliability.flags import reading

    return [flag.name for flag in reading(record).flags]


def _lines(outcome: Outcome) -> str:
    from bench.records.store import summary

    r = outcome.record
    flags = f"\n  flags: {', '.join(_flags(r))}" if _flags(r) else ""
    state = "" if outcome.measured else " (recorded before)"
    where = f"{r.dataset} {r.threat} {r.protocol.name}"
    return f"{r.card.name}, {where}{state}: {summary(r)}{flags}\n  {outcome.path}"
