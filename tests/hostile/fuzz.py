"""Valid files damaged at random: `python -m tests.hostile.fuzz --seconds 30`.

Each case is made from (seed, number), so that one comes again: `--seed S --case K`. A reader may
refuse it (BenchError) or take it; any other exception, a warning, a death, more than 5 s or 500 MB
is a finding, kept under var/fuzz. At the end: how many cases had a sound container (the first check
of a reader), how many were taken, and which lines of the readers ran.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from tests.hostile import trial
from tests.hostile.lines import Lines
from tests.hostile.seeds import KINDS, Kind

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "var" / "fuzz"
_READERS = (
    *("bench/readers/*.py", "bench/datasets.py", "bench/evidence.py", "bench/gap.py"),
    *("bench/contamination.py", "bench/training_log.py", "bench/records/*.py", "bench/schema/*.py"),
    *("bench/published/files.py", "bench/stats/rank_sum.py", "bench/stats/study_files.py"),
    *("bench/sources/checkpoint.py", "bench/sources/state_dicts.py", "bench/sources/fitting.py"),
    *("bench/sources/weight_*.py", "bench/sources/pickled.py"),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None, help="default: of the clock")
    parser.add_argument("--case", type=int, help="this one alone, with its traceback")
    parser.add_argument(
        "--only", default="", metavar="KIND", choices=("", *(k.name for k in KINDS))
    )
    a = parser.parse_args(argv)
    seed = int(time.time()) if a.seed is None else a.seed
    kinds = [k for k in KINDS if a.only in ("", k.name)]
    trial.preload()
    home = Path(tempfile.mkdtemp(prefix="fuzz."))
    try:
        os.chdir(home)
        for kind in kinds:
            kind.prepare()
        if a.case is not None:
            return _again(kinds, seed, a.case)
        return 1 if Run(kinds, seed, home).go(a.seconds) else 0
    finally:
        os.chdir(ROOT)
        shutil.rmtree(home, ignore_errors=True)


def chosen(kinds: Sequence[Kind], seed: int, number: int) -> tuple[Kind, Random]:
    """The kind of a case and its source of random numbers."""
    rng = Random(f"{seed}-{number}")
    return rng.choices(kinds, [k.weight for k in kinds])[0], rng


def _again(kinds: Sequence[Kind], seed: int, number: int) -> int:
    kind, rng = chosen(kinds, seed, number)
    folder = Path("case")
    folder.mkdir()
    path = kind.make(rng, folder)
    kept = KEPT / f"{seed}-{number}-{kind.name}"
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    print(f"{kind.name}: {kept}")
    print(kind.read(path))
    return 0


# ---------------------------------------------------------------- the process that reads


def _serve(kinds: Sequence[Kind], seed: int, first: int, out: int) -> NoReturn:
    """Reads case after case and writes a line of JSON of each; ends only when it is killed."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    trial.limit(trial.MEMORY)
    lines = Lines(p for pattern in _READERS for p in sorted(ROOT.glob(pattern)))
    told: dict[str, set[int]] = {file: set() for file in lines.seen}
    for number in range(first, sys.maxsize):
        folder = Path(f"case-{os.getpid()}-{number}")
        folder.mkdir()
        answer = _read(kinds, seed, number, folder, lines)
        shutil.rmtree(folder, ignore_errors=True)
        answer["lines"] = {f: sorted(s - told[f]) for f, s in lines.seen.items() if s - told[f]}
        told = {file: set(seen) for file, seen in lines.seen.items()}
        raw = json.dumps(answer).encode() + b"\n"
        while raw:
            raw = raw[os.write(out, raw) :]
    os._exit(0)


def _read(
    kinds: Sequence[Kind], seed: int, number: int, folder: Path, lines: Lines
) -> dict[str, Any]:
    from bench.schema import BenchError

    kind, rng = chosen(kinds, seed, number)
    path = kind.make(rng, folder)
    answer: dict[str, Any] = {"case": number, "kind": kind.name, "taken": False, "finding": None}
    answer["sound"] = _is_sound(kind, path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with lines:
                kind.read(path)
            answer["taken"] = True
        except BenchError:
            pass
        except BaseException as error:
            answer["finding"] = (
                f"{type(error).__name__} at {_where(error)}: {ascii(str(error))[:200]}"
            )
    escaped = [w for w in warned if not issubclass(w.category, ResourceWarning)]
    if escaped and not answer["finding"]:
        answer["finding"] = (
            f"a warning at {escaped[0].lineno}: {ascii(str(escaped[0].message))[:200]}"
        )
    return answer


def _is_sound(kind: Kind, path: Path) -> bool:
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(kind.sound(path))
    return False


def _where(error: BaseException) -> str:
    """The innermost line of this project that an exception passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/bench/" in f.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


# ---------------------------------------------------------------- the process that watches


class Run:
    """Cases of a seed, one after another, in a process that is started again after it died."""

    def __init__(self, kinds: Sequence[Kind], seed: int, home: Path) -> None:
        self.kinds, self.seed, self.home = kinds, seed, home
        self.tried: collections.Counter[str] = collections.Counter()
        self.sound: collections.Counter[str] = collections.Counter()
        self.taken: collections.Counter[str] = collections.Counter()
        self.findings: dict[str, list[int]] = {}
        self.lines = Lines(p for pattern in _READERS for p in sorted(ROOT.glob(pattern)))

    def go(self, seconds: float) -> dict[str, list[int]]:
        """Runs for so long; {finding: the numbers of its cases}."""
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    os.close(reading)
                    _serve(self.kinds, self.seed, number, writing)
                os._exit(1)
            os.close(writing)
            number = self._watched(child, reading, number, end)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
        self._print()
        return self.findings

    def _watched(self, child: int, reading: int, number: int, end: float) -> int:
        """Takes answers until the process dies, hangs or time is over; the number that comes next."""
        held, deadline = b"", time.monotonic() + trial.SECONDS + 5  # a new process starts
        while time.monotonic() < end:
            ready, _, _ = select.select(
                [reading], [], [], min(0.5, max(0, deadline - time.monotonic()))
            )
            part = os.read(reading, 2**20) if ready else b""
            if part:
                *answers, held = (held + part).split(b"\n")
                for answer in map(json.loads, answers):
                    self._take(answer)
                    number = answer["case"] + 1
                    deadline = time.monotonic() + trial.SECONDS
            elif ready or time.monotonic() > deadline:
                kind = chosen(self.kinds, self.seed, number)[0]
                why = "it died" if ready else f"more than {trial.SECONDS:g} s"
                self.tried[kind.name] += 1
                self._found(f"{kind.name}: {why}", number)
                return number + 1
        return number

    def _take(self, answer: dict[str, Any]) -> None:
        name = answer["kind"]
        self.tried[name] += 1
        self.sound[name] += answer["sound"]
        self.taken[name] += answer["taken"]
        for file, seen in answer["lines"].items():
            self.lines.seen[file].update(seen)
        if answer["finding"]:
            self._found(f"{name}: {answer['finding']}", answer["case"])

    def _found(self, what: str, number: int) -> None:
        alike = what.split(": ")[:2]  # kind, exception and line; not the words
        known = next((k for k in self.findings if k.split(": ")[:2] == alike), None)
        self.findings.setdefault(known or what, []).append(number)
        if known is None:
            kind, rng = chosen(self.kinds, self.seed, number)
            kept = KEPT / f"{self.seed}-{number}-{kind.name}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            kind.make(rng, kept)
            print(
                f"FOUND {what}\n    --seed {self.seed} --case {number}; kept in {kept}", flush=True
            )

    def _print(self) -> None:
        print(f"seed {self.seed}\n{'kind':18} {'tried':>7} {'sound':>7} {'taken':>7}")
        for name in (*sorted(self.tried), "all"):
            n, sound, taken = (
                c.total() if name == "all" else c[name]
                for c in (self.tried, self.sound, self.taken)
            )
            print(f"{name:18} {n:7} {sound / max(1, n):7.0%} {taken / max(1, n):7.0%}")
        print(f"\n{'lines inside functions that ran':42} {'ran':>5} {'of':>5}")
        for file in self.lines.wanted:
            ran, of = self.lines.share(file)
            if of:
                print(f"{Path(file).relative_to(ROOT)!s:42} {ran:5} {of:5} {ran / of:5.0%}")
        shares = [self.lines.share(file) for file in self.lines.wanted]
        ran, of = (sum(s[k] for s in shares) for k in (0, 1))
        print(f"{'all':42} {ran:5} {of:5} {ran / max(1, of):5.0%}")
        print(f"\n{len(self.findings)} findings in {self.tried.total():,} cases")
        for what, cases in self.findings.items():
            print(f"  {len(cases):4} x {what} (first --case {cases[0]})")


if __name__ == "__main__":
    sys.exit(main())
