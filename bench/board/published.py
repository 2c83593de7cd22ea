"""Published numbers beside ours: a table of their own, one attack at a time, never ranked with ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup
from streamlit.elements.lib.column_types import ColumnConfig

from bench.board import article, bars, rowfilters
from bench.board.article import paragraph, small
from bench.notation import harmless, plain, web_address
from bench.published import MARK, PublishedRow

FILTER = "attack"  # also its name in the address
TALLEST_TABLE = 16  # rows shown before a table scrolls


def show(rows: Sequence[PublishedRow], chosen: Mapping[str, Sequence[str]]) -> None:
    """The published rows of one data set and threat that the filters leave, under one attack."""
    st.header(MARK.capitalize(), anchor=False)
    attacks = list(dict.fromkeys(row.attack for row in rows))
    attack = st.selectbox("Attack", attacks, key=FILTER, bind="query-params", width=320)
    under = [row for row in rows if row.attack == attack]
    listed = [row for row in under if rowfilters.listed(rowfilters.facts_of_published(row), chosen)]
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
    ends = bars.axis(row.interval for row in listed if row.interval is not None)
    with st.container(key="narrow-published"):
        article.rows([_line(row) for row in listed], "on a wider screen.")
    with st.container(key="wide-published"):
        st.dataframe(
            _table(listed, ends),
            column_config=_columns(attack, ends),
            hide_index=True,
            height=38 + 35 * min(len(listed), TALLEST_TABLE),
            alt=f"Published rows under {plain(attack, 60)}: {MARK}",
        )
    small(_overlaps(listed))


def _overlaps(rows: Sequence[PublishedRow]) -> str:
    """How little the order says, in a sentence."""
    intervals = [row.interval for row in rows]
    neighbours = [(a, b) for a, b in zip(intervals, intervals[1:], strict=False) if a and b]
    together = sum(a.low <= b.high and b.low <= a.high for a, b in neighbours)
    return (
        f"Of {len(neighbours):,} neighbouring pairs with an interval, those of {together:,} overlap. "
        "Intervals are Wilson's, 95 %, computed here where the number of images is known. Sources give "
        "no outcome for each image, so no paired test can separate these rows."
    )


def _line(row: PublishedRow) -> tuple[str, Markup, str, str]:
    texts = row.texts
    said = (f"clean {texts['clean']}" if texts["clean"] else "", texts["95 % (computed here)"])
    about = "; ".join(filter(None, (*said, texts["arch"], texts["checkpoint"], "published")))
    return "", _name(row), texts["robust"], about


def _name(row: PublishedRow) -> Markup:
    name = plain(row.name, 100)
    address = web_address(row.link)
    if address is None:
        return Markup("{}").format(name)
    form = '<a href="{}" rel="nofollow noopener noreferrer" target="_blank">{}</a>'
    return Markup(form).format(address, name)


def _table(rows: Sequence[PublishedRow], ends: tuple[float, float]) -> pa.Table:
    texts = [row.texts for row in rows]

    def column(heading: str) -> list[str]:
        return [harmless(text[heading]) for text in texts]

    return pa.table(
        {
            "model": column("model"),
            "AWP": column("AWP"),
            "clean": [None if row.clean is None else float(row.clean) for row in rows],
            "robust": [float(row.robust) for row in rows],
            "bar": [
                None if row.interval is None else bars.bar(row.interval, ends, perturbed=row.awp)
                for row in rows
            ],
            "interval": column("95 % (computed here)"),
            "best_known": [float(row.standing) for row in rows],
            "arch": column("arch"),
            "extra data": column("extra data"),
            "method": [harmless(plain(row.method, 60)) for row in rows],
            "checkpoint": column("checkpoint"),
            "n": column("n"),
            "venue": [harmless(plain(row.venue, 60)) for row in rows],
            "paper": [web_address(row.link) for row in rows],
            "remark": column("remark"),
            "source": column("source"),
            "status": [MARK] * len(rows),
        }
    )


def _columns(attack: str, ends: tuple[float, float]) -> dict[str, ColumnConfig]:
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "model": text("model", width=300),
        "AWP": text("AWP", width=78),
        "clean": number("clean", format="%.2f", width=68),
        "robust": number(plain(attack, 40), format="%.2f", width=94, help=f"as published: {MARK}"),
        "bar": st.column_config.ImageColumn(bars.heading(ends), width=145),
        "interval": text("95 % interval", width=112, help="computed here"),
        "best_known": number(
            "best known",
            format="%.2f",
            width=92,
            help="the lowest known: others may have found less",
        ),
        "arch": text("arch", width=170),
        "paper": st.column_config.LinkColumn("paper", display_text="open", width=64),
        "source": text("source", width=330),
    }
