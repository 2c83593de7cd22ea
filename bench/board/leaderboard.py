"""The leaderboard page: one sentence, the table, then how sure it is, and what others published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import cast

import streamlit as st
from markupsafe import Markup

from bench.board import article, filters, records, tables
from bench.board.article import paragraph, small
from bench.exports.formats import FORMATS
from bench.exports.render import WHAT_INTERVALS_COVER
from bench.exports.view import View
from bench.notation import plain
from bench.published import MARK, PublishedRow, likely_note
from bench.stats.contrasts import rule
from bench.table import Group, Row

_ATTACK = "attack"  # of the published numbers, in the address too
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
    st.title("Robustness leaderboard", anchor=False)
    paragraph(
        "Which adversarially trained image classifiers withstand attack, how sure are we, and did "
        "adversarial weight perturbation (AWP) help? Every number measured here comes from a record "
        "of per-image outcomes that can be checked again."
    )
    board, found = records.leaderboard(), filters.places()
    if not found:
        article.no_records(board)
        return
    table = filters.choose(found, "bench/board/leaderboard.py")
    place, group, _ = table
    theirs = place.published
    rows = records.once_of(group, "drawable", partial(drawable, group)) if group else []
    facts = [filters.facts_of(row) for row in rows]
    chosen = filters.choose_rows([*facts, *map(filters.facts_of_published, theirs)])
    label = f"Show the {len(theirs):,} published numbers ({MARK})"
    beside = filters.show_published(len(theirs), label)
    more = {filters.PUBLISHED: [str(beside).lower()], _ATTACK: [row.attack for row in theirs]}
    filters.note_what_is_missed(table, chosen | more)
    if group is not None:
        show_table(group, rows, chosen)
    else:
        paragraph(
            f"Nothing is measured here yet on {plain(place.dataset)} under {place.threat}: what "
            f"follows is {MARK}."
        )
        if board.groups:
            show_where(board.groups)
    if beside:
        article.alone("The published numbers", show_published, theirs, chosen)
    if group is not None:
        article.alone("The files of this table", show_downloads, group, theirs if beside else ())
        article.alone("What AWP did here", show_answers, group)
    if board.groups:
        article.notes(board)
    else:
        article.no_records(board)


def show_where(groups: Sequence[Group]) -> None:
    """Where our own tables are."""
    links = (
        article.link_to_table(group, group.heading) + f" ({len(group.members):,} models)"
        for group in sorted(groups, key=lambda group: group.demo)[:8]
    )
    paragraph(Markup("Measured here: ") + Markup("; ").join(links) + ".")


# ---------------------------------------------------------------- the tables


def drawable(group: Group) -> list[Row]:
    """The rows of a table that can be drawn, each tried alone."""

    def draw(row: Row) -> None:
        filters.facts_of(row)
        tables.ranked_line(group, row)
        tables.ranked(group, [row])

    return article.drawable(group.rows, draw)


def show_table(group: Group, rows: Sequence[Row], chosen: Mapping[str, Sequence[str]]) -> None:
    """The ranked rows that the filters leave, and how sure their order is."""
    listed = [row for row in rows if filters.listed(filters.facts_of(row), chosen)]
    hidden, broken = len(rows) - len(listed), len(group.rows) - len(rows)
    models = "1 model" if len(group.rows) == 1 else f"{len(group.rows):,} models"
    bound = "Gradient attacks only: an upper bound. " if group.gradients_alone else ""
    paragraph(
        (article.DEMO if group.demo else Markup())
        + f"{bound}{models} on {group.dataset} under {group.threat}, {group.images_label}, ranked by "
        f"the worst case of {group.protocol_label}. Rates in percent. Select a row to open its model."
    )
    if hidden:
        small(f"Filters hide {hidden:,} of {models}; ranks are those of the whole table.")
    if broken:
        said = "1 row" if broken == 1 else f"{broken:,} rows"
        paragraph(f"{said} could not be shown. The reason is in the server's log.", "board-failed")
    if not listed:
        st.info("The filters leave no model that is measured here.")
        return

    def drawn() -> tuple[list[article.Line], tables.Columns]:
        return [tables.ranked_line(group, row) for row in listed], tables.ranked(group, listed)

    whole = len(listed) == len(rows)
    lines, (data, config) = records.once_of(group, "table", drawn) if whole else drawn()
    with st.container(key="narrow"):
        article.rows(lines, "in the CSV file.")
    with st.container(key="wide"):
        event = st.dataframe(
            data,
            column_config=config,
            hide_index=True,
            height=article.table_height(len(listed)),
            on_select="rerun",
            selection_mode="single-row",
            key=f"table {group.key} {chosen}",
            alt=f"Leaderboard: {group.heading}",
        )
    if event.selection.rows:
        row = listed[event.selection.rows[0]]
        st.switch_page(article.MODEL_PAGE, query_params=article.model_address(group, row))
    unranked = [article.link_to_model(group, row) for row in rows if row.unranked]
    if unranked:
        said = "Shown last and without a rank, because a flag puts the number into doubt: "
        small(said + Markup(", ").join(unranked) + ".")
    for note in (*group.separation_notes, WHAT_INTERVALS_COVER):
        small(note)
    tables.show_contradictions(group, rows)
    for line in group.audit_lines[:10]:
        small(f"{line}.")
    if group.seed_lines:
        small(f"Attacked again from other seeds: {'; '.join(group.seed_lines[:10])}.")


def show_published(rows: Sequence[PublishedRow], chosen: Mapping[str, Sequence[str]]) -> None:
    """The published rows that the filters leave, under one attack, never ranked with ours."""
    st.header(MARK.capitalize(), anchor=False)
    attacks = list(dict.fromkeys(row.attack for row in rows))
    attack = st.selectbox("Attack", attacks, key=_ATTACK, bind="query-params", width=320)
    listed = [
        row
        for row in rows
        if row.attack == attack and filters.listed(filters.facts_of_published(row), chosen)
    ]
    paragraph(
        Markup(
            "<strong>{}</strong>: {:,} numbers under {}, as their sources give them. Effort and code "
            "of the attack differ between sources, images may, so the rows have no rank; the lowest "
            "accuracy known orders them."
        ).format(MARK.capitalize(), len(listed), plain(attack, 60))
    )
    if not listed:
        st.info("The filters leave no published row under this attack.")
        return
    intervals = [row.interval for row in listed]
    neighbours = [(a, b) for a, b in pairwise(intervals) if a and b]
    together = sum(a.low <= b.high and b.low <= a.high for a, b in neighbours)
    said = plain(attack, 60), MARK, len(neighbours), together
    data, config = tables.published(listed, attack)
    lines = [tables.published_line(row) for row in listed]
    with st.container(key="narrow-published"):
        article.rows(lines, "on a wider screen.")
    with st.container(key="wide-published"):
        article.table(data, "published", *said, columns=config)
    if note := likely_note(listed):
        small(note)


# ---------------------------------------------------------------- below them


def show_answers(group: Group) -> None:
    """What AWP did in this table, a sentence a method; the page about it has the rest."""
    st.header("Did AWP help here?", anchor=False)
    answers = [answer for answer in records.answers(group) if answer.control is None]
    if not answers:
        paragraph(
            "No model of this table has its vanilla twin beside it, so nothing can be said. A "
            "twin is trained with the same data order, start and schedule, without AWP."
        )
        return
    article.answers(answers)
    small(rule(answers))
    page = article.link_to_table(group, "Did AWP help?", "did-awp-help")
    small(page + ": attack by attack, seeds, stronger controls, training curves.")


def show_downloads(group: Group, beside: Sequence[PublishedRow]) -> None:
    """The whole table in the formats of the exports, made when a button is pressed."""
    alone = replace(records.leaderboard(), groups=(group,))
    view = View(alone, {(group.dataset, group.threat): beside} if beside else {})
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
    small("Every file holds the whole table, whatever the filters hide.")


show()
