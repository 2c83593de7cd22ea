"""What a row of the benchmark measured: kept as seconds and bits, shown as ratios."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, ValidationError

from bench.measure.processes import cores
from bench.schema import InvalidInput
from bench.schema.frozen import Frozen

TABLE = "README.md"  # beside the results, generated from them
BOARD = "board.json"  # beside them too: seconds that visitors wait, of tests.speed.board


class Ratio(NamedTuple):
    """How many times as long one side takes as another."""

    median: float  # of the one, divided by the median of the other
    low: float  # the smallest and the largest ratio within a repetition
    high: float


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> Ratio | None:
    """Median over median, with the range over repetitions; None where the clock saw no time pass."""
    if min(shorter) <= 0:
        return None
    each = [a / b for a, b in zip(longer, shorter, strict=True)]
    return Ratio(statistics.median(longer) / statistics.median(shorter), min(each), max(each))


class Target(Frozen):
    """What a ratio is hoped to be; nothing fails where it is missed."""

    bound: Literal[">=", "<="]
    value: float

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


class Comparison(Frozen):
    """longer / shorter: how many times as long one side takes as the other."""

    longer: str  # names of sides
    shorter: str
    target: Target | None = None


def versus(
    longer: str, shorter: str, target: float | None = None, bound: Literal[">=", "<="] = ">="
) -> Comparison:
    """The comparison of two sides, with or without a target."""
    hoped = None if target is None else Target(bound=bound, value=target)
    return Comparison(longer=longer, shorter=shorter, target=hoped)


class SideResult(Frozen):
    """Seconds of each repetition, in order."""

    name: str
    note: str = ""
    version: str = ""  # of the library; ours is this repository
    wall: tuple[float, ...]
    cpu: tuple[float, ...]  # of all cores
    broken: tuple[int, ...] | None = None  # places of the images it broke, as our judge sees them

    @property
    def label(self) -> str:
        """Its name, with the version of a library."""
        return f"{self.name} ({self.version})" if self.version else self.name


class Result(Frozen):
    """One row: what was compared, on what, how often, with which outcome."""

    schema_version: Literal[1] = 1
    row: str
    what: str
    n: int = Field(ge=1)  # images
    threads: int
    repetitions: int
    quick: bool  # reduced sizes, to see that the row works: not a measurement
    sides: tuple[SideResult, ...]
    comparisons: tuple[Comparison, ...]
    facts: dict[str, float | str] = Field(default_factory=dict)  # checked outside the clock
    absent: tuple[str, ...] = ()  # sides that could not be run, with the reason
    machine: dict[str, str]
    created: str  # UTC, ISO 8601

    def side(self, name: str) -> SideResult:
        return next(side for side in self.sides if side.name == name)

    def wall(self, comparison: Comparison) -> Ratio | None:
        """The ratio of wall seconds."""
        return ratio(self.side(comparison.longer).wall, self.side(comparison.shorter).wall)

    def cpu(self, comparison: Comparison) -> Ratio | None:
        """The ratio of CPU seconds."""
        return ratio(self.side(comparison.longer).cpu, self.side(comparison.shorter).cpu)


def agreement(result: Result, comparison: Comparison) -> dict[str, list[int]] | None:
    """Places of the images that both sides, one alone, or neither broke; None without bits."""
    longer = result.side(comparison.longer).broken
    shorter = result.side(comparison.shorter).broken
    if longer is None or shorter is None:
        return None
    one, other, all_images = set(longer), set(shorter), set(range(result.n))
    return {
        "both": sorted(one & other),
        f"only {comparison.shorter}": sorted(other - one),
        f"only {comparison.longer}": sorted(one - other),
        "neither": sorted(all_images - one - other),
    }


def machine() -> dict[str, str]:
    """The processor and the versions that decide speed."""
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        **{package: importlib.metadata.version(package) for package in ("torch", "numpy")},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # of Linux alone
    named = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.M)
    return named[1] if named else platform.processor() or "unknown"


def read(folder: Path) -> list[Result]:
    """The results in a folder, by name. Raises InvalidInput where one is not readable."""
    results = []
    for path in sorted(path for path in folder.glob("*.json") if path.name != BOARD):
        try:
            results.append(Result.model_validate(json.loads(path.read_text(encoding="utf-8"))))
        except (ValidationError, ValueError) as error:
            raise InvalidInput(f"{path} is not a result of tests.speed: {error}") from None
    return results


# ---------------------------------------------------------------- words


def shown(value: Ratio | None) -> str:
    """`2.71x (2.65 to 2.80)`; the range only where repetitions differ."""
    if value is None:
        return "too short to time"
    middle, low, high = (f"{v:.{0 if value.median >= 100 else 2}f}" for v in value)
    return f"{middle}x" + (f" ({low} to {high})" if value.low != value.high else "")


def summary(result: Result) -> str:
    """A row in words that can be pasted."""
    quick = "; QUICK: reduced sizes, not a measurement" if result.quick else ""
    plural = "s" if result.repetitions != 1 else ""
    lines = [
        f"{result.row}: {result.what}",
        f"  n = {result.n}, {result.repetitions} repetition{plural}, {result.threads} threads{quick}",
    ]
    for side in result.sides:
        note = f"; {side.note}" if side.note else ""
        best = f"{min(side.wall):.3g} s wall, {min(side.cpu):.3g} s CPU at best"
        lines.append(f"  {side.label}: {best}{note}")
    for c in result.comparisons:
        text = (
            f"  {c.longer} / {c.shorter}: {shown(result.wall(c))} wall, {shown(result.cpu(c))} CPU"
        )
        text += f", target {c.target}" if c.target else ""
        if bits := agreement(result, c):
            text += "; broken: " + ", ".join(f"{k} {len(v)}" for k, v in bits.items())
        lines.append(text)
    lines += [f"  {name}: {value}" for name, value in result.facts.items()]
    lines += [f"  left out: {reason}" for reason in result.absent]
    return "\n".join(lines)


_HEAD = """# Speed

Generated by `python -m tests.speed --table` from the files in this folder; how to read it: \
[docs/speed.md](../../docs/speed.md).

"""
_COLUMNS = """\
| row | n | repetitions | threads | time of … | in times of … | wall | CPU | target \
| broken by both / first only / second only / neither |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(results: Sequence[Result]) -> str:
    """Markdown: a line a comparison, and the machines they were measured on."""
    if not results:
        return _HEAD + "Nothing is measured yet: `make bench-speed`.\n"
    lines = [_line(result, c) for result in results for c in result.comparisons]
    notes = {f"- `{r.row}`: {name}: {value}" for r in results for name, value in r.facts.items()}
    notes |= {f"- `{r.row}`: left out: {reason}" for r in results for reason in r.absent}
    machines = {
        "- {processor} ({capability}), {cores} cores, Python {python}, torch {torch}, "
        "numpy {numpy}".format(**r.machine)
        for r in results
    }
    lines += ["", *sorted(notes)] if notes else []
    return _HEAD + _COLUMNS + "\n".join([*lines, "", "Measured on:", "", *sorted(machines), ""])


def _line(result: Result, c: Comparison) -> str:
    counts = ""
    if bits := agreement(result, c):
        both, second, first, neither = (len(places) for places in bits.values())
        counts = f"{both} / {first} / {second} / {neither}"
    cells = [
        f"`{result.row}`" + (" (quick)" if result.quick else ""),
        result.n, result.repetitions, result.threads,
        result.side(c.longer).label, result.side(c.shorter).label,
        shown(result.wall(c)), shown(result.cpu(c)), c.target or "", counts,
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"
