"""The answer of a study of tuned arms: a paragraph that may be quoted, a table, a figure.

Made of the study's file and of the lists of what was tried. The primary contrasts were declared before
anything was measured; everything else describes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from awp_train.choice import chosen, expected_best, is_whole, means, read
from awp_train.findings import cell, table_of
from awp_train.spaces import ARMS, KINDS
from awp_train.studies import STUDIES, Study
from bench.notation import ends, percent, points, points_interval
from bench.stats.intervals import detectable
from bench.stats.ranks import LEVEL
from bench.stats.study_files import WORST_CASE, Finding, StudyFile, standing
from bench.stats.verdicts import Verdict, seeds_text

Pair = tuple[Finding, Verdict]


class Tried(NamedTuple):
    """What was tried of an arm: the mean validation accuracy of every setting, and the choice."""

    rates: tuple[float, ...]
    said: str  # the chosen values, and whether one lies at an edge


def answered(file: StudyFile, judged: Sequence[Verdict], choices: Path) -> dict[str, str]:
    """File name -> text of the answer; nothing for a study without tuned arms.

    judged: a verdict a finding; choices: the folder of lists.
    """
    study = STUDIES.get(file.name)
    if study is None or not any(arm.drawn for arm in study.arms):
        return {}
    tried = {arm.drawn: _tried(arm.drawn, choices) for arm in study.arms if arm.drawn}
    pairs = list(zip(file.findings, judged, strict=True))
    figure = f"{file.name}-answer.svg"
    lines = [
        f"# {file.name}: the answer",
        "",
        file.question,
        "",
        paragraph(study, pairs, tried),
        "",
    ]
    lines += [*_table(study, file, pairs, tried), "", _meanings(study), ""]
    curves = {name: each.rates for name, each in tried.items() if each.rates}
    texts = {}
    if curves:
        lines += [f"![The best of k tries]({figure})", "", _CURVES, ""]
        texts[figure] = drawn(curves)
    return texts | {f"{file.name}-answer.md": "\n".join(lines)}


def _tried(name: str, choices: Path) -> Tried:
    lines = read(choices / f"{name}.csv")
    rates = means(name, lines)
    if not rates:
        return Tried((), "not tried yet")
    arm, pick = ARMS[name], chosen(name, lines)
    values = zip(arm.columns, pick, strict=True)
    said = ", ".join(f"{field.rpartition('.')[2].replace('_', ' ')} {v:g}" for field, v in values)
    notes = [*arm.edges(pick), *([] if is_whole(name, lines) else ["not all tried yet"])]
    return Tried(tuple(rates.values()), said + (f" ({'; '.join(notes)})" if notes else ""))


# ---------------------------------------------------------------- the paragraph


def paragraph(study: Study, pairs: Sequence[Pair], tried: Mapping[str, Tried]) -> str:
    """What may be quoted: every primary contrast with its verdict, and what the design could see."""
    primary = [pair for pair in pairs if pair[0].primary]
    declared = len(study.primary)
    if not primary:
        return f"None of the {declared} primary contrasts is measured yet."
    effort = sorted(
        {len(tried[a.drawn].rates) for c, _ in study.primary for a in (c.treated, c.control)}
    )
    settings = " to ".join(str(n) for n in dict.fromkeys((effort[0], effort[-1])))
    each = "; ".join(
        f"{finding.contrast}: {points_interval(finding.interval(WORST_CASE))}"
        + (f", seeds x images {ends(finding.effect.crossed)}" if finding.crossed else "")
        + f", {verdict.words}"
        for finding, verdict in primary
    )
    seen = sorted(filter(math.isfinite, (_seen(study, finding) for finding, _ in primary)))
    gaps = sorted(f.control_gap for f, _ in primary if f.control_gap is not None)
    seeds = ", ".join(dict.fromkeys(seeds_text(len(f.seeds)) for f, _ in primary))
    missing = declared - len(primary)
    words = [
        f"Robust test accuracy (worst case of the protocol {study.protocol}, last epoch), AWP tuned "
        f"minus tuned with {settings} settings an arm, chosen on validation images; {seeds}, mean with "
        f"Student's t interval, 95 %: {each}.",
        f"The family is the {declared} contrasts that were declared beforehand, under Holm's procedure"
        + (f"; {missing} of them are not measured yet." if missing else "."),
        f"The smallest difference that the design finds four times in five is {_span(seen)} points."
        if seen
        else "",
        f"The gap between training and validation images of the tuned controls is {_span(gaps)} points."
        if gaps
        else "",
        "Every other line of the table describes.",
    ]
    return " ".join(filter(None, words))


def _seen(study: Study, finding: Finding) -> float:
    """At the level of Holm's first step over the primary contrasts."""
    return detectable(finding.differences[WORST_CASE], level=LEVEL / max(1, len(study.primary)))


def _span(values: Sequence[float]) -> str:
    low, high = (f"{100 * value:.1f}" for value in (values[0], values[-1]))
    return low if low == high else f"{low} to {high}"


# ---------------------------------------------------------------- the table


def _table(
    study: Study, file: StudyFile, pairs: Sequence[Pair], tried: Mapping[str, Tried]
) -> list[str]:
    """A row an arm: what was chosen, what its networks keep, and how much more than the control's."""
    networks = {(row.run, row.kept): row for row in file.networks}
    by_treated = {(f.contrast, f.kept): (f, v) for f, v in pairs}
    rows: list[list[object]] = []
    for arm in study.arms:
        name = str(arm)
        told: list[object] = [name, "", "as published"]
        if arm.drawn:
            told = [name, len(tried[name].rates) or "", tried[name].said]
        last, best = networks.get((name, "last")), networks.get((name, "best"))
        told += [percent(row.worst_case, row.n) if row else "" for row in (last, best)]
        told += [percent(last.clean, last.n) if last else ""]
        told += [points(last.gap) if last and last.gap is not None else ""]
        asked = [contrast for contrast in study.contrasts if contrast.treated == arm]
        for contrast in asked:
            pair = by_treated.get((str(contrast), "last"))
            rows.append([*told, str(contrast.control), *_compared(study, pair)])
            told = [name, *("" for _ in told[1:])]  # said once
        if not asked:
            rows.append([*told, "", *_compared(study, None)])
    heads = "arm | tries | chosen | last % | best % | clean % | gap | minus | points"
    return table_of(f"{heads} | seeds x images | verdict | could see", rows)


def _compared(study: Study, pair: Pair | None) -> list[str]:
    """How much more is kept, and what may be said of it; empty where it is not measured."""
    if pair is None:
        return [""] * 4
    finding, verdict = pair
    crossed = ends(finding.effect.crossed) if finding.crossed else ""
    seen = _seen(study, finding)
    could_see = "" if math.isinf(seen) else f"{100 * seen:.1f}"
    return [cell(finding, WORST_CASE), crossed, standing(finding, verdict), could_see]


def _meanings(study: Study) -> str:
    least = "" if study.least_gap is None else (
        f" A primary contrast whose control has a gap below {points(study.least_gap)} points has no "
        "verdict: nothing overfits there."
    )  # fmt: skip
    return (
        "Last, best, clean: robust and clean test accuracy, mean over seeds; last is the last epoch, "
        "best the one chosen on validation images, clean and all that follows of the last. Gap: robust "
        "on training minus on validation images. Points: minus the arm named, mean over seeds with "
        "Student's t interval. Could see: the smallest difference found four times in five at the "
        f"level of Holm's first step, from the spread over seeds.{least} Tries: settings drawn from "
        "the space of the arm (awp_train/spaces.py); those as published were not drawn."
    )


# ---------------------------------------------------------------- the figure

_CURVES = (
    "The mean, over all subsets of k of an arm's tries, of the best robust validation accuracy: what k "
    "tries would have found. Arms compare where k is the same."
)
_WIDTH, _HEIGHT, _LEFT, _TOP = 380, 240, 46, 34  # of a panel
_COLOURS = dict(
    zip(KINDS, ("#000000", "#d55e00", "#999999", "#0072b2", "#009e73", "#cc79a7"), strict=True)
)


def drawn(curves: Mapping[str, Sequence[float]]) -> str:
    """SVG: a panel an images and method, a line an arm, k to the right, accuracy in percent up."""
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for name, rates in curves.items():
        kind = max((k for k in KINDS if name.endswith(f"-{k}")), key=len)
        panels.setdefault(name.removesuffix(f"-{kind}"), {})[kind] = expected_best(rates)
    parts, columns = [], min(2, len(panels))
    for place, (title, lines) in enumerate(panels.items()):
        across, down = place % columns * _WIDTH, place // columns * _HEIGHT
        parts.append(f"<g transform='translate({across},{down})'>")
        parts += [*_panel(title, lines), "</g>"]
    bottom = -(-len(panels) // columns) * _HEIGHT
    shown = list(dict.fromkeys(kind for lines in panels.values() for kind in lines))
    for place, kind in enumerate(shown):
        across, down = 20 + place % 3 * 125, bottom + 14 + place // 3 * 18
        parts.append(
            f"<path d='M{across},{down - 4}h18' stroke='{_COLOURS[kind]}' stroke-width='2'/>"
        )
        parts.append(_text(across + 24, down, kind))
    height = bottom + 18 * -(-len(shown) // 3) + 10
    inside = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {columns * _WIDTH} {height}' "
        f"font-family='sans-serif' font-size='11'>\n<rect width='100%' height='100%' fill='white'/>\n"
        f"{inside}\n</svg>\n"
    )


def _panel(title: str, lines: Mapping[str, Sequence[float]]) -> Iterator[str]:
    values = [value for line in lines.values() for value in line]
    low, high = min(values) - 0.005, max(values) + 0.005
    most = max(map(len, lines.values()))
    right, bottom = _WIDTH - 14, _HEIGHT - 34

    def at(k: int, value: float) -> str:
        across = _LEFT + (right - _LEFT) * (k - 1) / max(1, most - 1)
        return f"{across:.1f},{bottom - (bottom - _TOP) * (value - low) / (high - low):.1f}"

    yield _text(_LEFT, 18, title)
    yield f"<path d='M{_LEFT},{_TOP}V{bottom}H{right}' fill='none' stroke='#888'/>"
    for k in range(1, most + 1):
        across, _, _ = at(k, low).partition(",")
        yield _text(float(across), bottom + 14, str(k), "middle")
    yield _text((_LEFT + right) / 2, bottom + 28, "k tries", "middle")
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        _, _, down = at(1, value).partition(",")
        yield _text(_LEFT - 5, float(down) + 4, f"{100 * value:.1f}", "end")
    for kind, line in lines.items():
        path = "L".join(at(k, value) for k, value in enumerate(line, start=1))
        yield f"<path d='M{path}' fill='none' stroke='{_COLOURS[kind]}' stroke-width='2'/>"


def _text(across: float, down: float, words: str, anchor: str = "start") -> str:
    return f"<text x='{across:.1f}' y='{down:.1f}' text-anchor='{anchor}'>{escape(words)}</text>"
