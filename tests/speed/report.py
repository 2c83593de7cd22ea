"""What a row of the benchmark measured: kept as seconds and bits, shown as ratios."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError

from bench.measure.processes import cores
from bench.records.store import pretty_json, write_atomic
from bench.schema import InvalidInput
from bench.schema.frozen import Frozen
from tests.speed.timing import Ratio, ratio

TABLE = "README.md"  # beside the results, generated from them
BOARD = "board.json"  # beside them too: seconds that visitors wait, of tests.speed.board


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


class SideResult(Frozen):
    """Seconds of each repetition, in order."""

    name: str
    note: str = ""
    version: str = ""  # of the library; ours is this repository
    wall: tuple[float, ...]
    cpu: tuple[float, ...]  # of all cores
    broken: tuple[int, ...] | None = None  # places of the images it broke, as our judge sees them


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
    versions = {p: importlib.metadata.version(p) for p in ("torch", "numpy")}
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


# ---------------------------------------------------------------- files


def write(result: Result, folder: Path) -> Path:
    """Writes `<row>.json`, replacing an older measurement of that row."""
    path = folder / f"{result.row}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, pretty_json(result))
    return path


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
    digits = 0 if value.median >= 100 else 2
    text = f"{value.median:.{digits}f}x"
    if value.low == value.high:
        return text
    return f"{text} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def summary(result: Result) -> str:
    """A row in words that can be pasted."""
    quick = "; QUICK: reduced sizes, not a measurement" if result.quick else ""
    plural = "s" if result.repetitions != 1 else ""
    lines = [
        f"{result.row}: {result.what}",
        f"  n = {result.n}, {result.repetitions} repetition{plural}, {result.threads} threads{quick}",
    ]
    for side in result.sides:
        wall, cpu = min(side.wall), min(side.cpu)
        note = f"; {side.note}" if side.note else ""
        named = f"{side.name} ({side.version})" if side.version else side.name
        lines.append(f"  {named}: {wall:.3g} s wall, {cpu:.3g} s CPU at best{note}")
    for comparison in result.comparisons:
        text = (
            f"  {comparison.longer} / {comparison.shorter}: {shown(result.wall(comparison))} wall, "
        )
        text += f"{shown(result.cpu(comparison))} CPU"
        if comparison.target:
            text += f", target {comparison.target}"
        if bits := agreement(result, comparison):
            text += "; broken: " + ", ".join(f"{k} {len(v)}" for k, v in bits.items())
        lines.append(text)
    lines += [f"  {name}: {value}" for name, value in result.facts.items()]
    lines += [f"  left out: {reason}" for reason in result.absent]
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """Markdown: a line a comparison, and the machines they were measured on."""
    lines = [
        "# Speed",
        "",
        "Generated by `python -m tests.speed --table` from the files in this folder; how to read it: "
        "[docs/speed.md](../../docs/speed.md).",
        "",
    ]
    if not results:
        return "\n".join([*lines, "Nothing is measured yet: `make bench-speed`.", ""])
    lines += [
        "| row | n | repetitions | threads | time of … | in times of … | wall | CPU | target "
        "| broken by both / first only / second only / neither |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for comparison in result.comparisons:
            bits = agreement(result, comparison)
            counts = ""
            if bits:
                both, second, first, neither = (len(v) for v in bits.values())
                counts = f"{both} / {first} / {second} / {neither}"
            cells = [
                f"`{result.row}`" + (" (quick)" if result.quick else ""),
                result.n, result.repetitions, result.threads,
                _with_version(result, comparison.longer), _with_version(result, comparison.shorter),
                shown(result.wall(comparison)), shown(result.cpu(comparison)),
                comparison.target or "", counts,
            ]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    notes = {f"- `{r.row}`: {name}: {value}" for r in results for name, value in r.facts.items()}
    notes |= {f"- `{r.row}`: left out: {reason}" for r in results for reason in r.absent}
    lines += ["", *sorted(notes)] if notes else []
    machines = sorted({_machine_line(r) for r in results})
    return "\n".join([*lines, "", "Measured on:", "", *machines, ""])


def _with_version(result: Result, name: str) -> str:
    side = result.side(name)
    return f"{name} ({side.version})" if side.version else name


def _machine_line(result: Result) -> str:
    m = result.machine
    return (
        f"- {m['processor']} ({m['capability']}), {m['cores']} cores, Python {m['python']}, "
        f"torch {m['torch']}, numpy {m['numpy']}"
    )
