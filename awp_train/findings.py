"""All studies in one table, `results/studies/README.md`, and the summary of each, from their files.

Verdicts are made again of the files and of the tables of the board, so that a contrast has one
wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from awp_train.contrasts import rule, summary
from awp_train.studies import KEPT, STUDIES
from bench import table
from bench.notation import points_interval
from bench.stats import contrasts
from bench.stats.study_files import (
    GAP,
    WORST_CASE,
    Finding,
    StudyFile,
    read_all,
    standing,
    verdicts,
)
from bench.stats.verdicts import Verdict

PAGE = "README.md"


def pages(out: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """File name under `<out>/studies` -> text: a summary a study, and the table of all of them.

    Also a sentence for each file of a study that cannot be read.
    """
    studies, notes = read_all(out)
    judged = judge_all(studies, out)
    texts = {f"{study.name}.md": summary(study, found) for study, found in judged}
    return {**texts, PAGE: findings(judged)}, notes


def judge_all(
    studies: Sequence[StudyFile], out: Path
) -> list[tuple[StudyFile, tuple[Verdict, ...]]]:
    """Each study with a verdict a finding, in the order in which the studies are listed."""
    order = list(STUDIES)
    listed = sorted(studies, key=lambda s: (s.name not in order, [*order, s.name].index(s.name)))
    tables = contrasts.of_studies(table.build(out).groups, studies)
    return [(study, verdicts(study, tables)) for study in listed]


def findings(judged: Sequence[tuple[StudyFile, Sequence[Verdict]]]) -> str:
    """The table as Markdown.

    A row a contrast: how much the treated networks keep more than their controls, in points, mean
    over seeds with Student's t interval, 95 %, and the verdict.
    """
    every = [verdict for _, found in judged for verdict in found]
    lines = [
        "# What the studies found",
        "",
        "Treated minus control, points, mean over seeds with Student's t interval, 95 %; the seed is "
        "the unit. Worst case: robust under FGSM, PGD-20 and CW on up to 1,000 test images, an upper "
        "bound, at the epoch chosen on validation images (best) and at the last. Gap: robust on "
        "training minus on validation images, last epoch.",
        "",
        rule(every),
    ]
    for study, found in judged:
        rows = list(_rows(study, found))
        if rows:
            lines += ["", f"## {study.name}", "", study.question, ""]
            lines += ["| treated minus control | seeds | best | verdict | last | verdict | gap |"]
            lines += ["| --- | --- | --- | --- | --- | --- | --- |", *rows]
    return "\n".join([*lines, ""])


def _rows(study: StudyFile, found: Sequence[Verdict]) -> Iterator[str]:
    by_key = {(f.contrast, f.kept): (f, v) for f, v in zip(study.findings, found, strict=True)}
    for contrast in dict.fromkeys(finding.contrast for finding in study.findings):
        both = [by_key.get((contrast, kept)) for kept in KEPT]
        seeds = max(len(pair[0].seeds) for pair in both if pair)
        cells = " | ".join(
            f"{_cell(pair[0], WORST_CASE)} | {standing(*pair)}" if pair else " | " for pair in both
        )
        gap = _cell(both[-1][0], GAP) if both[-1] else ""
        yield f"| {contrast} | {seeds} | {cells} | {gap} |"


def _cell(finding: Finding, measure: str) -> str:
    if measure not in finding.differences:
        return ""
    return points_interval(finding.interval(measure), "")
