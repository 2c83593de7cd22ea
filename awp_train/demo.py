"""The main job on an embedded default: digits, AT with and without AWP, attacked and compared.

Writes under var/demo only. A second run finds everything finished and prints the same board.
"""

from __future__ import annotations

import time
from pathlib import Path

from awp_train.plan import Job, job_of, say, train_one
from awp_train.presets import find
from bench import table
from bench.exports import render
from bench.measure import processes, sweep
from bench.schema import BenchError

HOME = Path("var/demo")
# Preset -> seeds, the longest first. Of the natural network one is enough: it falls whatever the seed.
SEEDS = {"digits-at-awp": 3, "digits-at": 3, "digits-natural": 1}
# AutoAttack costs most, so it sees fewer images; every number carries its n.
MEASURED = (("standard", 100), ("gradient", 1000))
_TRAINING = 0.25  # rough share of a network's time


def demo(*, home: Path = HOME, workers: int | None = None) -> int:
    """Trains, attacks, prints the board; returns an exit status."""
    started = time.monotonic()
    jobs = [
        job_of(
            preset,
            find(preset).config.model_copy(update={"seed": seed}),
            out=home / "checkpoints",
            runs=home / "runs",
        )
        for preset, seeds in SEEDS.items()
        for seed in range(seeds)
    ]
    say(
        f"{len(jobs)} networks on scikit-learn's digits ({', '.join(SEEDS)}; up to 3 seeds): "
        "each is trained, then attacked with FGSM, PGD-20, CW and AutoAttack. About 3 minutes on "
        "2 cores; an interrupted demo goes on where it stopped."
    )
    workers = workers or processes.cores()
    for _, failure in processes.run(_train_and_attack, jobs, workers=workers, label="demo"):
        if isinstance(failure, BenchError):
            say(f"error: {failure}")
            return 1
    print(render.terminal_table(table.build(home / "results")))
    print(
        "\nShown: on 8x8 digits, 200 training images, three seeds, whether AWP changed what is left "
        "under attack.\nNot shown: anything about larger images or networks, and three seeds are "
        "fewer than a headline needs (6)."
    )
    print(f"Open the board: .venv/bin/streamlit run app.py -- --results {home / 'results'}")
    say(f"done in {time.monotonic() - started:.0f} s")
    return 0


def _train_and_attack(job: Job, report: processes.Report) -> None:
    def part(before: float, size: float) -> processes.Report:
        return lambda share, text: report(before + size * share, text)

    train_one(job, part(0, _TRAINING))
    home, size = job.out.parent, (1 - _TRAINING) / len(MEASURED)
    for place, (protocol, n) in enumerate(MEASURED):
        measurement = sweep.make_job(
            job.last, protocol=protocol, n=n, out=home / "results", work=home / "work"
        )
        sweep.measure(measurement, part(_TRAINING + place * size, size))
