"""What a study found, as a file beside its summary: results/studies/<name>.json, written by a program.

It holds what verdicts are made of, unrounded: per-seed differences, the ends of seeds x images, the
records compared, and which contrasts were declared as primary. The verdicts themselves are made again
wherever they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench.notation import points
from bench.records import json_files
from bench.schema import InvalidInput, Text
from bench.schema.frozen import Frozen
from bench.stats.intervals import Interval, seed_interval
from bench.stats.verdicts import Compared, Effect, Verdict, descriptive, judge

FOLDER = "studies"  # under the results folder
WORST_CASE, CLEAN = "worst case", "clean"
GAP = "gap"  # robust on training minus on validation images, PGD of the log, at the trained weights
_LARGEST = 2**20  # bytes

Difference = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]  # of two shares, or two gaps
Rate = Annotated[float, Field(ge=0, le=1)]
Kept = Literal["best", "last"]


class Networks(Frozen):
    """What the networks of one run kept, mean over seeds."""

    run: Text
    kept: Kept
    seeds: int = Field(ge=1)
    n: int = Field(ge=1)  # test images
    worst_case: Rate
    clean: Rate
    gap: Difference | None  # None where no log has counts


def _is_none(value: object) -> bool:
    return value is None


class Finding(Frozen):
    """A contrast at one kept epoch: treated minus control, seed by seed, on the same images."""

    contrast: Text
    kept: Kept
    n: int = Field(ge=1)  # test images
    seeds: tuple[int, ...] = Field(min_length=1)
    records: tuple[tuple[Text, Text], ...]  # ids, treated and control, one a seed
    differences: dict[Text, tuple[Difference, ...]]  # measure -> one a seed
    crossed: tuple[Difference, Difference] | None  # 95 %, seeds and images; None: one seed
    primary: bool = False  # declared before it was measured
    # Of the control, mean over seeds; left out where its study does not ask for overfitting.
    control_gap: Difference | None = Field(default=None, exclude_if=_is_none)

    @model_validator(mode="after")
    def _consistent(self) -> Finding:
        counts = {len(self.records), *map(len, self.differences.values())}
        if counts != {len(self.seeds)} or WORST_CASE not in self.differences:
            raise ValueError("expected one record pair and one difference a measure for every seed")
        if (self.crossed is None) != (len(self.seeds) == 1):
            raise ValueError("expected seeds x images exactly where there are several seeds")
        return self

    @property
    def compared(self) -> tuple[Compared, ...]:
        """The records compared, a seed each: which contrast this is, in any file."""
        return tuple((self.kept, treated, control) for treated, control in self.records)

    @property
    def effect(self) -> Effect:
        """The worst case, which alone has a verdict."""
        each = self.differences[WORST_CASE]
        low, high = self.crossed or (-math.inf, math.inf)
        return Effect(each, Interval(sum(each) / len(each), low, high))

    def interval(self, measure: str) -> Interval:
        """Mean over seeds with Student's t interval; one seed has none."""
        return seed_interval(self.differences[measure])


class StudyFile(Frozen):
    """A question, what its runs kept, and what the contrasts found."""

    schema_version: Literal[1] = 1
    name: Text
    question: Text
    primary: int = Field(ge=0)  # contrasts declared as primary, measured or not; 0: none declared
    # A control whose gap is smaller does not overfit, and what is compared with it gets no verdict.
    least_gap: Rate | None = Field(default=None, exclude_if=_is_none)
    networks: tuple[Networks, ...]
    findings: tuple[Finding, ...]

    @model_validator(mode="after")
    def _consistent(self) -> StudyFile:
        if sum(finding.primary for finding in self.findings) > self.primary:
            raise ValueError("expected no more primary contrasts than were declared")
        return self


def verdicts(
    study: StudyFile, elsewhere: Mapping[Compared, Verdict] | None = None
) -> tuple[Verdict, ...]:
    """A verdict a finding. Primary contrasts are one family, whatever stands beside them.

    Where a study declares none, a contrast carries the verdict of the table that shows it; elsewhere is
    that of two record ids (`of_studies`). Those that no table shows are a family of their own.
    """
    if study.primary:
        primary = [f for f in study.findings if f.primary]
        judged = iter(
            judge(
                [f.effect for f in primary],
                f"of {study.name}",
                declared=study.primary,
                kind="primary contrast",
                why_none=[_without_overfitting(f, study.least_gap) for f in primary],
            )
        )
        return tuple(next(judged) if f.primary else descriptive(f.effect) for f in study.findings)
    tables = elsewhere or {}
    # The table's contrast that shares a pair: its networks are of the same runs.
    known = [next((tables[c] for c in f.compared if c in tables), None) for f in study.findings]
    alone = [f.effect for f, k in zip(study.findings, known, strict=True) if k is None]
    judged = iter(judge(alone, f"that only {study.name} makes"))
    return tuple(verdict or next(judged) for verdict in known)


def _without_overfitting(finding: Finding, least_gap: float | None) -> str:
    """Why there is no verdict in a study that asks for overfitting; empty where there may be one."""
    gap = finding.control_gap
    if least_gap is None or (gap is not None and gap >= least_gap):
        return ""
    said = "is not known" if gap is None else f"is {points(gap)} points"
    return f"the gap of the control {said}, and below {points(least_gap)} nothing overfits"


def standing(finding: Finding, verdict: Verdict) -> str:
    """The verdict as a cell holds it, with its seeds where the table that gave it has others."""
    seeds = verdict.effect.seeds
    other = f" ({seeds} seeds in its table)" if seeds != len(finding.seeds) else ""
    return verdict.standing + other


@dataclass(frozen=True)
class Declared:
    """A contrast of a study that declared its primary ones, and what may be said of it."""

    compared: frozenset[Compared]
    verdict: Verdict


def declared(studies: Sequence[StudyFile]) -> tuple[Declared, ...]:
    """Every contrast of the studies that declare primary ones."""
    return tuple(
        Declared(frozenset(finding.compared), verdict)
        for study in studies
        if study.primary
        for finding, verdict in zip(study.findings, verdicts(study), strict=True)
    )


def read(path: Path) -> StudyFile:
    """The study of a file. Raises InvalidInput where it cannot be read; it is left in place."""
    found = json_files.read(path, StudyFile.model_validate_json, "study", largest=_LARGEST)
    if found.name != path.stem:
        raise InvalidInput(f"{path} is of the study {found.name!r}; it is left in place")
    return found


def read_all(root: Path) -> tuple[tuple[StudyFile, ...], tuple[str, ...]]:
    """Every study under the results folder, by name, and a sentence for each that cannot be read."""
    studies, notes = [], []
    for path in paths(root):
        try:
            studies.append(read(path))
        except InvalidInput as error:
            notes.append(str(error))
    return tuple(studies), tuple(notes)


def paths(root: Path) -> Iterator[Path]:
    """The files of studies under a results folder, in the order of their names."""
    yield from sorted((root / FOLDER).glob("*.json"))
