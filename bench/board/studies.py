"""Summaries of studies, results/studies/*.md: a few marks of Markdown shown as harmless HTML.

Headings, paragraphs, tables and lists are all that the summaries use. Everything else, links and
HTML above all, stays the text that it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby, zip_longest
from pathlib import Path

import streamlit as st
from markupsafe import Markup

from bench.board.article import small
from bench.notation import plain

FOLDER = "studies"  # under the results folder
_ALL = "README"  # the page that tells all of them
_LARGEST = 2**17  # bytes
_MOST = 30  # studies on one page


def show(root: Path) -> None:
    """Every summary under the results folder, that of all of them open; nothing where none is."""
    paths = sorted((root / FOLDER).glob("*.md"), key=lambda path: (path.stem != _ALL, path.stem))
    if not paths:
        return
    st.header("Studies", anchor=False)
    small(
        "A study trains what a question asks for, over several seeds, and is written by a program."
    )
    for path in paths[:_MOST]:
        with st.expander(_label(path.stem), expanded=path.stem == _ALL):
            st.html(as_html(_read(path)))


def _label(stem: str) -> str:
    """The name of a study as a label, which Streamlit would read as Markdown."""
    if stem == _ALL:
        return "All studies in one table"
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
    reach = [_reach(cells) for cells in zip_longest(*body, fillvalue="")]
    made = [
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup(f"<{tag}>{{}}{{}}</{tag}>").format(
                    _line(cell, reach[place]) if tag == "td" else "", cell
                )
                for place, cell in enumerate(row)
            )
        )
        for tag, part in (("th", head), ("td", body))
        for row in part
    ]
    form = '<div class="board-scroll"><table>{}</table></div>'
    return Markup(form).format(Markup("").join(made))


# ---------------------------------------------------------------- intervals as lines

_INTERVAL = re.compile(r"([+-]\d+\.\d) \[([+-]\d+\.\d), ([+-]\d+\.\d)\]")


def _bounds(cell: str) -> tuple[float, float, float] | None:
    """The estimate and its bounds, of a cell such as `+1.8 [+0.5, +3.2]`."""
    found = _INTERVAL.fullmatch(cell)
    return (float(found[1]), float(found[2]), float(found[3])) if found else None


def _reach(cells: Iterable[str]) -> float:
    """How far a column's lines go to either side of zero: a row far beyond the others is cut off."""
    ends = sorted(max(map(abs, b)) for b in map(_bounds, cells) if b)
    return min(ends[-1], 3 * ends[len(ends) // 2]) if ends else 0.0


def _line(cell: str, reach: float) -> Markup:
    """The interval of a cell around the column's zero, strong where it leaves zero out."""
    found = _bounds(cell)
    if found is None or not reach:
        return Markup("")
    at, low, high = (round(50 + 50 * max(-1.0, min(1.0, end / reach)), 1) for end in found)
    strong = "board-shown" if found[1] > 0 or found[2] < 0 else "board-open"
    return Markup(
        '<span class="board-line {}" style="--at:{}%;--low:{}%;--high:{}%"><i></i><b></b></span>'
    ).format(strong, at, low, high)
