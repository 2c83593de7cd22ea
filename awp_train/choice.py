"""Chooses budget, gamma and warm-up of the presets on validation images, and lists every value tried.

Test images are not opened here. The seeds differ from those of committed results, so that a choice is
not favoured by the runs it is later shown on. `results/choices/<preset>.csv` holds a line a run.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from awp_train.presets import find, with_awp
from bench import parallel, results
from bench.schema import BenchError, InvalidInput, TrainConfig


@dataclass(frozen=True)
class Grid:
    """What is tried for the AT preset of a family."""

    base: str  # the vanilla preset
    epochs: tuple[int, ...]
    gammas: tuple[float, ...]
    warm_ups: tuple[float, ...]  # as fractions of the epochs
    n_validation: int
    seeds: tuple[int, ...]
    budget: int | None = None  # epochs fixed beforehand; None: where the vanilla run is best


GRIDS: dict[str, Grid] = {
    "digits": Grid(
        "digits-at", (60, 100), (0.005, 0.01, 0.02, 0.04), (1 / 6, 1 / 3), 597, (100, 101, 102)
    ),
    # 80 epochs were fixed beforehand, for a vanilla run that overfits; 40 are tried beside them.
    "fashion_mnist-subset": Grid(
        "fashion_mnist-subset-at", (40, 80), (0.01, 0.02, 0.03), (1 / 10, 1 / 6), 1000, (100, 101),
        budget=80,
    ),
}  # fmt: skip

FIELDS = (
    "epochs", "gamma", "warm_up", "seed", "validation_n", "validation_robust_correct",
    "validation_clean_correct", "train_n", "train_robust_correct", "collapsed",
)  # fmt: skip


def tried(family: str) -> Iterator[TrainConfig]:
    """Every configuration of a family's grid; gamma 0 is the vanilla run."""
    grid = GRIDS[family]
    for epochs in grid.epochs:
        for seed in grid.seeds:
            vanilla = find(grid.base).config.model_copy(
                update={
                    "epochs": epochs,
                    "seed": seed,
                    "n_validation": grid.n_validation,
                    "log_images": grid.n_validation,
                    "log_every": epochs,
                }
            )
            yield vanilla
            for gamma in grid.gammas:
                for share in grid.warm_ups:
                    yield with_awp(vanilla, gamma=gamma, warm_up=round(share * epochs))


def try_one(config: TrainConfig, report: parallel.Report) -> dict[str, float | int]:
    """Trains one configuration in a temporary folder; its counts after the last epoch."""
    from awp_train.train import TrainingFailed, train

    awp = config.awp
    line: dict[str, float | int] = {
        "epochs": config.epochs,
        "gamma": awp.gamma if awp else 0.0,
        "warm_up": awp.warm_up if awp else 0,
        "seed": config.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = train(
                config, name="try", out=Path(folder) / "c", runs=Path(folder) / "r", progress=False
            )
        except TrainingFailed:
            return line | {"collapsed": 1}
        log = (written[-1] / "train.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    return line | {k: last[k] for k in FIELDS if k in last} | {"collapsed": 0}


def choose(family: str, *, out: Path, workers: int) -> str:
    """Tries a family's whole grid, writes `<out>/<family>.csv`, returns the summary."""
    if family not in GRIDS:
        raise InvalidInput(f"nothing to choose for {family!r}; known: {', '.join(GRIDS)}")
    lines = []
    for _, line in parallel.run(try_one, list(tried(family)), workers=workers, label=family):
        if isinstance(line, BenchError):
            raise line
        lines.append(line)
        _write(lines, out / f"{family}.csv")  # partial results survive an interruption
    return summary(family, lines)


def _write(lines: Sequence[dict[str, float | int]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    keys = ("epochs", "gamma", "warm_up", "seed")
    writer.writerows(sorted(lines, key=lambda line: [line[k] for k in keys]))
    results.write_atomic(path, text.getvalue())


def read(path: Path) -> list[dict[str, float | int]]:
    """The lines of a choice, as numbers; a collapsed run has no counts."""
    with path.open(newline="") as file:
        return [
            {k: float(v) if "." in v else int(v) for k, v in line.items() if v != ""}
            for line in csv.DictReader(file)
        ]


def means(lines: Sequence[dict[str, float | int]]) -> dict[tuple[int, float, int], float]:
    """(epochs, gamma, warm-up) -> mean validation robust accuracy over seeds; a collapse is 0."""
    rates = defaultdict(list)
    for line in lines:
        key = (int(line["epochs"]), float(line["gamma"]), int(line["warm_up"]))
        right, n = line.get("validation_robust_correct", 0), line.get("validation_n", 1)
        rates[key].append(float(right) / float(n))
    return {key: sum(v) / len(v) for key, v in sorted(rates.items())}


def chosen(family: str, lines: Sequence[dict[str, float | int]]) -> tuple[int, float, int]:
    """(epochs, gamma, warm-up): the budget where vanilla is best, then the best AWP of that budget.

    The budget is the vanilla run's choice, so that the comparison does not lean towards AWP; a
    family whose budget was fixed beforehand says so in its grid.
    """
    rates = means(lines)
    epochs = GRIDS[family].budget
    if epochs is None:
        epochs = max((k for k in rates if k[1] == 0), key=lambda k: rates[k])[0]
    return max((k for k in rates if k[0] == epochs and k[1] > 0), key=lambda k: rates[k])


def summary(family: str, lines: Sequence[dict[str, float | int]]) -> str:
    """The tried values with their means, the chosen one marked."""
    pick = chosen(family, lines)
    rows = ["epochs  gamma  warm-up  validation robust (last epoch, mean over seeds)"]
    for key, rate in means(lines).items():
        mark = "  <- chosen" if key == pick else ""
        rows.append(f"{key[0]:6d}  {key[1]:5g}  {key[2]:7d}  {rate:6.1%}{mark}")
    return "\n".join(rows)
