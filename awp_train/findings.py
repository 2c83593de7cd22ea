"""All studies in one table, from the counts of their networks: `results/studies/README.md`.

Nothing is copied from the summaries: every interval is made again of the counts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from awp_train.contrasts import GAP, KEPT, WORST_CASE
from awp_train.studies import STUDIES, Contrast
from bench.notation import points_interval
from bench.seeds import seed_interval

PAGE = "README.md"
Share = Fraction | float
Rates = Mapping[tuple[str, str, str], Mapping[str, Share]]  # run, seed, kept -> measure -> share


def findings(folder: Path) -> str:
    """The table as Markdown, of the studies whose counts lie in a folder.

    A row a contrast: how much the treated networks keep more than their controls, in points, mean
    over seeds with Student's t interval, 95 %.
    """
    lines = [
        "# What the studies found",
        "",
        "Treated minus control, points, mean over seeds with Student's t interval, 95 %; the seed is "
        "the unit. Worst case: robust under FGSM, PGD-20 and CW on up to 1,000 test images, an upper "
        "bound, at the epoch chosen on validation images (best) and at the last. Gap: robust on "
        "training minus on validation images, last epoch. Every interval stands alone: of 20 between "
        "equals one is expected to leave zero out.",
    ]
    for name, study in STUDIES.items():
        rows = list(_rows(folder / f"{name}.csv", study.contrasts))
        if rows:
            lines += ["", f"## {name}", "", study.question, ""]
            lines += ["| treated minus control | seeds | best | last | gap |"]
            lines += ["| --- | --- | --- | --- | --- |", *rows]
    return "\n".join([*lines, ""])


def _rows(path: Path, contrasts: tuple[Contrast, ...]) -> Iterator[str]:
    if not path.exists():
        return
    rates = _rates(path)
    for contrast in contrasts:
        best, last = (_differences(rates, contrast, kept, WORST_CASE) for kept in KEPT)
        if best or last:
            gap = _differences(rates, contrast, "last", GAP)
            told = (points_interval(seed_interval(d), "") if d else "" for d in (best, last, gap))
            yield f"| {contrast} | {max(len(best), len(last))} | {' | '.join(told)} |"


def _differences(rates: Rates, contrast: Contrast, kept: str, measure: str) -> list[float]:
    """Treated minus control, of the seeds that both have."""
    seeds = sorted({seed for _, seed, _ in rates})
    treated, control = (
        [rates.get((str(arm), seed, kept), {}).get(measure) for seed in seeds]
        for arm in (contrast.treated, contrast.control)
    )
    pairs = zip(treated, control, strict=True)
    return [float(t - c) for t, c in pairs if t is not None and c is not None]


def _rates(path: Path) -> Rates:
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (row["run"], row["seed"], row["kept"]): dict(_shares(row))
            for row in csv.DictReader(file)
        }


def _shares(row: Mapping[str, str]) -> Iterator[tuple[str, Share]]:
    """What the table compares of one network; no gap where the log holds no counts."""
    # Exact, so that differences round as those of paired images do.
    yield WORST_CASE, Fraction(int(row["worst_case"]), int(row["n"]))
    train, validation = int(row["train_n"]), int(row["validation_n"])
    if train and validation:
        share = int(row["train_robust_correct"]) / train
        yield GAP, share - int(row["validation_robust_correct"]) / validation
