"""The landing page: the question and its answer, why to trust it, then the methods in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import streamlit as st
from markupsafe import Markup
from streamlit.delta_generator import DeltaGenerator

from bench.board import article, elsewhere, filters, front, method_table, records, tables
from bench.board.article import paragraph, small
from bench.catalogue import spelled
from bench.exports.formats import FORMATS
from bench.exports.view import View
from bench.stats.method_rows import MethodRow, MethodTable
from bench.table import Group, Row

_ALL_RUNS = "runs"  # whether every network is listed, in the address too
_MORE = "more rows of"  # in the session: how many of a table are shown
_FILE_TYPES = {
    "csv": ("CSV", "csv", "text/csv"),
    "parquet": ("Parquet", "parquet", "application/vnd.apache.parquet"),
    "json": ("JSON", "json", "application/json"),
    "latex": ("LaTeX", "tex", "application/x-tex"),
    "bibtex": ("BibTeX", "bib", "application/x-bibtex"),
    "md": ("Markdown", "md", "text/markdown"),
    "html": ("HTML page", "html", "text/html"),
}


def show() -> None:
    """The page from top to bottom."""
    board, found = records.leaderboard(), filters.places()
    st.title("Does adversarial weight perturbation make networks more robust?", anchor=False)
    if not found:
        article.no_records(board)
        return
    answer = st.container()  # filled last where nobody has asked yet: that takes seconds
    known = front.answer_is_known()
    if known:
        _show_answer(answer)
    front.show_trust()
    st.header("The methods, by what they withstand", anchor=False)
    table = filters.choose(found, "bench/board/leaderboard.py", elsewhere=True)
    group = table.group
    if group is not None:
        chosen = article.alone("The table", show_methods, group)
        filters.note_what_is_missed(table, chosen or {})
        article.alone("Clean against robust", front.show_scatter, group)
        article.alone("The files of this table", show_downloads, group)
    else:
        article.alone("The published numbers", elsewhere.show, table)
    if not board.groups:
        article.no_records(board)
    elif board.notes:
        with st.expander("Not in the tables"):
            article.notes(board)
    front.show_footer(board)
    if not known:
        _show_answer(answer)


def _show_answer(place: DeltaGenerator) -> None:
    with place:
        article.alone("The answer", front.show_answer)


# ---------------------------------------------------------------- the methods


def drawable(group: Group) -> list[MethodRow]:
    """The methods of a table that can be drawn, each tried alone."""

    def draw(row: MethodRow) -> None:
        for run in (*row.rows, *row.others):
            filters.facts_of(run)
        method_table.table(group, [row])

    return article.drawable(records.methods(group).rows, draw)


def show_methods(group: Group) -> dict[str, list[str]]:
    """The methods that the filters leave; returns what was filtered."""
    found = records.methods(group)
    rows = records.once_of(group, "drawable", partial(drawable, group))
    about = st.container()
    chosen = filters.choose_rows([filters.facts_of(row.rows[0]) for row in rows])
    listed = [row for row in rows if filters.listed(filters.facts_of(row.rows[0]), chosen)]
    with about:
        paragraph(_what(group, found))
    hidden, broken = len(rows) - len(listed), len(found.rows) - len(rows)
    if hidden:
        small(f"Filters hide {hidden:,} of {len(rows):,} methods; ranks are those of all.")
    if broken:
        said = "1 row" if broken == 1 else f"{broken:,} rows"
        paragraph(f"{said} could not be shown. The reason is in the server's log.", "board-failed")
    if not listed:
        st.info("The filters leave no method that is measured here.")
        return chosen
    most = st.session_state.get(f"{_MORE} {group.key}", method_table.MOST)

    def drawn() -> Markup:
        return method_table.table(group, listed[:most], compare=len(listed) > 1)

    whole = len(listed) == len(rows)
    st.html(records.once_of(group, f"methods {most}", drawn) if whole else drawn())
    if len(listed) > most and st.button(f"Show {min(len(listed) - most, 200):,} more"):
        st.session_state[f"{_MORE} {group.key}"] = most + 200
        st.rerun()
    if found.note:
        small(found.note)
    tables.show_contradictions(group, [run for row in rows for run in row.rows])
    if st.toggle("Every network with every column", key=_ALL_RUNS, bind="query-params"):
        article.alone("The networks", show_runs, group)
    return chosen


def _what(group: Group, found: MethodTable) -> Markup:
    """One sentence: what the table holds, on which images, under which attacks."""
    count = len(found.rows)
    models = len(group.members)
    networks = "" if models == count else f", {models:,} networks"
    bound = " Gradient attacks only: upper bounds." if group.gradients_alone else ""
    return (article.DEMO if group.demo else Markup()) + Markup(
        "{:,} method{}{} on {} under {}, {}; robust is right under every attack of {}.{} {}"
    ).format(
        count,
        "" if count == 1 else "s",
        networks,
        spelled(group.dataset),
        str(group.threat),
        group.images_label,
        group.protocol_label,
        bound,
        Markup('<a href="how-it-is-measured" target="_self">How to read it</a>'),
    )


def show_runs(group: Group) -> None:
    """Every network with every column, ranked on the images alone."""

    def draw(row: Row) -> None:
        tables.ranked(group, [row])

    rows = article.drawable(group.rows, draw)
    data, config = records.once_of(group, "table", lambda: tables.ranked(group, rows))
    event = st.dataframe(
        data,
        column_config=config,
        hide_index=True,
        height=article.table_height(len(rows)),
        on_select="rerun",
        selection_mode="single-row",
        key=f"table {group.key}",
        alt=f"Leaderboard: {group.heading}",
    )
    if event.selection.rows:
        row = rows[event.selection.rows[0]]
        st.switch_page(article.MODEL_PAGE, query_params=article.model_address(group, row))
    for note in group.separation_notes:
        small(note)
    if group.seed_lines:
        small(f"Attacked again from other seeds: {'; '.join(group.seed_lines[:10])}.")


# ---------------------------------------------------------------- files


def show_downloads(group: Group) -> None:
    """The whole table in the formats of the exports, made when a button is pressed."""
    view = View(replace(records.leaderboard(), groups=(group,)))
    stem = f"{group.dataset}-{group.threat.folder}-{group.protocol.name}-n{group.n}"
    with st.container(horizontal=True):
        for name, (label, suffix, mime) in _FILE_TYPES.items():
            st.download_button(
                f"Download {label}" if name == "csv" else label,
                cast("Callable[[], str | bytes]", partial(FORMATS[name].content, view)),
                file_name=f"{stem}.{suffix}",
                mime=mime,
                on_click="ignore",
                key=f"download {name}",
                type="secondary" if name == "csv" else "tertiary",
            )
    small("Every file holds every network of the whole table, whatever the filters hide.")


show()
