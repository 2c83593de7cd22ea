"""What a row of the benchmark measured: kept as seconds and bits, shown as ratios."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError

from bench.measure.processes import cores
from bench.records.entry import cost_texts, passes_a_standing_image
from bench.schema import InvalidInput
from bench.schema.frozen import Frozen

TABLE = "README.md"  # beside the results, generated from them
BOARD = "board.json"  # beside them too: seconds that visitors wait, of tests.speed.board
GPU = "gpu.json"  # and what a GPU was seen to do, of tests.gpu


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> tuple[float, float, float] | None:
    """Median over median, then the smallest and the largest ratio of a repetition.

    None where the clock saw no time pass.
    """
    if min(shorter) <= 0:
        return None
    each = [a / b for a, b in zip(longer, shorter, strict=True)]
    return statistics.median(longer) / statistics.median(shorter), min(each), max(each)


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
    passes: int | None = None  # images sent forward, and backward, by one run; None: not counted

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

    def standing(self, side: SideResult) -> int:
        """How many images a side did not break."""
        return self.n - len(side.broken or ())

    def shown(self, comparison: Comparison) -> tuple[str, str]:
        """The ratios of wall and of CPU seconds, as text."""
        longer, shorter = self.side(comparison.longer), self.side(comparison.shorter)
        return shown(ratio(longer.wall, shorter.wall)), shown(ratio(longer.cpu, shorter.cpu))


def agreement(result: Result, comparison: Comparison) -> dict[str, list[int]] | None:
    """Places of the images that both sides, one alone, or neither broke; None without bits."""
    longer, shorter = (result.side(s).broken for s in (comparison.longer, comparison.shorter))
    if longer is None or shorter is None:
        return None
    one, other = set(longer), set(shorter)
    return {
        "both": sorted(one & other),
        f"only {comparison.shorter}": sorted(other - one),
        f"only {comparison.longer}": sorted(one - other),
        "neither": sorted(set(range(result.n)) - one - other),
    }


def machine() -> dict[str, str]:
    """The processor and the versions that decide speed."""
    info = Path("/proc/cpuinfo")  # of Linux alone
    named = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.M)
    return {
        "processor": named[1] if named else platform.processor() or "unknown",
        "cores": str(cores()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        **{package: importlib.metadata.version(package) for package in ("torch", "numpy")},
    }


def read(folder: Path) -> list[Result]:
    """The results in a folder, by name. Raises InvalidInput where one is not readable."""
    results = []
    for path in sorted(path for path in folder.glob("*.json") if path.name not in (BOARD, GPU)):
        try:
            results.append(Result.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise InvalidInput(f"{path} is not a result of tests.speed: {error}") from None
    return results


# ---------------------------------------------------------------- words


def shown(value: tuple[float, float, float] | None) -> str:
    """`2.71x (2.65 to 2.80)`; the range only where repetitions differ."""
    if value is None:
        return "too short to time"
    middle, low, high = (f"{v:.{0 if value[0] >= 100 else 2}f}" for v in value)
    return f"{middle}x" + (f" ({low} to {high})" if value[1] != value[2] else "")


def summary(result: Result) -> str:
    """A row in words that can be pasted."""
    quick = "; QUICK: reduced sizes, not a measurement" if result.quick else ""
    plural = "s" if result.repetitions != 1 else ""
    lines = [
        f"{result.row}: {result.what}",
        f"  n = {result.n}, {result.repetitions} repetition{plural}, {result.threads} threads{quick}",
    ]
    for side in result.sides:
        said = [f"{min(side.wall):.3g} s wall, {min(side.cpu):.3g} s CPU at best", side.note]
        if side.passes is not None:
            standing = result.standing(side)
            passes, each, _ = cost_texts(side.passes, result.n, standing, 0)
            said.insert(0, f"{standing} stand for {passes}, {each}")
        lines.append(f"  {side.label}: {'; '.join(filter(None, said))}")
    for c in result.comparisons:
        text = "  {} / {}: {} wall, {} CPU".format(c.longer, c.shorter, *result.shown(c))
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
_PASSES = """
Passes of one run: images sent forward and images sent backward. Then its shortest seconds.

| row | n | side | stand | passes an image | a standing image | CPU s | wall s |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(results: Sequence[Result]) -> str:
    """Markdown: a line a comparison, passes where they were counted, and the machines."""
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
    spent = [_spent(r, s) for r in results for s in r.sides if s.passes is not None]
    lines += [*_PASSES.splitlines(), *spent] if spent else []
    return _HEAD + _COLUMNS + "\n".join([*lines, "", "Measured on:", "", *sorted(machines), ""])


def _spent(result: Result, side: SideResult) -> str:
    assert side.passes is not None
    each = passes_a_standing_image(side.passes, standing := result.standing(side))
    cells = [
        _named(result), result.n, side.label, standing, f"{side.passes / result.n:,.0f}",
        "none" if each is None else f"{each:,.0f}", f"{min(side.cpu):.1f}", f"{min(side.wall):.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _named(result: Result) -> str:
    return f"`{result.row}`" + (" (quick)" if result.quick else "")


def _line(result: Result, c: Comparison) -> str:
    counts = ""
    if bits := agreement(result, c):
        counts = "{0} / {2} / {1} / {3}".format(*map(len, bits.values()))
    cells = [
        _named(result), result.n, result.repetitions, result.threads,
        result.side(c.longer).label, result.side(c.shorter).label,
        *result.shown(c), c.target or "", counts,
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"
