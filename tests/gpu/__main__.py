"""python -m tests.gpu: what can only be seen on a GPU, in at most 8 minutes, as a table and a report.

The same code runs on a CPU (--device cpu --quick), which rehearses it and measures nothing. Exit status
1 where a check fails; what is skipped says why. The report is written after every check.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from bench.measure.sweep import pick_device
from bench.records.store import now, pretty_json, write_atomic
from bench.schema import InvalidInput
from tests.gpu import answers, costs, exact, float32, weights
from tests.gpu.place import Place, device_seen
from tests.gpu.running import FAILED, OK, SKIPPED, Check, Line, run
from tests.speed.report import GPU, machine

SECONDS = 480
REPORT, REHEARSED = Path("results/speed") / GPU, Path("var/speed") / GPU
CHECKS: Mapping[str, Check] = {  # the cheap and the telling first: the budget ends the last
    "device": Check("what computes", "it does", device_seen),
    **exact.CHECKS, **float32.CHECKS, **weights.CHECKS, **answers.CHECKS, **costs.CHECKS,
}  # fmt: skip


def say(text: str) -> None:
    """On stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks and returns the exit status."""
    a = _parser().parse_args(argv)
    try:
        if not a.seconds > 0:
            raise InvalidInput(f"--seconds must be above 0, got {a.seconds:g}")
        place, checks = Place(_device(a.device), a.quick), chosen(a.only)
    except InvalidInput as error:
        say(f"error: {error}")
        return 2
    path = a.out or (REPORT if place.gpu and not place.quick else REHEARSED)
    return checked(checks, place, a.seconds, path)


def _device(name: str) -> str:
    device = pick_device(name)
    if name == "auto" and device == "cpu":
        raise InvalidInput(
            "torch sees no CUDA device; --device cpu --quick rehearses the checks without one"
        )
    return device


def chosen(patterns: Sequence[str] | None) -> dict[str, Check]:
    """The checks whose names are like one of the patterns. Raises InvalidInput where there is none."""
    for pattern in patterns or ():
        if not fnmatch.filter(CHECKS, pattern):
            raise InvalidInput(f"no check is named like {pattern!r}; there are {', '.join(CHECKS)}")
    return {
        name: check
        for name, check in CHECKS.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }


def checked(checks: Mapping[str, Check], place: Place, seconds: float, path: Path) -> int:
    """Runs the checks, prints the table and writes the report; the exit status."""
    begun, lines, why = time.monotonic(), list[Line](), ""

    def report() -> None:
        made = {
            "schema_version": 1, "device": place.device, "quick": place.quick, "created": now(),
            "budget": seconds, "seconds": round(time.monotonic() - begun, 1), "ended_by": why,
            "machine": machine(), "checks": [dataclasses.asdict(line) for line in lines],
        }  # fmt: skip
        write_atomic(path, pretty_json(made))

    one = partial(torch.set_num_threads, 1)  # on the CPU's side, as of a worker of a measurement
    going = run(checks, place, seconds, told=say, at_start=one)
    try:
        for line in going:
            lines.append(line)
            report()
    except KeyboardInterrupt:
        why = "Ctrl-C"
    finally:
        going.close()
    lines += [
        Line(name, check.what, check.expected, SKIPPED, "interrupted")
        for name, check in list(checks.items())[len(lines) :]
    ]
    report()
    print(table(lines, place), end="")
    counts = {o: sum(line.outcome == o for line in lines) for o in (OK, FAILED, SKIPPED)}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{told} in {time.monotonic() - begun:.0f} s; {path}")
    return 130 if why else int(counts[FAILED] > 0)


def table(lines: Sequence[Line], place: Place) -> str:
    """A line a check; then what was timed, side by side."""
    width = max((len(line.name) for line in lines), default=0)
    text = "" if place.gpu and not place.quick else "REHEARSAL: measures nothing\n"
    for line in lines:
        text += f"{line.outcome:7} {line.name:{width}}  {line.seen}\n"
        if line.outcome == FAILED:
            text += f"{'':{width + 8}}  expected: {line.what}: {line.expected}\n"
    for line in lines:
        if line.rates:
            text += f"\n{line.what}: images a second\n"
            first = next(iter(line.rates.values()))
            text += "".join(
                f"  {side:20} {rate:12.4g}  {rate / first:8.2f}x\n"
                for side, rate in line.rates.items()
            )
    return text + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="checks:\n" + "\n".join(f"  {n:30} {c.what}" for n, c in CHECKS.items()),
    )  # fmt: skip
    add = parser.add_argument
    add("--device", default="auto", help="auto (a GPU, or an error), cuda, cuda:N or cpu")
    add("--quick", action="store_true", help="small sizes: tries every check, measures nothing")
    add(
        "--seconds", type=float, default=SECONDS, metavar="S",
        help=f"in all; what is left then is skipped; default {SECONDS}",
    )  # fmt: skip
    add("--only", action="append", metavar="NAME", help="such as 'contract *'; may be repeated")
    add("--out", type=Path, metavar="FILE", help=f"default {REPORT}; {REHEARSED} on a CPU or quick")
    return parser


if __name__ == "__main__":
    sys.exit(main())
