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
from bench.records.store import now, pretty_json, write_atomic
from bench.schema import BenchError, InvalidInput
from tests.speed import attacks, cascade, report, timing, training
from tests.speed.timing import Contest, Settings, Unavailable

ROWS = {**attacks.ROWS, **cascade.ROWS, **training.ROWS}
RESULTS, QUICK_RESULTS = Path("results/speed"), Path("var/speed")
LONG = 2 * 3600  # seconds of estimated time above which a run wants to be confirmed


def say(text: str) -> None:
    """On stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns its exit status."""
    try:
        return _run(_parser().parse_args(argv))
    except KeyboardInterrupt:
        say("\ninterrupted; rows that were finished are written")
        return 130
    except BenchError as error:
        say(f"error: {error}")
        return 2 if isinstance(error, InvalidInput) else 1


def _run(a: argparse.Namespace) -> int:
    folder = a.out or (QUICK_RESULTS if a.quick else RESULTS)
    if a.table:
        print(_write_table(folder), end="")
        return 0
    if a.threads < 1 or (a.repetitions or 1) < 1:
        raise InvalidInput("--threads and --repetitions must be at least 1")
    torch.set_num_threads(a.threads)
    settings = Settings(a.networks, a.threads, a.quick)
    ready, missing = _prepare(a.only or list(ROWS), settings)
    repetitions = {
        name: a.repetitions or (1 if a.quick else ROWS[name].repetitions) for name in ready
    }
    seconds = {n: timing.estimate_seconds(made, repetitions[n]) for n, made in ready.items()}
    for name in ready:
        say(f"{name}: at most {duration(seconds[name])}")
    if sum(seconds.values()) > LONG and not a.yes:
        raise InvalidInput(
            f"these rows take {duration(sum(seconds.values()))} at most; --yes (YES=1 with make) runs "
            "them, --only ROW runs one, --quick tries them at reduced sizes"
        )
    failed = {}
    for name, made in ready.items():
        try:
            result = _measure(name, made, settings, repetitions[name])
        except BenchError as error:  # the other rows go on; the exit status says it
            failed[name] = f"failed: {error}"
            continue
        write_atomic(folder / f"{name}.json", pretty_json(result))
        print(report.summary(result), end="\n\n", flush=True)
    for name, reason in (missing | failed).items():
        print(f"{name}: not measured: {reason}")
    if ready:
        _write_table(folder)
    return 1 if failed else 0


def _prepare(names: Sequence[str], settings: Settings) -> tuple[dict[str, Contest], dict[str, str]]:
    """The rows that can be run, and why the others cannot."""
    ready: dict[str, Contest] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            made = ROWS[name].prepare(settings)
            if not made.comparisons:
                raise Unavailable("; ".join(made.absent))
            ready[name] = made
        except Unavailable as error:
            missing[name] = str(error)
    return ready, missing


def _measure(name: str, made: Contest, settings: Settings, repetitions: int) -> report.Result:
    return report.Result(
        row=name, what=ROWS[name].what, n=len(made.x), threads=settings.threads,
        repetitions=repetitions, quick=settings.quick,
        sides=timing.alternate(made.sides, repetitions, say=lambda text: say(f"{name}: {text}")),
        comparisons=tuple(made.comparisons), facts=made.facts(), absent=tuple(made.absent),
        machine=report.machine(), created=now(),
    )  # fmt: skip


def _write_table(folder: Path) -> str:
    text = report.table(report.read(folder))
    write_atomic(folder / report.TABLE, text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.speed", description=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows:\n" + "\n".join(f"  {name:26} {row.what}" for name, row in ROWS.items()),
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--only", action="append", choices=list(ROWS), metavar="ROW",
        help="this row; may be repeated",
    )  # fmt: skip
    add("--repetitions", type=int, metavar="R", help="default: each row's own")
    add(
        "--threads", type=int, default=min(2, cores()), metavar="T",
        help="of either side; default 2",
    )  # fmt: skip
    add(
        "--networks", type=Path, default=Path("../shared"), metavar="DIR",
        help="holds external/ (networks) and data/ (images); default ../shared",
    )  # fmt: skip
    add("--out", type=Path, metavar="DIR", help=f"default {RESULTS}")
    add(
        "--quick", action="store_true",
        help=f"a few images, one repetition, into {QUICK_RESULTS}: tries every row, measures nothing",
    )  # fmt: skip
    add("--yes", action="store_true", help="run also above 2 hours of estimated time")
    add("--table", action="store_true", help="write the table again from its files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
