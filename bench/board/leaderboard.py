"""The leaderboard page: one sentence, the table, then whether AWP helped and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup
from streamlit.elements.lib.column_types import ColumnConfig

from bench.board import article, records, twins
from bench.board.article import paragraph, small
from bench.exports.flat import csv_text
from bench.notation import percent, percent_interval, short_label
from bench.render import WHAT_INTERVALS_COVER
from bench.table import CLEAN, WORST_CASE, Group

DEMO = Markup("<strong>Demo data</strong>: a toy that trains in seconds, not a benchmark. ")
FILTERS = ("dataset", "threat", "protocol", "images")  # also their names in the address
MODEL_PAGE = "bench/board/model.py"


def show() -> None:
    """The page from top to bottom."""
    st.title("Robustness leaderboard", anchor=False)
    paragraph(
        "Which adversarially trained image classifiers withstand attack, how sure are we, and did "
        "adversarial weight perturbation (AWP) help? Every number here comes from a record of "
        "per-image outcomes that can be checked again."
    )
    board = records.leaderboard()
    if not board.groups:
        article.no_records(board)
        return
    group = choose_group(board.groups)
    show_table(group)
    twins.show_awp(group)
    article.notes(board)


# ---------------------------------------------------------------- filters


def choose_group(groups: Sequence[Group]) -> Group:
    """The table asked for by the filters, which live in the URL."""
    asked = _asked_on_arrival()
    # The page lands on the data set with most rows, and on a demo only where there is nothing else.
    chosen = sorted(groups, key=lambda g: (g.demo, -_rows_on(g.dataset, groups)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = _choose("dataset", "Data set", chosen, lambda g: g.dataset)
        chosen = _choose("threat", "Threat model", chosen, lambda g: str(g.threat))
        chosen = _choose("protocol", "Protocol", chosen, lambda g: g.protocol_label)
        labels = article.image_labels(chosen)
        if len(chosen) > 1:
            chosen = _choose("images", "Images", chosen, lambda g: labels[g.key])
    shown = {"images": labels[chosen[0].key]} | st.session_state.to_dict()
    missed = [key for key, value in asked.items() if shown[key] != value]
    if missed:
        st.info(
            f"The address asks for a view that no record here has ({', '.join(missed)}). "
            "Showing another one."
        )
    return chosen[0]


def _choose(
    key: str, label: str, groups: Sequence[Group], of: Callable[[Group], str]
) -> list[Group]:
    options = list(dict.fromkeys(map(of, groups)))
    value = st.selectbox(label, options, key=key, bind="query-params", width=220)
    return [group for group in groups if of(group) == value] or list(groups)


def _rows_on(dataset: str, groups: Sequence[Group]) -> int:
    return sum(len(group.members) for group in groups if group.dataset == dataset)


def _asked_on_arrival() -> dict[str, str]:
    """The filters of the address that opened the page; later ones come from the widgets."""
    if st.session_state.get("arrived"):
        return {}
    st.session_state["arrived"] = True
    return {key: st.query_params[key] for key in FILTERS if key in st.query_params}


# ---------------------------------------------------------------- table


def show_table(group: Group) -> None:
    """The ranked rows; selecting one opens its page."""
    demo = DEMO if group.demo else ""
    lite = "" if _has_square(group) else "Gradient attacks only: an upper bound. "
    models = "1 model" if len(group.rows) == 1 else f"{len(group.rows)} models"
    paragraph(
        Markup("{}{}").format(
            demo,
            f"{lite}{models} on {group.dataset} under {group.threat}, {group.images_label}, "
            f"ranked by the worst case of {group.protocol_label}. Rates in percent. "
            "Select a row to open its model.",
        )
    )
    with st.container(key="narrow"):
        show_rows(group)
    with st.container(key="wide"):
        event = st.dataframe(
            _table(group),
            column_config=_columns(group),
            hide_index=True,
            height=twins.table_height(len(group.rows)),
            on_select="rerun",
            selection_mode="single-row",
            key=f"table {group.key}",
            alt=f"Leaderboard: {group.heading}",
        )
    if event.selection.rows:
        row = group.rows[event.selection.rows[0]]
        measurement = article.measurement_label(group)
        st.switch_page(MODEL_PAGE, query_params={"name": row.card.name, "measurement": measurement})
    unranked = [row for row in group.rows if row.unranked]
    if unranked:
        small(
            Markup(
                "Shown last and without a rank, because a flag puts the number into doubt: {}."
            ).format(Markup(", ").join(article.link_to_model(group, row) for row in unranked))
        )
    small(f"{WHAT_INTERVALS_COVER} Rows whose intervals overlap may not be separated by rank.")
    st.download_button(
        "Download CSV",
        csv_text([group]),
        file_name=f"{group.dataset}-{group.threat.folder}-{group.protocol.name}-n{group.n}.csv",
        mime="text/csv",
        on_click="ignore",
    )


def show_rows(group: Group) -> None:
    """The same rows where a wide table does not fit."""
    article.rows(
        [
            (
                "" if row.rank is None else str(row.rank),
                article.link_to_model(group, row),
                percent(row.rates[WORST_CASE].estimate, group.n),
                f"{percent_interval(row.rates[WORST_CASE], group.n)}; "
                f"clean {percent(row.rates[CLEAN].estimate, group.n)}; {row.card.method}"
                f"{'; ' if row.unranked else ''}{row.unranked}",
            )
            for row in group.rows
        ],
        "in the CSV file.",
    )


def _has_square(group: Group) -> bool:
    """Whether anything but gradients was tried."""
    return any(spec.name == "square" for column in group.columns for spec in column.attacks)


def _table(group: Group) -> pa.Table:
    rows = group.rows
    columns: dict[str, list[object]] = {
        "rank": [row.rank for row in rows],  # empty where a flag keeps the row out
        "model": [row.card.name for row in rows],
        "AWP": [row.texts["AWP"] for row in rows],
        WORST_CASE: [100 * row.rates[WORST_CASE].estimate for row in rows],
        "interval": [percent_interval(row.rates[WORST_CASE], group.n) for row in rows],
    }
    for measure in group.labels:
        columns[measure] = [100 * row.rates[measure].estimate for row in rows]
    columns["seed"] = [row.card.seed for row in rows]
    for heading in ("epoch kept", "method", "arch", "flags", "engine", "precision"):
        columns[heading] = [row.texts[heading] for row in rows]
    columns["flags"] = [row.unranked or row.texts["flags"] for row in rows]
    columns["best_known"] = [100 * row.best_known_rate.estimate for row in rows]
    columns["n"] = [row.record.n for row in rows]
    columns["date"] = [row.texts["date"] for row in rows]
    return pa.table(columns)


def _columns(group: Group) -> Mapping[str, ColumnConfig]:
    rate = "%.1f" if group.n <= 1000 else "%.2f"
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "rank": number("rank", width=46),
        "model": text("model", width=225),
        "AWP": text("AWP", width=56, help="weights perturbed while training"),
        WORST_CASE: number("worst case", format=rate, width=84, help="standing under all columns"),
        "interval": text("95 % interval", width=104),
        **{
            measure: number(short_label(label), format=rate, width=twins.rate_width(label))
            for measure, label in group.labels.items()
        },
        "seed": number("seed", width=52),
        "epoch kept": text("epoch kept", width=124),
        "method": text("method", width=84),
        "arch": text("arch", width=110),
        "flags": text("flags", width=130),
        "engine": text("engine", width=150),
        "precision": text("precision", width=84),
        "best_known": number(
            "best known",
            format=rate,
            width=92,
            help="standing under all records of these weights; effort differs, so never ranked",
        ),
        "n": number("n", width=64),
        "date": text("date", width=96),
    }


show()
