"""python -m tests.speed.startup: how long a command takes to answer, beside the bare interpreter.

Each command is a process of its own, in alternating rounds, the first of which fills the caches and
does not count. Prints the median wall time with its range and CPU seconds, beside those of torch.
Nothing fails where a target is missed: this is a benchmark, not a test.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

HELP, HELP_SECONDS = "python -m bench --help", 0.5  # the target
PAIR = "digits-at-awp-s0-best digits-at-s0-best"
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import torch'": ("-c", "import torch"),
    "python -c 'import bench'": ("-c", "import bench"),
    HELP: ("-m", "bench", "--help"),
    "python -m bench evalute": ("-m", "bench", "evalute"),
    "python -m bench list": ("-m", "bench", "list"),
    "python -m bench table --check": ("-m", "bench", "table", "--check"),
    f"python -m bench compare {PAIR}": ("-m", "bench", "compare", *PAIR.split()),
    "python -m awp_train --help": ("-m", "awp_train", "--help"),
}


def timed(words: tuple[str, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of a Python process with these arguments."""
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=False)
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def measured(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Of each command, the seconds of every round that counts."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, words in COMMANDS.items():
            seconds = timed(words)
            if number:
                found[name].append(seconds)
    return found


def lines(found: dict[str, list[tuple[float, float]]]) -> list[str]:
    """A Markdown table, and whether the target is met."""
    rows = ["| command | wall, s | range | CPU, s |", "| --- | --- | --- | --- |"]
    for name, seconds in found.items():
        walls, used = zip(*seconds, strict=True)
        low, middle, high = min(walls), statistics.median(walls), max(walls)
        cpu = statistics.median(used)
        rows.append(f"| `{name}` | {middle:.2f} | {low:.2f} to {high:.2f} | {cpu:.2f} |")
    took = statistics.median(wall for wall, _ in found[HELP])
    met = "met" if took <= HELP_SECONDS else "missed"
    return [*rows, "", f"`{HELP}`: {took:.2f} s, target {HELP_SECONDS} s: {met}"]


def main() -> int:
    """Runs the benchmark and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="that count (default 5)")
    a = parser.parse_args()
    if a.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {a.rounds}")
    print("\n".join(lines(measured(a.rounds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
