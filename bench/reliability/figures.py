"""What others state of a model, held against what a record of it measured.

Figures bound from two sides: a proof says how many images stand at least, an attack how many stand at
most. They are compared where threat and images are the same, and in counts of images alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.notation import plain
from bench.schema import EvaluationRecord, Figure

if TYPE_CHECKING:
    from bench.records.entry import Entry
    from bench.table import Group

_KINDS = {"clean": "clean", "attacked": "robust at most", "proven": "proven robust at least"}


@dataclass(frozen=True)
class Stated:
    """One figure, what was measured in its place, and how the two contradict each other."""

    figure: Figure
    measured: int | None  # images; None: of another threat or other images, or without n
    contradiction: str = ""  # a sentence; empty where there is none


def stated(record: EvaluationRecord | Entry) -> tuple[Stated, ...]:
    """Every figure on the card of a record, in its order, held against the record.

    What is proven or attacked is held against the images that nothing broke: no column, no audit.
    """
    figures = record.card.figures
    if not figures:
        return ()
    if record.failure is not None:
        return tuple(Stated(figure, None) for figure in figures)
    clean, robust = record.counts[0], int(record.never_broken.sum())
    return tuple(_held(each, record, clean if each.what == "clean" else robust) for each in figures)


def contradictions(record: EvaluationRecord | Entry) -> tuple[str, ...]:
    """A sentence for each kind of figure that contradicts a record: that of the sharpest one."""
    sharpest: dict[str, Stated] = {}
    found = stated(record)
    for each in sorted(found, key=_sharpness):
        if each.contradiction:
            sharpest[each.figure.what] = each
    told = (each.contradiction for each in found if each in sharpest.values())
    return tuple(dict.fromkeys(told))  # one figure may stand twice


def _sharpness(found: Stated) -> float:
    """The more images are proven to stand, or the fewer an attack leaves, the more is denied."""
    fewest, most = found.figure.counts or (0, 0)
    return fewest if found.figure.what == "proven" else -most


def _held(figure: Figure, record: EvaluationRecord | Entry, measured: int) -> Stated:
    """Figures are of the first n test images: a record of others, or of more or fewer, is no answer."""
    said = figure.counts
    asked = (record.dataset, record.split, record.n)
    same = asked == (figure.dataset, f"test[0:{figure.n}]", figure.n)
    same &= figure.examples_sha256 in (None, record.examples_sha256)
    if said is None or not same or figure.threat not in (None, record.threat):
        return Stated(figure, None)
    fewest, most = said
    here, there = f"{measured:,} of {record.n:,} images", f"{count_text(figure)} ({source(figure)})"
    why = ""
    if figure.what == "proven" and measured < fewest:
        why = (
            f"{here} stand here, but {there} are proven to: an adversarial image here is none, or the "
            "figure is not of this network"
        )
    elif figure.what == "attacked" and measured > most:
        by = f"{plain(figure.attack)} leaves" if figure.attack else "an attack leaves"
        why = f"{here} stand here, but {by} {there}: the attacks here are weaker"
    elif figure.what == "clean" and not fewest <= measured <= most:
        why = (
            f"{here} are right here, but {there} are stated: other weights, normalisation or images"
        )
    return Stated(figure, measured, why)


# ---------------------------------------------------------------- of a table


def compared(group: Group) -> bool:
    """Whether a figure of one of its models was held against what was measured."""
    return any(each.measured is not None for row in group.rows for each in stated(row.record))


def lines(group: Group) -> tuple[str, ...]:
    """A sentence for each figure that was compared, and one for each contradiction."""
    said = []
    for row in group.rows:
        found = (each for each in stated(row.record) if each.measured is not None)
        said += [f"{row.card.name}, stated: {sentence(each)}" for each in found]
        said += [f"{row.card.name}, contradicted: {why}" for why in contradictions(row.record)]
    return tuple(said)


# ---------------------------------------------------------------- in words


def kind(figure: Figure) -> str:
    """`clean`, `robust at most under PGD-20`, `proven robust at least`."""
    under = f" under {plain(figure.attack, 100)}" if figure.attack else ""
    return _KINDS[figure.what] + under


def count_text(figure: Figure) -> str:
    """`9,420 of 10,000`, `9,415 to 9,425 of 10,000`, `0.942 of images whose number is not stated`."""
    if figure.n is None or figure.counts is None:
        return f"{figure.share} of images whose number is not stated"
    return f"{_range(*figure.counts)} of {figure.n:,}"


def _range(fewest: int, most: int) -> str:
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


def source(figure: Figure) -> str:
    """Where the figure stands, as one plain line."""
    return plain(figure.source, 300)


def sentence(found: Stated) -> str:
    """`proven robust at least 9,420 of 10,000, mnist linf:0.1 (arXiv 1711.00851); here 9,537`."""
    figure = found.figure
    where = figure.dataset if figure.threat is None else f"{figure.dataset} {figure.threat}"
    here = "not compared" if found.measured is None else f"here {found.measured:,}"
    return f"{kind(figure)} {count_text(figure)}, {where} ({source(figure)}); {here}"


def short(found: Sequence[Stated]) -> str:
    """What was compared, in a cell: `contradicted: attacked ≤ 100; clean 140; proven ≥ 97`."""
    cells = []
    for each in sorted(found, key=lambda each: not each.contradiction):
        figure, counts = each.figure, each.figure.counts
        if each.measured is not None and counts is not None:
            value = {
                "clean": _range(*counts), "attacked": f"≤ {counts[1]:,}", "proven": f"≥ {counts[0]:,}"
            }[figure.what]  # fmt: skip
            mark = "contradicted: " if each.contradiction else ""
            cells.append(f"{mark}{figure.what} {value}")
    return "; ".join(cells)
