"""Studies: what each found, drawn from its numbers; of one without numbers its summary, as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import streamlit as st
from markupsafe import Markup

from bench.board.article import around_zero, each, small, verdict_class
from bench.board.records import Study
from bench.notation import ends, percent, plain, points, points_interval
from bench.stats.intervals import Interval
from bench.stats.study_files import CLEAN, GAP, WORST_CASE, Finding, StudyFile, standing
from bench.stats.verdicts import Verdict

_MOST = 30  # studies on one page
Cell = tuple[Finding, Verdict] | tuple[Finding, Verdict, str]  # its verdict, or one measure of it


def show(studies: Sequence[Study]) -> None:
    """Every study whose file says what was found, all of them in one table first."""
    if not studies:
        return
    st.header("Studies", anchor=False)
    small(
        "A study trains what a question asks for, over several seeds. The line of a worst case has the "
        "colour of its verdict; gap and clean accuracy have none."
    )
    with st.expander("All studies in one table"):
        _framed(chain.from_iterable(_at_a_glance(*study) for study in studies))
    for study, found in studies[:_MOST]:
        # Streamlit would read the label as Markdown.
        label = "".join(c if c.isalnum() or c in " -" else " " for c in plain(study.name, 80))
        with st.expander(label):
            _framed(whole(study, found))


def _framed(parts: Iterable[Markup]) -> None:
    st.html(Markup('<div class="board-study">{}</div>').format(Markup("").join(parts)))


# ---------------------------------------------------------------- what was found, as numbers


def _at_a_glance(study: StudyFile, found: Sequence[Verdict]) -> Iterator[Markup]:
    """A row a contrast: best, last, and the gap at the last epoch."""
    name, question = plain(study.name, 80), plain(study.question, 500)
    yield Markup("<h4>{}</h4><p class='board-p'>{}</p>").format(name, question)
    by_key = {(f.contrast, f.kept): (f, v) for f, v in zip(study.findings, found, strict=True)}
    rows = []
    for contrast in dict.fromkeys(finding.contrast for finding in study.findings):
        best, last = (by_key.get((contrast, kept)) for kept in ("best", "last"))
        seeds = max(len(pair[0].seeds) for pair in (best, last) if pair)
        cells = [(*pair, WORST_CASE) if pair else None for pair in (best, last)]
        rows.append((contrast, str(seeds), cells[0], best, cells[1], last, last and (*last, GAP)))
    heads = ("treated minus control", "seeds", "best", "verdict", "last", "verdict", "gap")
    yield _drawn(heads, rows)


def whole(study: StudyFile, found: Sequence[Verdict]) -> Iterator[Markup]:
    """The question, every contrast at both epochs, and what the networks kept."""
    yield Markup("<p class='board-p'>{}</p>").format(plain(study.question, 500))
    rows = [
        (f.contrast, f.kept, str(len(f.seeds)), (f, v), (f, v, WORST_CASE),
         ends(f.effect.crossed) if f.crossed else "", (f, v, GAP), (f, v, CLEAN),
         ", ".join(map(points, f.differences[WORST_CASE])))
        for f, v in zip(study.findings, found, strict=True)
    ]  # fmt: skip
    heads = ("treated minus control", "epoch", "seeds", "verdict", "worst case", "seeds x images",
             "gap", "clean", "each seed")  # fmt: skip
    yield _drawn(heads, rows)
    families = "; ".join(dict.fromkeys(v.family for v in found if v.family))
    yield Markup("<p class='board-p board-small'>{}</p>").format(f"Families: {families}.")
    kept = [
        (row.run, row.kept, str(row.seeds), f"{row.n:,}", percent(row.worst_case, row.n),
         percent(row.clean, row.n), "" if row.gap is None else points(row.gap))
        for row in study.networks
    ]  # fmt: skip
    means = ("run", "epoch", "seeds", "n", "worst case %", "clean %", "train minus validation, PGD")
    yield _drawn(means, kept)


def _drawn(heads: Sequence[str], rows: Sequence[Sequence[str | Cell | None]]) -> Markup:
    """A table; a cell is text, a finding with its verdict, or a measure of it with its line."""
    reach = [_reach(cells) for cells in zip(*rows, strict=True)]
    body = (each("<td>{}</td>", map(_cell, row, reach)) for row in rows)
    lines = each("<tr>{}</tr>", (each("<th>{}</th>", heads), *body))
    form = '<div class="board-scroll" role="group" tabindex="0"><table>{}</table></div>'
    return Markup(form).format(lines)


def _reach(cells: Iterable[str | Cell | None]) -> float:
    """How far a column's lines go to either side of zero: a row far beyond the others is cut off."""
    shown = [_interval(cell) for cell in cells if isinstance(cell, tuple)]
    far = sorted(max(abs(i.low), abs(i.high)) for i in shown if i and math.isfinite(i.low))
    return min(far[-1], 3 * far[len(far) // 2]) if far else 0.0


def _interval(cell: Cell) -> Interval | None:
    """That of the measure of a cell; None without a measure, or where it was not measured."""
    if len(cell) == 2 or cell[2] not in cell[0].differences:
        return None
    return cell[0].interval(cell[2])


def _cell(cell: str | Cell | None, reach: float) -> Markup | str:
    """Text, or the interval around its column's zero in the colour of the verdict, which is drawn."""
    if not isinstance(cell, tuple):
        return plain(cell or "", 300)
    finding, verdict, interval = cell[0], cell[1], _interval(cell)
    if len(cell) == 2:
        return plain(standing(finding, verdict), 100)
    if interval is None:
        return ""
    kind = verdict_class(verdict) if cell[2] == WORST_CASE else "open"  # the others have no verdict
    return around_zero(interval, reach, kind) + points_interval(interval, "")
