"""Numbers that others published: the tab of its own on the landing page, never ranked with ours."""

from __future__ import annotations

from itertools import pairwise

import streamlit as st
from markupsafe import Markup

from bench.board import article, filters, tables
from bench.board.article import paragraph, small
from bench.board.filters import Chosen
from bench.notation import plain
from bench.published import MARK, likely_note

_ATTACK = "attack"  # in the address too


def show(table: Chosen) -> None:
    """The published rows of a place that the filters leave, under one attack."""
    rows = table.place.published
    chosen = filters.choose_rows([filters.facts_of_published(row) for row in rows])
    attacks = list(dict.fromkeys(row.attack for row in rows))
    filters.note_what_is_missed(table, {**chosen, _ATTACK: attacks})
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
