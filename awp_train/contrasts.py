"""Two arms of a study compared: per-seed paired differences, and the sentences that follow.

The seed is the unit; images are never pooled over seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from awp_train.studies import Arm, Contrast, Study, study_of
from bench.intervals import Interval, compare_paired
from bench.notation import percent, points, points_interval
from bench.schema import EvaluationRecord, InvalidInput
from bench.seeds import seed_interval

EPOCHS = {"best": "epoch chosen on validation images", "last": "last epoch"}
KEPT = tuple(EPOCHS)
HEADLINE_SEEDS = 6
WORST_CASE, CLEAN = "worst case", "clean"
GAP = "gap"  # robust on training minus on validation images, PGD of the log, at the trained weights


@dataclass(frozen=True)
class Measured:
    """One network of an arm: its record, and its counts on training images at the kept epoch."""

    arm: Arm
    seed: int
    kept: str  # best or last
    record: EvaluationRecord
    train_n: int
    train_robust_correct: int
    validation_n: int
    validation_robust_correct: int

    @property
    def standing(self) -> dict[str, np.ndarray]:
        """Measure -> (n,) bool."""
        record = self.record
        columns = {column.name: record.standing(column.name) for column in record.protocol.columns}
        return {WORST_CASE: record.worst_case_standing, **columns, CLEAN: record.clean_correct}

    @property
    def gap(self) -> float | None:
        """None where the log holds no counts."""
        if not (self.train_n and self.validation_n):
            return None
        validation = self.validation_robust_correct / self.validation_n
        return self.train_robust_correct / self.train_n - validation


@dataclass(frozen=True)
class Comparison:
    """A contrast at one kept epoch: per-seed paired differences of every measure."""

    contrast: Contrast
    kept: str
    seeds: tuple[int, ...]
    n: int
    # Measure, or GAP where every log has counts -> treated minus control, one a seed.
    differences: dict[str, tuple[float, ...]]

    def interval(self, measure: str) -> Interval:
        """Mean over seeds with Student's t interval; one seed has none."""
        return seed_interval(self.differences[measure])

    def verdict(self, measure: str = WORST_CASE) -> str:
        """What the interval over seeds may be taken to say; no more than that."""
        if len(self.seeds) == 1:
            return "one seed shows nothing"
        found = self.interval(measure)
        if found.low == found.high and found.estimate != 0:
            return "too few seeds and images to tell"
        if found.low > 0:
            return "better in these runs"
        return "worse in these runs" if found.high < 0 else "no difference shown"

    def sentence(self) -> str:
        """One line that can be quoted."""
        count = len(self.seeds)
        few = f" (fewer than {HEADLINE_SEEDS})" if count < HEADLINE_SEEDS else ""
        return (
            f"{self.contrast}, {EPOCHS[self.kept]}, n = {self.n:,}, "
            f"{count} seed{'' if count == 1 else 's'}{few}: "
            f"{points_interval(self.interval(WORST_CASE))} {WORST_CASE}, {self.verdict()}; "
            f"clean {points_interval(self.interval(CLEAN))}."
        )


def compared(study: Study, measured: Sequence[Measured]) -> list[Comparison]:
    """Every contrast at best and at last, over the seeds that both arms have."""
    by_key = {(m.arm, m.kept, m.seed): m for m in measured}
    found = []
    for contrast in study.contrasts:
        for kept in KEPT:
            pairs = [
                (m, by_key[contrast.control, kept, m.seed])
                for m in measured
                if (m.arm, m.kept) == (contrast.treated, kept)
                and (contrast.control, kept, m.seed) in by_key
            ]
            if pairs:
                found.append(_comparison(contrast, kept, pairs))
    return found


def _comparison(
    contrast: Contrast, kept: str, pairs: Sequence[tuple[Measured, Measured]]
) -> Comparison:
    pairs = sorted(pairs, key=lambda pair: pair[0].seed)
    for treated, control in pairs:
        if treated.record.examples_sha256 != control.record.examples_sha256:
            raise InvalidInput(f"{treated.arm} and {control.arm} were measured on other images")
    differences = {
        measure: tuple(
            compare_paired(treated.standing[measure], control.standing[measure]).difference.estimate
            for treated, control in pairs
        )
        for measure in pairs[0][0].standing
    }
    gaps = [(treated.gap, control.gap) for treated, control in pairs]
    known = [t - c for t, c in gaps if t is not None and c is not None]
    if len(known) == len(pairs):
        differences[GAP] = tuple(known)
    seeds = tuple(treated.seed for treated, _ in pairs)
    return Comparison(contrast, kept, seeds, pairs[0][0].record.n, differences)


# ---------------------------------------------------------------- what is written


def summary(name: str, measured: Sequence[Measured]) -> str:
    """The study as Markdown: the question, what every arm kept, the differences, the sentences."""
    study = study_of(name)
    found = compared(study, measured)
    lines = [
        f"# {name}",
        "",
        study.question,
        "",
        *_answers(found),
        "",
        *_means(study, measured),
        "",
    ]
    lines += ["| treated minus control | epoch | seeds | worst case | gap | clean | each seed |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for c in found:
        each = ", ".join(map(points, c.differences[WORST_CASE]))
        worst, gap, clean = (
            points_interval(c.interval(measure), "") if measure in c.differences else ""
            for measure in (WORST_CASE, GAP, CLEAN)
        )
        lines.append(
            f"| {c.contrast} | {c.kept} | {len(c.seeds)} | {worst} | {gap} | {clean} | {each} |"
        )
    lines += ["", "Points, mean over seeds with Student's t interval, 95 %; the seed is the unit."]
    lines += [
        "Each seed: its worst case. Gap: robust on training minus on validation images, as in the "
        "first table.",
        "The last epoch includes robust overfitting. An attack that finds nothing proves nothing.",
        "Every interval stands alone: of 20 between equals one is expected to leave zero out.",
    ]
    return "\n".join([*lines, "", *(f"* {c.sentence()}" for c in found), ""])


def _answers(found: Sequence[Comparison]) -> Iterator[str]:
    """A line a kept epoch: which contrasts came out how, all of them."""
    for kept in KEPT:
        by_verdict: dict[str, list[str]] = {}
        for c in found:
            if c.kept == kept:
                by_verdict.setdefault(c.verdict(), []).append(str(c.contrast))
        if by_verdict:
            said = ". ".join(
                f"{v[0].upper()}{v[1:]}: {'; '.join(n)}" for v, n in by_verdict.items()
            )
            yield f"* {EPOCHS[kept].capitalize()}, {WORST_CASE}. {said}."


def _means(study: Study, measured: Sequence[Measured]) -> Iterator[str]:
    """A row an arm and kept epoch: means over seeds, and the gap between training and validation."""
    yield "| run | epoch | seeds | n | worst case % | clean % | train minus validation, PGD |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for arm in study.arms:
        for kept in KEPT:
            members = [m for m in measured if (m.arm, m.kept) == (arm, kept)]
            if not members:
                continue
            n = members[0].record.n
            rates = [
                sum(m.standing[measure].mean() for m in members) / len(members)
                for measure in (WORST_CASE, CLEAN)
            ]
            gaps = [m.gap for m in members if m.gap is not None]
            gap = points(sum(gaps) / len(gaps)) if gaps else ""
            shown = " | ".join(percent(rate, n) for rate in rates)
            yield f"| {arm} | {kept} | {len(members)} | {n:,} | {shown} | {gap} |"


def counts(measured: Sequence[Measured]) -> str:
    """A line a network, in counts: what every number of the summary is made of."""
    text = io.StringIO()
    columns = list(measured[0].standing) if measured else []
    writer = csv.writer(text, lineterminator="\n")
    heads = [column.replace(" ", "_") for column in columns]
    writer.writerow(
        ["run", "seed", "kept", "epoch", "record", "n", *heads, "train_n", "train_robust_correct",
         "validation_n", "validation_robust_correct"]
    )  # fmt: skip
    for m in measured:
        standing = [int(m.standing[column].sum()) for column in columns]
        writer.writerow(
            [m.arm, m.seed, m.kept, m.record.card.epoch_kept, m.record.id, m.record.n, *standing,
             m.train_n, m.train_robust_correct, m.validation_n, m.validation_robust_correct]
        )  # fmt: skip
    return text.getvalue()
