"""Studies: what each found, drawn from its numbers; of one without numbers its summary, as text.

A summary is shown as harmless HTML: headings, paragraphs, tables and lists. Everything else, links
and HTML above all, stays the text that it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import streamlit as st
from markupsafe import Markup

from bench.board.article import small, verdict_class
from bench.board.records import Study
from bench.notation import ends, percent, plain, points, points_interval
from bench.stats.intervals import Interval
from bench.stats.study_files import CLEAN, FOLDER, GAP, WORST_CASE, Finding, StudyFile, standing
from bench.stats.verdicts import RULE, Verdict

_ALL = "README"  # the page that tells all of them
_LARGEST = 2**17  # bytes
_MOST = 30  # studies on one page


def show(root: Path, studies: Sequence[Study]) -> None:
    """Every study under the results folder, all of them in one table first; nothing where none is.

    studies: those whose files say what was found; of any other the summary is shown as it is.
    """
    told = {study.name: (study, found) for study, found in studies}
    paths = {path.stem: path for path in (root / FOLDER).glob("*.md") if path.stem != _ALL}
    names = sorted({*told, *paths})[:_MOST]
    together = root / FOLDER / f"{_ALL}.md"
    if not names and not together.exists():
        return
    st.header("Studies", anchor=False)
    small(
        "A study trains what a question asks for, over several seeds, and is written by a program."
    )
    if told:
        small(_colours(studies))
    if told or together.exists():
        with st.expander("All studies in one table", expanded=True):
            st.html(_framed(_all_in_one(studies)) if told else as_html(_read(together)))
    for name in names:
        with st.expander(_label(name)):
            st.html(_framed(_whole(*told[name])) if name in told else as_html(_read(paths[name])))


def _label(stem: str) -> str:
    """The name of a study as a label, which Streamlit would read as Markdown."""
    return "".join(c if c.isalnum() or c in " -" else " " for c in plain(stem, 80))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            return f"{path.name} is larger than {_LARGEST:,} bytes and is not shown."
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"


def as_html(text: str) -> Markup:
    """Headings, tables, lists and paragraphs as escaped HTML."""
    lines = [plain(line, 2000) for line in text.splitlines()]
    blocks = (
        _block(kind, list(found)) for kind, found in groupby(filter(None, _spaced(lines)), _kind)
    )
    return Markup('<div class="board-study">{}</div>').format(Markup("").join(blocks))


def _spaced(lines: list[str]) -> Iterator[str]:
    """Empty lines part paragraphs."""
    for line in lines:
        yield line or "\0"


def _kind(line: str) -> str:
    if line.startswith("|"):
        return "table"
    if line.startswith(("- ", "* ")):
        return "list"
    if line == "\0":
        return "space"
    return "heading" if line.startswith("#") else "text"


def _block(kind: str, lines: list[str]) -> Markup:
    if kind == "space":
        return Markup("")
    if kind == "heading":
        parts = (Markup("<h4>{}</h4>").format(line.lstrip("# ")) for line in lines)
        return Markup("").join(parts)
    if kind == "list":
        items = Markup("").join(Markup("<li>{}</li>").format(line[2:]) for line in lines)
        return Markup('<ul class="board-list">{}</ul>').format(items)
    if kind == "table":
        return _table(lines)
    return Markup('<p class="board-p">{}</p>').format(" ".join(lines))


def _table(lines: list[str]) -> Markup:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if len(rows) > 1 and all(set(cell) <= set(":- ") for cell in rows[1]):
        head, body = rows[:1], rows[2:]
    else:
        head, body = [], rows
    made = [
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(cell) for cell in row)
        )
        for tag, part in (("th", head), ("td", body))
        for row in part
    ]
    return _scrolling(made)


def _scrolling(rows: Iterable[Markup]) -> Markup:
    form = '<div class="board-scroll"><table>{}</table></div>'
    return Markup(form).format(Markup("").join(rows))


def _framed(parts: Iterable[Markup]) -> Markup:
    return Markup('<div class="board-study">{}</div>').format(Markup("").join(parts))


# ---------------------------------------------------------------- what was found, as numbers

Cell = tuple[Finding, Verdict, str]  # what a cell shows: one measure of a finding


def _colours(studies: Sequence[Study]) -> str:
    families = {verdict.family for _, found in studies for verdict in found if verdict.family}
    return (
        f"{RULE} The line of a worst case has the colour of its verdict; gap and clean accuracy have "
        f"none. Here are {len(families)} families: each table of the board, or what a study declared."
    )


def _all_in_one(studies: Sequence[Study]) -> Iterator[Markup]:
    """A row a contrast: best, last, and the gap at the last epoch."""
    for study, found in studies:
        yield Markup("<h4>{}</h4><p class='board-p'>{}</p>").format(
            plain(study.name, 80), plain(study.question, 500)
        )
        by_key = {(f.contrast, f.kept): (f, v) for f, v in zip(study.findings, found, strict=True)}
        rows = []
        for contrast in dict.fromkeys(finding.contrast for finding in study.findings):
            best, last = (by_key.get((contrast, kept)) for kept in ("best", "last"))
            seeds = max(len(pair[0].seeds) for pair in (best, last) if pair)
            cells = [(*pair, WORST_CASE) if pair else None for pair in (best, last)]
            rows.append(
                (contrast, str(seeds), cells[0], best, cells[1], last, last and (*last, GAP))
            )
        heads = ("treated minus control", "seeds", "best", "verdict", "last", "verdict", "gap")
        yield _drawn(heads, rows)


def _whole(study: StudyFile, found: Sequence[Verdict]) -> Iterator[Markup]:
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


def _drawn(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table; a cell is text, a finding with its verdict, or a measure of it with its line."""
    reach = [_reach(cells) for cells in zip(*rows, strict=True)]
    body = [
        Markup("").join(
            Markup("<td>{}</td>").format(_cell(c, r)) for c, r in zip(row, reach, strict=True)
        )
        for row in rows
    ]
    head = Markup("").join(Markup("<th>{}</th>").format(text) for text in heads)
    return _scrolling(Markup("<tr>{}</tr>").format(row) for row in [head, *body])


def _cell(cell: object, reach: float) -> Markup | str:
    if not isinstance(cell, tuple):
        return plain(cell or "", 300)
    finding, verdict = cell[:2]
    if len(cell) == 2:
        return plain(standing(finding, verdict), 100)
    if cell[2] not in finding.differences:
        return ""
    interval = finding.interval(cell[2])
    judged = verdict if cell[2] == WORST_CASE else None
    return _line(interval, reach, judged) + points_interval(interval, "")


def _reach(cells: Iterable[object]) -> float:
    """How far a column's lines go to either side of zero: a row far beyond the others is cut off."""
    shown = [
        cell[0].interval(cell[2])
        for cell in cells
        if isinstance(cell, tuple) and len(cell) == 3 and cell[2] in cell[0].differences
    ]
    far = sorted(max(abs(i.low), abs(i.high)) for i in shown if math.isfinite(i.low))
    return min(far[-1], 3 * far[len(far) // 2]) if far else 0.0


def _line(interval: Interval, reach: float, verdict: Verdict | None) -> Markup:
    """The interval around its column's zero, in the colour of the verdict."""
    if not reach or math.isinf(interval.low):
        return Markup("")
    at, low, high = (
        round(50 + 50 * max(-1.0, min(1.0, end / reach)), 1)
        for end in (interval.estimate, interval.low, interval.high)
    )
    kind = verdict_class(verdict) if verdict else "open"
    return Markup(
        '<span class="board-line {}" style="--at:{}%;--low:{}%;--high:{}%"><i></i><b></b></span>'
    ).format(kind, at, low, high)
