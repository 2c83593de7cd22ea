"""The main job on an embedded default: digits, three trainings, three seeds, attacked and compared.

Writes under var/demo only. A second run finds everything finished and prints the same board.
"""

from __future__ import annotations

import functools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from awp_train.presets import find, pair_name, run_name
from bench.measure import processes
from bench.schema import BenchError

HOME = Path("var/demo")
PRESETS = ("digits-at-awp", "digits-at", "digits-natural")  # the longest first
SEEDS = (0, 1, 2)
# AutoAttack costs most, so it sees fewer images; every number carries its n.
MEASURED = (("standard", 200), ("gradient", 1000))
_TRAINING = 0.25  # rough share of a network's time


@dataclass(frozen=True)
class _Network:
    preset: str
    seed: int
    home: Path


def demo(*, home: Path = HOME, workers: int | None = None) -> int:
    """Trains, attacks, prints the board; returns an exit status."""
    from bench import table
    from bench.exports import render

    started = time.monotonic()
    networks = [_Network(preset, seed, home) for seed in SEEDS for preset in PRESETS]
    networks.sort(key=lambda network: PRESETS.index(network.preset))
    say(
        f"{len(networks)} networks on scikit-learn's digits ({', '.join(PRESETS)}; seeds 0 to 2): "
        "each is trained, then attacked with FGSM, PGD-20, CW and AutoAttack. About 4 minutes on "
        "2 cores; an interrupted demo goes on where it stopped."
    )
    workers = workers or processes.cores()
    for _, failure in processes.run(_train_and_attack, networks, workers=workers, label="demo"):
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


def _train_and_attack(network: _Network, report: processes.Report) -> None:
    from awp_train.train import train
    from bench.measure import sweep

    config = find(network.preset).config.model_copy(update={"seed": network.seed})
    name = run_name(network.preset, config)
    train(
        config, name=name, pair=pair_name(network.preset, config), progress=False,
        out=network.home / "checkpoints", runs=network.home / "runs",
        report=lambda share, text: report(_TRAINING * share, f"{name} {text}"),
    )  # fmt: skip
    for place, (protocol, n) in enumerate(MEASURED):
        share_before = _TRAINING + (1 - _TRAINING) * place / len(MEASURED)
        job = sweep.make_job(
            network.home / "checkpoints" / f"{name}-last", protocol=protocol, n=n,
            out=network.home / "results", work=network.home / "work",
        )  # fmt: skip
        sweep.measure(
            job,
            functools.partial(_say_part, report, share_before, (1 - _TRAINING) / len(MEASURED)),
        )


def _say_part(
    report: processes.Report, before: float, part: float, share: float, text: str
) -> None:
    """A share of a part that begins at `before`, as a share of the whole."""
    report(before + part * share, text)


def say(text: str) -> None:
    """Progress, kept apart from the result."""
    print(text, file=sys.stderr)
