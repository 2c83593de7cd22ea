"""The main job on an embedded default: digits, three trainings, three seeds, attacked and compared.

Writes under var/demo only. A second run finds everything finished and prints the same board.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from awp_train.presets import find, pair_name, run_name
from bench import parallel
from bench.schema import BenchError

HOME = Path("var/demo")
PRESETS = ("digits-natural", "digits-at", "digits-at-awp")
SEEDS = (0, 1, 2)
# AutoAttack costs most, so it sees fewer images; every number carries its n.
MEASURED = (("standard", 200), ("gradient", 1000))


def demo(*, home: Path = HOME, workers: int | None = None) -> int:
    """Trains, attacks, prints the board; returns an exit status."""
    from awp_train.pool import Job, train_jobs
    from bench import render, sweep, table

    started = time.monotonic()
    workers = workers or parallel.cores()
    jobs = []
    for name in PRESETS:
        for seed in SEEDS:
            config = find(name).config.model_copy(update={"seed": seed})
            pair = pair_name(name, config)
            folder, runs = home / "checkpoints", home / "runs"
            jobs.append(Job(run_name(name, config), config, pair, folder, runs))
    say(f"1/2 training {len(jobs)} networks on scikit-learn's digits: {', '.join(PRESETS)}")
    if train_jobs(jobs, workers=workers, longest=None, again="make demo", listing=False):
        return 1
    say("2/2 attacking their last epochs: FGSM, PGD-20, CW and AutoAttack")
    evaluations = [
        sweep.make_job(
            home / "checkpoints" / f"{job.name}-last", protocol=protocol, n=n,
            out=home / "results", work=home / "work",
        )
        for protocol, n in MEASURED
        for job in jobs
    ]  # fmt: skip
    for _, outcome in sweep.measure_all(evaluations, workers=workers, label="attacks"):
        if isinstance(outcome, BenchError):
            say(f"error: {outcome}")
            return 1
    board = table.build(home / "results")
    print(render.terminal_table(board))
    print(
        "\nShown: on 8x8 digits, 200 training images, three seeds, whether AWP changed what is left "
        "under attack.\nNot shown: anything about larger images or networks, and three seeds are "
        "fewer than a headline needs (6)."
    )
    print(f"Open the board: .venv/bin/streamlit run app.py -- --results {home / 'results'}")
    say(f"done in {time.monotonic() - started:.0f} s")
    return 0


def say(text: str) -> None:
    """Progress, kept apart from the result."""
    print(text, file=sys.stderr)
