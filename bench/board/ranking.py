"""The columns of the ranked table: rank, rates, interval, doubts, engine and cost of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup
from streamlit.elements.lib.column_types import ColumnConfig

from bench.board import article, bars
from bench.board.cost import Cost
from bench.board.rowfilters import extra_data
from bench.notation import percent, percent_interval, short_label
from bench.table import CLEAN, WORST_CASE, Group, Row

TALLEST_TABLE = 16  # rows shown before a table scrolls


def table(group: Group, rows: Sequence[Row], costs: Mapping[str, Cost]) -> pa.Table:
    """The rows in the order of their ranks, rates in percent."""
    ends = _axis(rows)
    worst = [row.rates[WORST_CASE] for row in rows]
    columns: dict[str, list[object]] = {
        "rank": [row.rank for row in rows],  # empty where a flag keeps the row out
        "range": [row.range_text for row in rows],
        "model": [row.card.name for row in rows],
        "AWP": [row.texts["AWP"] for row in rows],
        WORST_CASE: [100 * rate.estimate for rate in worst],
        "bar": [
            bars.bar(rate, ends, perturbed=row.card.uses_awp)
            for row, rate in zip(rows, worst, strict=True)
        ],
        "interval": [percent_interval(rate, group.n) for rate in worst],
    }
    for measure in group.labels:
        columns[measure] = [100 * row.rates[measure].estimate for row in rows]
    columns["best_known"] = [100 * row.best_known_rate.estimate for row in rows]
    columns["flags"] = [row.unranked or row.texts["flags"] for row in rows]
    for heading in ("method", "arch"):
        columns[heading] = [row.texts[heading] for row in rows]
    columns["extra data"] = [extra_data(row) for row in rows]
    columns["epoch kept"] = [row.texts["epoch kept"] for row in rows]
    columns["seed"] = [row.card.seed for row in rows]
    for heading in ("engine", "precision"):
        columns[heading] = [row.texts[heading] for row in rows]
    columns["passes"] = [costs[row.record.id].passes_an_image for row in rows]
    columns["seconds"] = [costs[row.record.id].seconds for row in rows]
    columns["n"] = [row.record.n for row in rows]
    columns["date"] = [row.texts["date"] for row in rows]
    return pa.table(columns)


def _axis(rows: Sequence[Row]) -> tuple[float, float]:
    return bars.axis(row.rates[WORST_CASE] for row in rows)


def columns(group: Group, rows: Sequence[Row]) -> Mapping[str, ColumnConfig]:
    """How each column is headed, formatted and explained."""
    rate = "%.1f" if group.n <= 1000 else "%.2f"
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "rank": number("rank", width=46),
        "range": text("range", width=56, help="places left open: rows not separated by the tests"),
        "model": text("model", width=225),
        "AWP": text("AWP", width=66, help="weights perturbed while training"),
        WORST_CASE: number("worst case", format=rate, width=84, help="the rank key: all columns"),
        "bar": st.column_config.ImageColumn(
            bars.heading(_axis(rows)),
            width=145,
            help="worst case, 95 %; diamond: AWP, circle: without, square: not known",
        ),
        "interval": text("95 % interval", width=104),
        **{
            measure: number(short_label(label), format=rate, width=rate_width(label))
            for measure, label in group.labels.items()
        },
        "best_known": number(
            "best known",
            format=rate,
            width=92,
            help="standing under all records of these weights; effort differs, so never ranked",
        ),
        "flags": text("flags", width=130),
        "method": text("method", width=84),
        "arch": text("arch", width=110),
        "extra data": text("extra data", width=82),
        "epoch kept": text("epoch kept", width=124),
        "seed": number("seed", width=52),
        "engine": text("engine", width=150),
        "precision": text("precision", width=84),
        "passes": number("passes", format="%,.0f", width=76, help="forward and backward, an image"),
        "seconds": number("seconds", format="%,.0f", width=76, help="on the machine of the record"),
        "n": number("n", width=64),
        "date": text("date", width=96),
    }


def table_height(rows: int) -> int:
    """Pixels that show a whole table up to the tallest."""
    return 38 + 35 * min(rows, TALLEST_TABLE)


def rate_width(label: str) -> int:
    """Pixels that hold a rate and its heading."""
    return 68 if len(short_label(label)) < 8 else 86


def line(group: Group, row: Row) -> tuple[str, Markup, str, str]:
    """A row where a wide table does not fit."""
    places = (
        f"rank {row.range_text}; " if row.range_text and row.range_text != str(row.rank) else ""
    )
    clean = percent(row.rates[CLEAN].estimate, group.n)
    return (
        "" if row.rank is None else str(row.rank),
        article.link_to_model(group, row),
        percent(row.rates[WORST_CASE].estimate, group.n),
        f"{percent_interval(row.rates[WORST_CASE], group.n)}; {places}clean {clean}; "
        f"{row.texts['method']}{'; ' if row.unranked else ''}{row.unranked}",
    )
