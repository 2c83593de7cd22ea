"""What studies found: their records compared seed by seed, and what is told of that.

The seed is the unit; images are never pooled over seeds. Verdicts are made of the files of studies and
of the tables of the board, so that a contrast has one wherever it is shown.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from awp_train.studies import KEPT, STUDIES, Arm, Contrast, Study, study_of
from bench import training_log
from bench.notation import ends, percent, points, points_interval
from bench.records import store
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats import contrasts
from bench.stats.comparisons import counted
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
    verdicts,
)
from bench.stats.verdicts import RULE, Verdict, seed_means, seeds_text
from bench.table import Group

EPOCHS = dict(zip(KEPT, ("epoch chosen on validation images", "last epoch"), strict=True))
_COUNTS = ("train_n", "train_robust_correct", "validation_n", "validation_robust_correct")

Judged = Sequence[tuple[StudyFile, Sequence[Verdict]]]  # each with a verdict a finding


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


def measured_of(arm: Arm, seed: int, kept: str, path: Path) -> Measured:
    """A record, with the counts of training and validation images at the epoch that was kept."""
    record = store.read(path)
    lines = training_log.read_log(path.parent / training_log.NAME)
    line = next((line for line in lines if line.get("epoch") == record.card.epoch_kept), {})
    return Measured(arm, seed, kept, record, *(line.get(field, 0) for field in _COUNTS))


# ---------------------------------------------------------------- compared


def found(name: str, measured: Sequence[Measured]) -> StudyFile:
    """What the networks of a study say: every contrast at best and at last that has both arms."""
    study = study_of(name)
    return StudyFile(
        name=name,
        question=study.question,
        primary=len(study.primary),
        least_gap=study.least_gap,
        networks=tuple(_networks(study, measured)),
        findings=tuple(compared(study, measured)),
    )


def compared(study: Study, measured: Sequence[Measured]) -> list[Finding]:
    """Every contrast at best and at last, over the seeds that both arms have."""
    by_key = {(m.arm, m.kept, m.seed): m for m in sorted(measured, key=lambda m: m.seed)}
    findings = []
    for contrast in study.contrasts:
        for kept in KEPT:
            pairs = [
                (treated, by_key[contrast.control, kept, seed])
                for (arm, epoch, seed), treated in by_key.items()
                if (arm, epoch) == (contrast.treated, kept)
                and (contrast.control, kept, seed) in by_key
            ]
            if pairs:
                primary = (contrast, kept) in study.primary
                finding = _finding(contrast, kept, pairs, primary=primary)
                if study.least_gap is not None:
                    gaps = [control.gap for _, control in pairs]
                    finding = finding.model_copy(update={"control_gap": _mean(gaps)})
                findings.append(finding)
    return findings


def _finding(
    contrast: Contrast, kept: Kept, pairs: Sequence[tuple[Measured, Measured]], *, primary: bool
) -> Finding:
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


def _mean(gaps: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [gap for gap in gaps if gap is not None]
    return sum(known) / len(known) if gaps and len(known) == len(gaps) else None


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


# ---------------------------------------------------------------- told of one study


def counts(measured: Sequence[Measured]) -> str:
    """A line a network, in counts: what every number of the summary is made of."""
    text = io.StringIO()
    columns = list(measured[0].standing) if measured else []
    writer = csv.writer(text, lineterminator="\n")
    heads = [column.replace(" ", "_") for column in columns]
    writer.writerow(["run", "seed", "kept", "epoch", "record", "n", *heads, *_COUNTS])
    for m in measured:
        right = [int(m.standing[column].sum()) for column in columns]
        in_training = [getattr(m, field) for field in _COUNTS]
        record = m.record
        writer.writerow(
            [
                m.arm,
                m.seed,
                m.kept,
                record.card.epoch_kept,
                record.id,
                record.n,
                *right,
                *in_training,
            ]
        )
    return text.getvalue()


def summary(study: StudyFile, judged: Sequence[Verdict]) -> str:
    """The study as Markdown: the question, what every arm kept, the differences, the sentences.

    judged: a verdict a finding.
    """
    pairs = list(zip(study.findings, judged, strict=True))
    networks = [
        [row.run, row.kept, row.seeds, f"{row.n:,}", percent(row.worst_case, row.n),
         percent(row.clean, row.n), "" if row.gap is None else points(row.gap)]
        for row in study.networks
    ]  # fmt: skip
    contrasts = [
        [f.contrast, f.kept, len(f.seeds), standing(f, verdict), cell(f, WORST_CASE),
         ends(f.effect.crossed) if f.crossed else "", cell(f, GAP), cell(f, CLEAN),
         ", ".join(map(points, f.differences[WORST_CASE]))]
        for f, verdict in pairs
    ]  # fmt: skip
    heads = "run | epoch | seeds | n | worst case % | clean % | train minus validation, PGD"
    lines = [f"# {study.name}", "", study.question, "", *_outcomes(pairs), ""]
    lines += [*table_of(heads, networks), ""]
    heads = "treated minus control | epoch | seeds | verdict | worst case | seeds x images | gap"
    lines += table_of(f"{heads} | clean | each seed", contrasts)
    lines += [
        "",
        "Points, mean over seeds with Student's t interval, 95 %; the seed is the unit.",
        "Each seed: its worst case. Gap: robust on training minus on validation images, as in the "
        "first table.",
        "The last epoch includes robust overfitting. An attack that finds nothing proves nothing.",
        rule(judged),
        "",
    ]
    return "\n".join([*lines, *(f"* {sentence(f, v)}" for f, v in pairs), ""])


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


def _outcomes(pairs: Sequence[tuple[Finding, Verdict]]) -> Iterator[str]:
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


def cell(finding: Finding, measure: str) -> str:
    """The mean with its interval; empty where not every seed has the measure."""
    if measure not in finding.differences:
        return ""
    return points_interval(finding.interval(measure), "")


def table_of(heads: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Markdown."""
    names = heads.split(" | ")
    lines = (names, ["---"] * len(names), *rows)
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


# ---------------------------------------------------------------- told of all studies


def judge_all(studies: Sequence[StudyFile], groups: Sequence[Group]) -> Judged:
    """Each study with a verdict a finding, in the order in which the studies are listed."""
    order = list(STUDIES)
    listed = sorted(studies, key=lambda s: (s.name not in order, [*order, s.name].index(s.name)))
    tables = contrasts.of_studies(groups, studies)
    return [(study, verdicts(study, tables)) for study in listed]


def overview(judged: Judged) -> str:
    """All studies in one table of Markdown.

    A row a contrast: how much the treated networks keep more than their controls, in points, mean
    over seeds with Student's t interval, 95 %, and the verdict.
    """
    lines = [
        "# What the studies found",
        "",
        "Treated minus control, points, mean over seeds with Student's t interval, 95 %; the seed is "
        "the unit. Worst case: robust under FGSM, PGD-20 and CW on up to 1,000 test images, an upper "
        "bound, at the epoch chosen on validation images (best) and at the last. Gap: robust on "
        "training minus on validation images, last epoch.",
        "",
        rule([verdict for _, each in judged for verdict in each]),
    ]
    lines[1:1] = ["", *(f"* {conclusion(study, each)}" for study, each in judged)]
    heads = "treated minus control | seeds | best | verdict | last | verdict | gap"
    for study, each in judged:
        if rows := list(_rows(study, each)):
            lines += ["", f"## {study.name}", "", study.question, "", *table_of(heads, rows)]
    return "\n".join([*lines, ""])


def conclusion(study: StudyFile, judged: Sequence[Verdict]) -> str:
    """One line: the question and how every contrast came out, a kept epoch after the other."""
    said = [f"**{study.name}**: {study.question}"]
    for kept in KEPT:
        each = [(f, v) for f, v in zip(study.findings, judged, strict=True) if f.kept == kept]
        if not each:
            continue
        shown = "; ".join(f"{v.standing}: {f.contrast}" for f, v in each if v.sign)
        counts = counted([v.standing for _, v in each], "contrast")
        said.append(f"{kept.capitalize()} epoch: {counts}{f' ({shown})' if shown else ''}.")
    return " ".join(said if len(said) > 1 else [*said, "Nothing is measured yet."])


def _rows(study: StudyFile, judged: Sequence[Verdict]) -> Iterator[Sequence[object]]:
    by_key = {(f.contrast, f.kept): (f, v) for f, v in zip(study.findings, judged, strict=True)}
    for contrast in dict.fromkeys(finding.contrast for finding in study.findings):
        both = [by_key.get((contrast, kept)) for kept in KEPT]
        seeds = max(len(pair[0].seeds) for pair in both if pair)
        cells = [(cell(p[0], WORST_CASE), standing(*p)) if p else ("", "") for p in both]
        gap = cell(both[-1][0], GAP) if both[-1] else ""
        yield contrast, seeds, *cells[0], *cells[1], gap
