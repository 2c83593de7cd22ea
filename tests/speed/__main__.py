"""python -m tests.speed: ours and other libraries side by side, in alternating repetitions.

Prints one ratio a comparison, with n and the per-image agreement, and writes results/speed/<row>.json.
Nothing fails where a target is missed: this is a benchmark, not a test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.cli.arguments import duration
from bench.measure.processes import cores
from bench.records.store import write_atomic
from bench.schema import BenchError, InvalidInput
from tests.speed import contest, evaluation, gradient, report, training
from tests.speed.contest import Contest, Settings
from tests.speed.networks import Unavailable

ROWS = {**gradient.ROWS, **evaluation.ROWS, **training.ROWS}
RESULTS, QUICK_RESULTS = Path("results/speed"), Path("var/speed")
LONG = 2 * 3600  # seconds of estimated time above which a run wants to be confirmed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("\ninterrupted; rows that were finished are written", file=sys.stderr)
        return 130
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1


def _run(arguments: argparse.Namespace) -> int:
    folder = arguments.out or (QUICK_RESULTS if arguments.quick else RESULTS)
    if arguments.table:
        print(_write_table(folder), end="")
        return 0
    if arguments.threads < 1 or (arguments.repetitions or 1) < 1:
        raise InvalidInput("--threads and --repetitions must be at least 1")
    torch.set_num_threads(arguments.threads)
    settings = Settings(arguments.networks, arguments.threads, arguments.quick)
    names = list(dict.fromkeys(arguments.only or ROWS))
    ready, skipped = _prepare(names, settings)
    repetitions = {name: _repetitions(name, arguments) for name in ready}
    seconds = {n: contest.estimate_seconds(c, repetitions[n]) for n, c in ready.items()}
    for name in ready:
        _say(f"{name}: at most {duration(seconds[name])}")
    if sum(seconds.values()) > LONG and not arguments.yes:
        raise InvalidInput(
            f"these rows take {duration(sum(seconds.values()))} at most; --yes (YES=1 with make) runs "
            "them, --only ROW runs one, --quick tries them at reduced sizes"
        )
    failed = False
    for name, made in ready.items():
        try:
            result = contest.run(name, ROWS[name], made, settings, repetitions[name], _say)
        except BenchError as error:  # the other rows go on; the exit status says it
            skipped[name], failed = f"failed: {error}", True
            continue
        report.write(result, folder)
        print(report.summary(result), end="\n\n", flush=True)
    for name, reason in skipped.items():
        print(f"{name}: not measured: {reason}")
    if ready:
        _write_table(folder)
    return 1 if failed else 0


def _prepare(names: list[str], settings: Settings) -> tuple[dict[str, Contest], dict[str, str]]:
    """The rows that can be run, and why the others cannot."""
    ready: dict[str, Contest] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            made = ROWS[name].prepare(settings)
        except Unavailable as error:
            skipped[name] = str(error)
            continue
        if made.comparisons:
            ready[name] = made
        else:
            skipped[name] = "; ".join(made.absent)
    return ready, skipped


def _repetitions(name: str, arguments: argparse.Namespace) -> int:
    return arguments.repetitions or (1 if arguments.quick else ROWS[name].repetitions)


def _write_table(folder: Path) -> str:
    text = report.table(report.read(folder))
    write_atomic(folder / report.TABLE, text)
    return text


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.speed", description=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows:\n" + "\n".join(f"  {name:26} {row.what}" for name, row in ROWS.items()),
    )  # fmt: skip
    parser.add_argument(
        "--only",
        action="append",
        choices=list(ROWS),
        metavar="ROW",
        help="this row; may be repeated",
    )
    parser.add_argument("--repetitions", type=int, metavar="R", help="default: each row's own")
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, cores()),
        metavar="T",
        help="of either side; default 2",
    )
    parser.add_argument(
        "--networks", type=Path, default=Path("../shared"), metavar="DIR",
        help="holds external/ (networks) and data/ (images); default ../shared",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default {RESULTS}")
    parser.add_argument(
        "--quick", action="store_true",
        help=f"a few images, one repetition, into {QUICK_RESULTS}: tries every row, measures nothing",
    )  # fmt: skip
    parser.add_argument(
        "--yes", action="store_true", help="run also above 2 hours of estimated time"
    )
    parser.add_argument("--table", action="store_true", help="write the table again from its files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
