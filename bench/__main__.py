"""The command line: python -m bench evaluate | verify | import | submit | table | withdraw | list.

Results are printed last, alone; progress goes to stderr. Exit status: 0 done, 1 the measurement
failed, 2 the call was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.catalogue import ARCHITECTURES, DATASETS
from bench.protocols import PROTOCOL_NAMES, protocol_meaning
from bench.schema import BenchError, InvalidInput, Scalar

if TYPE_CHECKING:
    from bench.sweep import Job, Outcome

LONG = 2 * 3600  # seconds of estimated time above which a job wants to be confirmed
CHECKPOINTS = Path("var/checkpoints")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    evaluate = commands.add_parser(
        "evaluate", help="attack checkpoints, write records",
        description="Without CHECKPOINT: every checkpoint under --checkpoints not yet measured.",
    )  # fmt: skip
    evaluate.add_argument("checkpoint", nargs="*", type=Path, help="checkpoint folders")
    evaluate.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR")
    evaluate.add_argument("--kept", choices=("last", "best", "all"), default="last")
    evaluate.add_argument("--only-dataset", metavar="D", help="of those found: trained on D")
    evaluate.add_argument("--only-arch", metavar="A", help="of those found: of architecture A")
    evaluate.add_argument("--only-seeds", metavar="0,1", help="of those found: these seeds")
    _measuring(evaluate, "--dataset")
    evaluate.set_defaults(run=_evaluate)

    bring = commands.add_parser("import", help="foreign state dict -> checkpoint folder")
    _foreign(bring)
    bring.set_defaults(run=lambda a: print(_import(a)))

    submit = commands.add_parser("submit", help="import, check, evaluate and record in one go")
    _foreign(submit)
    _measuring(submit, "--data")
    submit.set_defaults(run=_submit)

    table = commands.add_parser("table", help="records -> leaderboard; writes it and prints it")
    table.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    table.add_argument("--format", choices=("text", "md", "csv", "json"), default="text")
    table.add_argument("--check", action="store_true", help="write nothing; exit 1 where stale")
    table.set_defaults(run=_table)

    proof = commands.add_parser("verify", help="re-prove a record's broken bits from its evidence")
    proof.add_argument("record", type=Path, help="a record, or a model's folder of records")
    proof.add_argument(
        "--weights", type=Path, help="checkpoint folder, where not beside the record"
    )
    proof.add_argument("--evidence", type=Path, help="evidence file, where not beside the record")
    proof.add_argument("--dataset", metavar="D", help="for records of parquet: and arrays: folders")
    proof.add_argument("--json", action="store_true")
    proof.set_defaults(run=_verify)

    withdraw = commands.add_parser("withdraw", help="take a record out of the table")
    withdraw.add_argument("record", type=Path)
    withdraw.add_argument("--reason", required=True)
    withdraw.set_defaults(run=_withdraw)

    listing = commands.add_parser("list", help="data sets, architectures and protocols")
    listing.set_defaults(run=lambda a: print(_listing()))
    return parser


def _measuring(parser: argparse.ArgumentParser, data_flag: str) -> None:
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
        "--engine", choices=("reference", "ours"), default="reference",
        help="whose AutoAttack: the published one, or ours (new, still being compared)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="checkpoints at a time; default: all cores")
    parser.add_argument("--batch", type=int, help="images attacked at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--again", action="store_true", help="measure even where a record exists")
    parser.add_argument("--yes", action="store_true", help="do not ask before a long job")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _foreign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=".pt, .pth or .safetensors")
    parser.add_argument("--arch", required=True, metavar="A", help=", ".join(ARCHITECTURES))
    parser.add_argument("--arch-arg", action="append", default=[], metavar="k=v")
    parser.add_argument("--dataset", required=True, metavar="D", help=", ".join(DATASETS))
    parser.add_argument("--name", required=True, metavar="N")
    parser.add_argument("--mean", metavar="a,b,c", help="input normalisation, a value a channel")
    parser.add_argument("--std", metavar="a,b,c")
    parser.add_argument(
        "--objective", choices=("natural", "at", "trades", "mart", "rst", "pretrain")
    )
    parser.add_argument("--authors", default="")
    parser.add_argument("--link", default="")
    parser.add_argument("--licence", default="")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR")


# ---------------------------------------------------------------- commands


def _evaluate(a: argparse.Namespace) -> int:
    from bench import sweep

    folders = a.checkpoint
    if not folders:
        seeds = [int(s) for s in a.only_seeds.split(",")] if a.only_seeds else None
        problems: list[str] = []
        folders = sweep.checkpoints(
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
    return _measure([_job(folder, a) for folder in folders], a)


def _job(folder: Path, a: argparse.Namespace) -> Job:
    from bench import sweep

    said = {
        "dataset": a.data, "dataset_name": a.dataset_name, "split": a.split, "n": a.n,
        "threat": a.threat, "protocol": a.protocol, "seed": a.seed, "device": a.device,
        "engine": a.engine, "batch": a.batch, "out": a.out, "again": a.again,
    }  # fmt: skip
    return sweep.make_job(folder, **said)


def _measure(jobs: list[Job], a: argparse.Namespace) -> int:
    from bench import parallel, sweep

    workers = a.workers or parallel.cores()
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {workers}")
    waiting = [j for j in jobs if a.again or not _is_recorded(j)]
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


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _is_recorded(job: Job) -> bool:
    from bench import checkpoint, sweep

    return sweep.recorded(job, sweep.examples(job), checkpoint.read_card(job.folder)) is not None


def _json(outcome: Outcome) -> dict[str, Any]:
    r = outcome.record
    return {
        "name": r.card.name, "dataset": r.dataset, "threat": str(r.threat),
        "protocol": r.protocol.name, "n": r.n, "clean": r.clean_accuracy,
        "robust": r.robust_accuracy, "worst_case": r.worst_case,
        "flags": [f.name for f in r.flags], "records": [str(outcome.path)],
    }  # fmt: skip


def _lines(outcome: Outcome) -> str:
    from bench.results import summary

    r = outcome.record
    flags = f"\n  flags: {', '.join(f.name for f in r.flags)}" if r.flags else ""
    state = "" if outcome.measured else " (recorded before)"
    where = f"{r.dataset} {r.threat} {r.protocol.name}"
    return f"{r.card.name}, {where}{state}: {summary(r)}{flags}\n  {outcome.path}"


def _import(a: argparse.Namespace) -> Path:
    from bench import checkpoint

    details = {"authors": a.authors, "link": a.link, "licence": a.licence, "objective": a.objective}
    return checkpoint.import_checkpoint(
        a.file, arch=a.arch, dataset=a.dataset, name=a.name, arch_args=_pairs(a.arch_arg),
        mean=_floats(a.mean, "--mean"), std=_floats(a.std, "--std"), details=details,
        out=a.checkpoints,
    )  # fmt: skip


def _submit(a: argparse.Namespace) -> int:
    from bench import checkpoint, sweep

    folder = _import(a)
    job = _job(folder, a)
    model, card = checkpoint.load(folder, device=job.device)
    right, n = sweep.clean_correct(model, sweep.examples(job))
    if right <= n / card.class_count:
        raise InvalidInput(
            f"{a.name}: {right} of {n} clean images are right, not above chance "
            f"(1 in {card.class_count}). Is the normalisation right (--mean, --std)? "
            "Does the network expect other classes?"
        )
    return _measure([job], a)


def _table(a: argparse.Namespace) -> int:
    from bench import render, table

    if a.check:
        stale = render.stale(a.results)
        for problem in stale:
            print(f"stale: {problem}; write it again with: python -m bench table", file=sys.stderr)
        return 1 if stale else 0
    board = table.build(a.results)
    render.write_leaderboard(a.results)
    print({"text": render.terminal_table, "md": render.markdown, "csv": render.to_csv,
           "json": render.to_json}[a.format](board))  # fmt: skip
    return 0


def _verify(a: argparse.Namespace) -> int:
    from bench import verify

    paths = [a.record]
    if a.record.is_dir():
        paths = sorted(p for p in a.record.glob("*.json") if len(p.stem) == 16)
        if not paths:
            raise InvalidInput(f"no record in {a.record}")
    found = [
        verify.verify(path, weights=a.weights, proof=a.evidence, dataset=a.dataset)
        for path in paths
    ]
    if a.json:
        print(json.dumps([verify.as_json(each) for each in found], indent=1))
    else:
        print("\n".join(map(verify.summary, found)))
    return 0 if all(each.proven for each in found) else 1


def _withdraw(a: argparse.Namespace) -> int:
    from bench import results

    print(results.withdraw(a.record, a.reason))
    return 0


def _listing() -> str:
    lines = ["data sets"]
    for name, d in DATASETS.items():
        shape = f"{d.channels} x {d.image_size} x {d.image_size}, {d.class_count} classes"
        lines.append(f"  {name:18} {shape}; default threat {d.default_threat}")
    lines.append("architectures")
    for name, arch in ARCHITECTURES.items():
        lines.append(f"  {name:18} {', '.join(arch.arguments)}")
    lines.append("protocols")
    for name in PROTOCOL_NAMES:
        lines.append(f"  {name:18} {protocol_meaning(name)}")
    return "\n".join(lines)


# ---------------------------------------------------------------- parsing


def _pairs(texts: Sequence[str]) -> dict[str, Scalar]:
    pairs: dict[str, Scalar] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InvalidInput(f"--arch-arg is written name=number, got {text!r}")
        pairs[key] = int(number) if number.is_integer() else number
    return pairs


def _floats(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"{flag} is written as numbers with commas, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
