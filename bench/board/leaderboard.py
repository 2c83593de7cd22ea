"""The leaderboard page: one sentence, the table, then how sure it is, and what others published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import streamlit as st
from markupsafe import Markup

from bench.board import article, choosing, published, ranking, records, rowfilters
from bench.board.article import paragraph, small
from bench.exports.formats import FORMATS
from bench.exports.render import WHAT_INTERVALS_COVER
from bench.exports.view import View
from bench.notation import plain
from bench.published import MARK, PublishedRow
from bench.stats.contrasts import rule
from bench.table import Group

MODEL_PAGE = "bench/board/model.py"
_BESIDE = "published"  # the toggle, in the address too
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
    board, found = records.leaderboard(), records.places()
    if not found:
        article.no_records(board)
        return
    asked = choosing.asked_on_arrival(
        "leaderboard", (*choosing.TABLE_FILTERS, *rowfilters.LABELS, _BESIDE, published.FILTER)
    )
    place, group = choosing.choose(found, "bench/board/leaderboard.py")
    facts = [rowfilters.facts_of(row) for row in group.rows] if group else []
    chosen = rowfilters.choose([*facts, *map(rowfilters.facts_of_published, place.published)])
    beside = _beside(place.published)
    shown = choosing.shown_values(place, group) | chosen | {_BESIDE: [str(beside).lower()]}
    shown[published.FILTER] = [row.attack for row in place.published]
    choosing.note_what_is_missed(asked, shown)
    if group is None:
        paragraph(
            f"Nothing is measured here yet on {plain(place.dataset)} under {place.threat}: what "
            f"follows is {MARK}."
        )
        _measured_here(board.groups)
    else:
        show_table(group, chosen)
    if beside and place.published:
        published.show(place.published, chosen)
    if group is not None:
        downloads(group, place.published if beside else ())
        show_answers(group)
    if not board.groups:
        article.no_records(board)
    else:
        article.notes(board)


def _measured_here(groups: Sequence[Group]) -> None:
    """Where our own tables are."""
    if not groups:
        return
    links = (
        Markup("{} ({:,} models)").format(
            article.link_to_table(group, group.heading), len(group.members)
        )
        for group in sorted(groups, key=lambda group: group.demo)[:8]
    )
    paragraph(Markup("Measured here: {}.").format(Markup("; ").join(links)))


def _beside(rows: Sequence[PublishedRow]) -> bool:
    """Whether the published rows are shown; they are unless the address or the visitor says no."""
    if not rows:
        return False
    label = f"Show the {len(rows):,} published numbers ({MARK})"
    return st.toggle(label, value=True, key=_BESIDE, bind="query-params")


# ---------------------------------------------------------------- our table


def show_table(group: Group, chosen: Mapping[str, Sequence[str]]) -> None:
    """The ranked rows that the filters leave; selecting one opens its page."""
    listed = [row for row in group.rows if rowfilters.listed(rowfilters.facts_of(row), chosen)]
    hidden = len(group.rows) - len(listed)
    models = "1 model" if len(group.rows) == 1 else f"{len(group.rows):,} models"
    paragraph(
        Markup("{}{}").format(
            article.DEMO if group.demo else "",
            f"{'' if _has_square(group) else 'Gradient attacks only: an upper bound. '}{models} on "
            f"{group.dataset} under {group.threat}, {group.images_label}, ranked by the worst case "
            f"of {group.protocol_label}. Rates in percent. Select a row to open its model.",
        )
    )
    if hidden:
        small(f"Filters hide {hidden:,} of {models}; ranks are those of the whole table.")
    if not listed:
        st.info("The filters leave no model that is measured here.")
        return
    with st.container(key="narrow"):
        article.rows([ranking.line(group, row) for row in listed], "in the CSV file.")
    with st.container(key="wide"):
        event = st.dataframe(
            ranking.table(group, listed, records.costs(group)),
            column_config=ranking.columns(group, listed),
            hide_index=True,
            height=ranking.table_height(len(listed)),
            on_select="rerun",
            selection_mode="single-row",
            key=f"table {group.key} {chosen}",
            alt=f"Leaderboard: {group.heading}",
        )
    if event.selection.rows:
        row = listed[event.selection.rows[0]]
        measurement = article.measurement_label(group)
        st.switch_page(MODEL_PAGE, query_params={"name": row.card.name, "measurement": measurement})
    _how_sure(group)


def _how_sure(group: Group) -> None:
    """What may be read out of the order of the rows."""
    unranked = [row for row in group.rows if row.unranked]
    if unranked:
        small(
            Markup(
                "Shown last and without a rank, because a flag puts the number into doubt: {}."
            ).format(Markup(", ").join(article.link_to_model(group, row) for row in unranked))
        )
    for note in group.separation_notes:
        small(note)
    small(WHAT_INTERVALS_COVER)
    if group.seed_lines:
        small(f"Attacked again from other seeds: {'; '.join(group.seed_lines[:10])}.")


def _has_square(group: Group) -> bool:
    """Whether anything but gradients was tried."""
    return any(spec.name == "square" for column in group.columns for spec in column.attacks)


# ---------------------------------------------------------------- below it


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
    for answer in answers:
        article.answer(answer)
    small(rule(answers))
    small(
        Markup("{}: attack by attack, seeds, stronger controls, training curves.").format(
            article.link_to_table(group, "Did AWP help?", "did-awp-help")
        )
    )


def downloads(group: Group, beside: Sequence[PublishedRow]) -> None:
    """The whole table in the formats of the exports, made when a button is pressed."""
    view = View(
        records.shown_alone(group), {(group.dataset, group.threat): beside} if beside else {}
    )
    stem = f"{group.dataset}-{group.threat.folder}-{group.protocol.name}-n{group.n}"

    def content(name: str) -> Callable[[], str | bytes]:
        return lambda: cast("str | bytes", FORMATS[name].content(view))

    with st.container(horizontal=True):
        for name, (label, suffix, mime) in _FILE_TYPES.items():
            st.download_button(
                f"Download {label}" if name == "csv" else label,
                content(name),
                file_name=f"{stem}.{suffix}",
                mime=mime,
                on_click="ignore",
                key=f"download {name}",
                type="secondary" if name == "csv" else "tertiary",
            )
    small("Every file holds the whole table, whatever the filters hide.")


show()
