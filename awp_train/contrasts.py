"""The arms of a study compared: what its records say, seed by seed, and the summary of that.

The seed is the unit; images are never pooled over seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from awp_train.studies import KEPT, Arm, Contrast, Study, study_of
from bench.notation import ends, percent, points, points_interval
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.intervals import crossed_bootstrap
from bench.stats.study_files import (
    CLEAN,
    GAP,
    WORST_CASE,
    Finding,
    Kept,
    Networks,
    StudyFile,
    standing,
)
from bench.stats.verdicts import RULE, Verdict, seed_means, seeds_text

EPOCHS = dict(zip(KEPT, ("epoch chosen on validation images", "last epoch"), strict=True))


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


def found(name: str, measured: Sequence[Measured]) -> StudyFile:
    """What the networks of a study say: every contrast at best and at last that has both arms."""
    study = study_of(name)
    return StudyFile(
        name=name,
        question=study.question,
        primary=len(study.primary),
        networks=tuple(_networks(study, measured)),
        findings=tuple(compared(study, measured)),
    )


def compared(study: Study, measured: Sequence[Measured]) -> list[Finding]:
    """Every contrast at best and at last, over the seeds that both arms have."""
    by_key = {(m.arm, m.kept, m.seed): m for m in measured}
    findings = []
    for contrast in study.contrasts:
        for kept in KEPT:
            pairs = [
                (m, by_key[contrast.control, kept, m.seed])
                for m in measured
                if (m.arm, m.kept) == (contrast.treated, kept)
                and (contrast.control, kept, m.seed) in by_key
            ]
            if pairs:
                primary = (contrast, kept) in study.primary
                findings.append(_finding(contrast, kept, pairs, primary=primary))
    return findings


def _finding(
    contrast: Contrast, kept: Kept, pairs: Sequence[tuple[Measured, Measured]], *, primary: bool
) -> Finding:
    pairs = sorted(pairs, key=lambda pair: pair[0].seed)
    for treated, control in pairs:
        if treated.record.examples_sha256 != control.record.examples_sha256:
            raise InvalidInput(f"{treated.arm} and {control.arm} were measured on other images")
    treated_minus_control = {
        measure: np.array(
            [t.standing[measure].astype(np.int8) - c.standing[measure] for t, c in pairs]
        )
        for measure in pairs[0][0].standing
    }
    differences = {measure: seed_means(bits) for measure, bits in treated_minus_control.items()}
    gaps = [(treated.gap, control.gap) for treated, control in pairs]
    known = [t - c for t, c in gaps if t is not None and c is not None]
    if len(known) == len(pairs):
        differences[GAP] = tuple(known)
    crossed = crossed_bootstrap(treated_minus_control[WORST_CASE])
    return Finding(
        contrast=str(contrast),
        kept=kept,
        n=pairs[0][0].record.n,
        seeds=tuple(treated.seed for treated, _ in pairs),
        records=tuple((treated.record.id, control.record.id) for treated, control in pairs),
        differences=differences,
        crossed=(crossed.low, crossed.high) if len(pairs) > 1 else None,
        primary=primary,
    )


def _networks(study: Study, measured: Sequence[Measured]) -> Iterator[Networks]:
    """A row an arm and kept epoch: means over seeds, and the gap between training and validation."""
    for arm in study.arms:
        for kept in KEPT:
            members = [m for m in measured if (m.arm, m.kept) == (arm, kept)]
            if not members:
                continue
            worst, clean = (
                sum(m.standing[measure].mean() for m in members) / len(members)
                for measure in (WORST_CASE, CLEAN)
            )
            gaps = [m.gap for m in members if m.gap is not None]
            yield Networks(
                run=str(arm),
                kept=kept,
                seeds=len(members),
                n=members[0].record.n,
                worst_case=worst,
                clean=clean,
                gap=sum(gaps) / len(gaps) if gaps else None,
            )


# ---------------------------------------------------------------- what is written


def summary(study: StudyFile, judged: Sequence[Verdict]) -> str:
    """The study as Markdown: the question, what every arm kept, the differences, the sentences.

    judged: a verdict a finding.
    """
    pairs = list(zip(study.findings, judged, strict=True))
    lines = [f"# {study.name}", "", study.question, "", *_answers(pairs), ""]
    lines += ["| run | epoch | seeds | n | worst case % | clean % | train minus validation, PGD |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |", *map(_means, study.networks), ""]
    lines += [
        "| treated minus control | epoch | seeds | verdict | worst case | seeds x images | gap "
        "| clean | each seed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(finding, verdict) for finding, verdict in pairs),
    ]
    lines += ["", "Points, mean over seeds with Student's t interval, 95 %; the seed is the unit."]
    lines += [
        "Each seed: its worst case. Gap: robust on training minus on validation images, as in the "
        "first table.",
        "The last epoch includes robust overfitting. An attack that finds nothing proves nothing.",
        rule(judged),
    ]
    return "\n".join([*lines, "", *(f"* {sentence(f, v)}" for f, v in pairs), ""])


def rule(judged: Sequence[Verdict]) -> str:
    """How the verdicts came about, their families by name."""
    families = dict.fromkeys(v.family for v in judged if v.family)
    return f"{RULE} Families: {'; '.join(families)}." if families else RULE


def sentence(finding: Finding, verdict: Verdict) -> str:
    """One line that can be quoted."""
    crossed = f", seeds x images {ends(finding.effect.crossed)}" if finding.crossed else ""
    seeds = verdict.effect.seeds
    of = "" if seeds == len(finding.seeds) else f"with the {seeds_text(seeds)} of its table "
    return (
        f"{finding.contrast}, {EPOCHS[finding.kept]}, n = {finding.n:,}, "
        f"{seeds_text(len(finding.seeds))}: "
        f"{points_interval(finding.interval(WORST_CASE))} {WORST_CASE}{crossed}, {of}{verdict.words}; "
        f"clean {points_interval(finding.interval(CLEAN))}."
    )


def _row(finding: Finding, verdict: Verdict) -> str:
    each = ", ".join(map(points, finding.differences[WORST_CASE]))
    worst, gap, clean = (
        points_interval(finding.interval(measure), "") if measure in finding.differences else ""
        for measure in (WORST_CASE, GAP, CLEAN)
    )
    crossed = ends(finding.effect.crossed) if finding.crossed else ""
    return (
        f"| {finding.contrast} | {finding.kept} | {len(finding.seeds)} | "
        f"{standing(finding, verdict)} | {worst} | {crossed} | {gap} | {clean} | {each} |"
    )


def _answers(pairs: Sequence[tuple[Finding, Verdict]]) -> Iterator[str]:
    """A line a kept epoch: which contrasts came out how, all of them."""
    for kept in KEPT:
        by_verdict: dict[str, list[str]] = {}
        for finding, verdict in pairs:
            if finding.kept == kept:
                by_verdict.setdefault(verdict.standing, []).append(finding.contrast)
        if by_verdict:
            said = ". ".join(
                f"{v[0].upper()}{v[1:]}: {'; '.join(n)}" for v, n in by_verdict.items()
            )
            yield f"* {EPOCHS[kept].capitalize()}, {WORST_CASE}. {said}."


def _means(row: Networks) -> str:
    shown = " | ".join(percent(rate, row.n) for rate in (row.worst_case, row.clean))
    gap = "" if row.gap is None else points(row.gap)
    return f"| {row.run} | {row.kept} | {row.seeds} | {row.n:,} | {shown} | {gap} |"


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
