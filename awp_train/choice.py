"""Chooses settings of the presets on validation images, and lists every value tried.

For AWP: gamma, warm-up and the budget. For the control best-vanilla: weight decay, averaging and
early stopping, as many settings as AWP had. Test images are not opened here. The seeds differ from
those of committed results, so that a choice is not favoured by the runs it is later shown on.
`results/choices/<family>.csv` holds a line a run.
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
from typing import Any

from awp_train.presets import find
from awp_train.recipes import best_vanilla, with_awp
from awp_train.stages import Job, job_of, prepared, stages
from bench.catalogue import unknown_name
from bench.measure import processes
from bench.records import store
from bench.schema import BenchError, TrainConfig

Line = dict[str, Any]  # column -> what is written there; a collapsed run has no counts
COUNTS = (
    "validation_n", "validation_robust_correct", "validation_clean_correct", "train_n",
    "train_robust_correct", "collapsed",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What is tried for the AWP preset of a family; gamma 0 is the vanilla run."""

    base: str  # the vanilla preset
    epochs: tuple[int, ...]
    gammas: tuple[float, ...]
    warm_ups: tuple[float, ...]  # as fractions of the epochs
    n_validation: int
    seeds: tuple[int, ...]
    budget: int | None = None  # epochs fixed beforehand; None: where the vanilla run is best

    columns = ("epochs", "gamma", "warm_up")

    def tried(self) -> Iterator[TrainConfig]:
        for vanilla in _bases(self):
            yield vanilla
            for gamma in self.gammas:
                for share in self.warm_ups:
                    yield with_awp(vanilla, gamma=gamma, warm_up=round(share * vanilla.epochs))

    def setting(self, config: TrainConfig) -> dict[str, Any]:
        awp = config.awp
        gamma, warm_up = (awp.gamma, awp.warm_up) if awp else (0.0, 0)
        return {"epochs": config.epochs, "gamma": gamma, "warm_up": warm_up}

    def choose(self, rates: dict[tuple[Any, ...], float]) -> tuple[Any, ...]:
        """The budget where vanilla is best, then the best AWP of that budget.

        The budget is the vanilla run's choice, so that the comparison does not lean towards AWP; a
        family whose budget was fixed beforehand says so in its grid.
        """
        epochs = self.budget
        if epochs is None:
            epochs = max((k for k in rates if k[1] == 0), key=lambda k: rates[k])[0]
        return max((k for k in rates if k[0] == epochs and k[1] > 0), key=lambda k: rates[k])


@dataclass(frozen=True)
class VanillaGrid:
    """What is tried for the control best-vanilla of a family, besides the vanilla run itself."""

    base: str
    settings: tuple[tuple[float, str, int | None], ...]  # weight decay, averaging, early stopping
    n_validation: int
    seeds: tuple[int, ...]

    columns = ("weight_decay", "averaging", "early_stopping")

    @property
    def epochs(self) -> tuple[int, ...]:
        return (find(self.base).config.epochs,)

    def tried(self) -> Iterator[TrainConfig]:
        own = find(self.base).config.log_every
        for vanilla in _bases(self):
            for decay, averaging, patience in (
                (vanilla.weight_decay, "none", None),
                *self.settings,
            ):
                config = best_vanilla(
                    vanilla, weight_decay=decay, averaging=averaging, early_stopping=patience
                )
                # A run that may stop early has to look earlier than at its end.
                yield config.model_copy(update={"log_every": own}) if patience else config

    def setting(self, config: TrainConfig) -> dict[str, Any]:
        patience = config.early_stopping or 0  # 0: none
        values = (config.weight_decay, config.averaging, patience)
        return dict(zip(self.columns, values, strict=True))

    def choose(self, rates: dict[tuple[Any, ...], float]) -> tuple[Any, ...]:
        """The best of all, the earliest tried of equals."""
        return max(rates, key=lambda k: rates[k])


def _bases(grid: Grid | VanillaGrid) -> Iterator[TrainConfig]:
    """The vanilla run of every budget and seed, looked at once, at its end."""
    for epochs in grid.epochs:
        for seed in grid.seeds:
            yield find(grid.base).config.model_copy(
                update={
                    "epochs": epochs,
                    "seed": seed,
                    "n_validation": grid.n_validation,
                    "log_images": grid.n_validation,
                    "log_every": epochs,
                }
            )


_GAMMAS, _THIRD, _SEEDS = (0.005, 0.01, 0.02), (1 / 3,), (100, 101)

GRIDS: dict[str, Grid | VanillaGrid] = {
    "digits": Grid(
        "digits-at", (60, 100), (0.005, 0.01, 0.02, 0.04), (1 / 6, 1 / 3), 597, (100, 101, 102)
    ),
    "digits-trades": Grid("digits-trades", (100,), _GAMMAS, _THIRD, 597, _SEEDS),
    "digits-mart": Grid("digits-mart", (100,), _GAMMAS, _THIRD, 597, _SEEDS),
    # What is not held out is pseudo-labelled: more validation images would leave other extra ones.
    "digits-rst": Grid("digits-rst", (50,), _GAMMAS, _THIRD, 200, _SEEDS),
    "digits-pretrain": Grid("digits-pretrain", (50,), _GAMMAS, _THIRD, 297, _SEEDS),
    # As many as AWP tried at the budget of the presets: 4 gammas, 2 warm-ups.
    "digits-best-vanilla": VanillaGrid(
        "digits-at",
        (
            (5e-4, "ema", None), (2e-3, "none", None), (2e-3, "ema", None), (5e-3, "none", None),
            (5e-3, "ema", None), (1e-2, "none", None), (5e-4, "none", 20), (2e-3, "ema", 20),
        ),
        597,
        (100, 101, 102),
    ),
    # 80 epochs were fixed beforehand, for a vanilla run that overfits; 40 are tried beside them.
    "fashion_mnist-subset": Grid(
        "fashion_mnist-subset-at", (40, 80), (0.01, 0.02, 0.03), (1 / 10, 1 / 6), 1000, (100, 101),
        budget=80,
    ),
    # 3 gammas, 2 warm-ups.
    "fashion_mnist-subset-best-vanilla": VanillaGrid(
        "fashion_mnist-subset-at",
        (
            (5e-4, "ema", None), (2e-3, "none", None), (2e-3, "ema", None), (5e-3, "none", None),
            (5e-3, "ema", None), (2e-3, "ema", 20),
        ),
        1000,
        (100, 101),
    ),
}  # fmt: skip


def grid_of(family: str) -> Grid | VanillaGrid:
    """The grid of a name; InvalidInput suggests the nearest."""
    if family not in GRIDS:
        raise unknown_name("grid of settings", family, GRIDS)
    return GRIDS[family]


def fields(family: str) -> tuple[str, ...]:
    """The columns of a family's list."""
    columns = grid_of(family).columns
    return (*columns, "seed", *COUNTS)


# ---------------------------------------------------------------- trying


def choose(family: str, *, out: Path, workers: int) -> str:
    """Tries a family's whole grid, writes `<out>/<family>.csv`, returns the summary."""
    from awp_train.pool import train_stage

    grid = grid_of(family)
    lines = []
    with tempfile.TemporaryDirectory() as home:
        out_of, runs = Path(home) / "checkpoints", Path(home) / "runs"
        jobs = [
            job_of(grid.base, config, out=out_of, runs=runs, name=f"try-{place}")
            for place, config in enumerate(grid.tried())
        ]
        # Teachers and starting points once for all that need them.
        *before, tries = stages(jobs)
        for stage in before:
            ready = [prepared(job) if job.needs else job for job in stage]
            again = f"python -m awp_train choose {family}"
            for name, reason in train_stage(ready, workers=workers, again=again).items():
                raise BenchError(f"{name}: {reason}")
        ready = [prepared(job) if job.needs else job for job in tries]
        for job, counts in processes.run(try_one, ready, workers=workers, label=family):
            if isinstance(counts, BenchError):
                raise counts
            setting = grid.setting(job.config)
            lines.append({**setting, "seed": job.config.seed, **counts})
            _write(family, lines, out / f"{family}.csv")  # an interruption leaves what was tried
    return summary(family, lines)


def try_one(job: Job, report: processes.Report) -> Line:
    """Trains one configuration; its counts after the last epoch."""
    from awp_train.train import TrainingFailed, train

    try:
        written = train(
            job.config, name=job.name, places=job.places, out=job.out, runs=job.runs,
            progress=False,
        )  # fmt: skip
    except TrainingFailed:
        return {"collapsed": 1}
    last = json.loads((written[-1] / "train.jsonl").read_text().splitlines()[-1])
    return {k: last[k] for k in COUNTS if k in last} | {"collapsed": 0}


def _write(family: str, lines: Sequence[Line], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields(family), lineterminator="\n")
    writer.writeheader()
    keys = (*grid_of(family).columns, "seed")
    writer.writerows(sorted(lines, key=lambda line: [line[k] for k in keys]))
    store.write_atomic(path, text.getvalue())


# ---------------------------------------------------------------- choosing


def read(path: Path) -> list[Line]:
    """The lines of a choice, as numbers where they are; a collapsed run has no counts."""
    with path.open(newline="") as file:
        return [
            {key: _number(text) for key, text in line.items() if text != ""}
            for line in csv.DictReader(file)
        ]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def means(family: str, lines: Sequence[Line]) -> dict[tuple[Any, ...], float]:
    """Setting -> mean validation robust accuracy over seeds; a collapse is 0."""
    rates = defaultdict(list)
    for line in lines:
        right, n = line.get("validation_robust_correct", 0), line.get("validation_n", 1)
        rates[tuple(line[column] for column in grid_of(family).columns)].append(right / n)
    return {key: sum(v) / len(v) for key, v in sorted(rates.items())}


def chosen(family: str, lines: Sequence[Line]) -> tuple[Any, ...]:
    """The setting that a family's grid chooses: the values of its columns."""
    return grid_of(family).choose(means(family, lines))


def summary(family: str, lines: Sequence[Line]) -> str:
    """The tried values with their means, the chosen one marked."""
    rates, pick = means(family, lines), chosen(family, lines)
    columns = grid_of(family).columns
    widths = [max(len(column), 7) for column in columns]
    head = "  ".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))
    rows = [f"{head}  validation robust (last epoch, mean over seeds)"]
    for key, rate in rates.items():
        mark = "  <- chosen" if key == pick else ""
        values = "  ".join(f"{v!s:>{w}}" for v, w in zip(key, widths, strict=True))
        rows.append(f"{values}  {rate:6.1%}{mark}")
    return "\n".join(rows)
