"""Chooses settings of the presets on validation images, and lists every value tried.

For AWP: gamma, warm-up and the budget. For the control best-vanilla: weight decay, averaging and
early stopping, as many settings as AWP had. Test images are not opened here. The seeds differ from
those of committed results, so that a choice is not favoured by the runs it is later shown on.
`results/choices/<family>.csv` holds a line a run.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awp_train.flags import number
from awp_train.plan import Job, job_of, prepared, stages, train_one, train_stage
from awp_train.presets import find
from awp_train.recipes import best_vanilla, with_awp
from awp_train.train import TrainingFailed
from bench import training_log
from bench.catalogue import unknown_name
from bench.measure import processes
from bench.records import store
from bench.records.one_read import read_whole
from bench.schema import BenchError, TrainConfig

Line = dict[str, Any]  # column -> what is written there; a collapsed run has no counts
Setting = tuple[Any, ...]  # a value a column of a grid
_LARGEST = 2**20  # bytes of a choice
AWP = ("epochs", "gamma", "warm_up")  # gamma 0: the vanilla run
VANILLA = ("weight_decay", "averaging", "early_stopping")  # early stopping after 0 epochs: none
COUNTS = (
    "validation_n", "validation_robust_correct", "validation_clean_correct", "train_n",
    "train_robust_correct", "collapsed",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What is tried on a vanilla preset: AWP, or the regularisers of best-vanilla."""

    base: str  # the vanilla preset, itself among the settings
    columns: tuple[str, ...]  # AWP or VANILLA
    settings: tuple[Setting, ...]
    n_validation: int
    seeds: tuple[int, ...]
    budget: int | None = None  # epochs fixed beforehand; None: where the vanilla run is best

    def tried(self) -> Iterator[tuple[Setting, TrainConfig]]:
        for setting in self.settings:
            for seed in self.seeds:
                yield setting, self._config(setting, seed)

    def _config(self, setting: Setting, seed: int) -> TrainConfig:
        """The run of a setting, looked at once, at its end."""
        base = find(self.base).config
        epochs = setting[0] if self.columns == AWP else base.epochs
        vanilla = base.model_copy(
            update={
                "epochs": epochs,
                "seed": seed,
                "n_validation": self.n_validation,
                "log_images": self.n_validation,
                "log_every": epochs,
            }
        )
        if self.columns == AWP:
            _, gamma, warm_up = setting
            return with_awp(vanilla, gamma=gamma, warm_up=warm_up) if gamma else vanilla
        decay, averaging, patience = setting
        if patience:  # a run that may stop early has to look earlier than at its end
            vanilla = vanilla.model_copy(update={"log_every": base.log_every})
        return best_vanilla(
            vanilla, weight_decay=decay, averaging=averaging, early_stopping=patience or None
        )

    def choose(self, rates: dict[Setting, float]) -> Setting:
        """Of best-vanilla the best; of AWP the budget where vanilla is best, then the best of that.

        The budget is the vanilla run's choice, so that the comparison does not lean towards AWP; a
        family whose budget was fixed beforehand says so in its grid.
        """
        allowed = list(rates)
        if self.columns == AWP:
            epochs = self.budget
            if epochs is None:
                epochs = max((k for k in rates if k[1] == 0), key=rates.__getitem__)[0]
            allowed = [k for k in rates if k[0] == epochs and k[1] > 0]
        return max(allowed, key=rates.__getitem__)


def _awp(
    epochs: tuple[int, ...], gammas: tuple[float, ...], shares: tuple[float, ...]
) -> tuple[Setting, ...]:
    """Vanilla and every gamma with every warm-up, a share of the epochs, at every budget."""
    return tuple(
        setting
        for e in epochs
        for setting in (
            (e, 0.0, 0),
            *((e, g, round(share * e)) for g in gammas for share in shares),
        )
    )


_GAMMAS, _THIRD, _SEEDS = (0.005, 0.01, 0.02), (1 / 3,), (100, 101)
_REGULARISERS: tuple[Setting, ...] = (
    (5e-4, "none", 0), (5e-4, "ema", 0), (2e-3, "none", 0), (2e-3, "ema", 0), (5e-3, "none", 0),
    (5e-3, "ema", 0), (2e-3, "ema", 20),
)  # fmt: skip

GRIDS: dict[str, Grid] = {
    "digits": Grid(
        "digits-at", AWP, _awp((60, 100), (0.005, 0.01, 0.02, 0.04), (1 / 6, 1 / 3)), 597,
        (100, 101, 102),
    ),
    "digits-trades": Grid("digits-trades", AWP, _awp((100,), _GAMMAS, _THIRD), 597, _SEEDS),
    "digits-mart": Grid("digits-mart", AWP, _awp((100,), _GAMMAS, _THIRD), 597, _SEEDS),
    # What is not held out is pseudo-labelled: more validation images would leave other extra ones.
    "digits-rst": Grid("digits-rst", AWP, _awp((50,), _GAMMAS, _THIRD), 200, _SEEDS),
    "digits-pretrain": Grid("digits-pretrain", AWP, _awp((50,), _GAMMAS, _THIRD), 297, _SEEDS),
    # Besides vanilla as many as AWP tried at the budget of the presets: 4 gammas, 2 warm-ups.
    "digits-best-vanilla": Grid(
        "digits-at", VANILLA, (*_REGULARISERS, (1e-2, "none", 0), (5e-4, "none", 20)), 597,
        (100, 101, 102),
    ),
    # 80 epochs were fixed beforehand, for a vanilla run that overfits; 40 are tried beside them.
    "fashion_mnist-subset": Grid(
        "fashion_mnist-subset-at", AWP, _awp((40, 80), (0.01, 0.02, 0.03), (1 / 10, 1 / 6)), 1000,
        _SEEDS, budget=80,
    ),
    # 3 gammas, 2 warm-ups.
    "fashion_mnist-subset-best-vanilla": Grid(
        "fashion_mnist-subset-at", VANILLA, _REGULARISERS, 1000, _SEEDS
    ),
}  # fmt: skip


def grid_of(family: str) -> Grid:
    """The grid of a name; InvalidInput suggests the nearest."""
    if family not in GRIDS:
        raise unknown_name("grid of settings", family, GRIDS)
    return GRIDS[family]


# ---------------------------------------------------------------- trying


def choose(family: str, *, out: Path, workers: int) -> str:
    """Tries a family's whole grid, writes `<out>/<family>.csv`, returns the summary."""
    grid = grid_of(family)
    lines = []
    with tempfile.TemporaryDirectory() as home:
        made, runs = Path(home) / "checkpoints", Path(home) / "runs"
        settings = {}
        jobs = []
        for place, (setting, config) in enumerate(grid.tried()):
            jobs.append(job_of(grid.base, config, name=f"try-{place}", out=made, runs=runs))
            settings[f"try-{place}"] = dict(zip(grid.columns, setting, strict=True))
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
            lines.append({**settings[job.name], "seed": job.config.seed, **counts})
            _write(grid, lines, out / f"{family}.csv")  # an interruption leaves what was tried
    return summary(family, lines)


def try_one(job: Job, report: processes.Report) -> Line:
    """Trains one configuration; its counts after the last epoch."""
    try:
        written = train_one(job, progress=False)
    except TrainingFailed:
        return {"collapsed": 1}
    last = training_log.read_log(written[-1] / training_log.NAME)[-1]
    return {k: last[k] for k in COUNTS if k in last} | {"collapsed": 0}


def _write(grid: Grid, lines: Sequence[Line], path: Path) -> None:
    text = io.StringIO()
    keys = (*grid.columns, "seed")
    writer = csv.DictWriter(text, (*keys, *COUNTS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(lines, key=lambda line: [line[k] for k in keys]))
    store.write_atomic(path, text.getvalue())


# ---------------------------------------------------------------- choosing


def read(path: Path) -> list[Line]:
    """The lines of a choice, as numbers where they are; a collapsed run has no counts."""
    text = read_whole(path, largest=_LARGEST).decode("utf-8", errors="replace")
    return [
        {key: number(value) for key, value in line.items() if value != ""}
        for line in csv.DictReader(io.StringIO(text, newline=""))
    ]


def means(family: str, lines: Sequence[Line]) -> dict[Setting, float]:
    """Setting -> mean validation robust accuracy over seeds; a collapse is 0."""
    rates = defaultdict(list)
    for line in lines:
        right, n = line.get("validation_robust_correct", 0), line.get("validation_n", 1)
        rates[tuple(line[column] for column in grid_of(family).columns)].append(right / n)
    return {key: sum(v) / len(v) for key, v in sorted(rates.items())}


def chosen(family: str, lines: Sequence[Line]) -> Setting:
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
