"""Which rows of a table are listed: by architecture, method, AWP and extra data, in the address.

A filter hides rows. It never changes a rank or a rank range: those belong to the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from bench.notation import plain
from bench.published import NOT_STATED, PublishedRow
from bench.records.card_text import awp_text
from bench.table import Row

LABELS = {"arch": "Architecture", "method": "Method", "awp": "AWP", "extra": "Extra data"}
Facts = Mapping[str, str]  # filter -> what a row has there


def facts_of(row: Row) -> Facts:
    """What the filters see of a row that is measured here."""
    card, texts = row.card, row.texts
    awp = awp_text(card)
    return {
        "arch": texts["arch"],
        "method": card.method if card.objective is not None else NOT_STATED,
        "awp": NOT_STATED if awp == "unknown" else awp,
        "extra": extra_data(row),
    }


def extra_data(row: Row) -> str:
    """Whether a model saw images besides its data set: yes, no or not stated."""
    card = row.card
    if card.extra_data or (card.train is not None and card.train.extra is not None):
        return "yes"
    return NOT_STATED if card.objective is None or not card.states("extra_data") else "no"


def facts_of_published(row: PublishedRow) -> Facts:
    """What the filters see of a published row."""
    return {
        "arch": plain(row.architecture, 60) or NOT_STATED,
        "method": plain(row.method, 60) or NOT_STATED,
        "awp": _said(row.awp),
        "extra": _said(row.extra_data),
    }


def _said(value: bool | None) -> str:
    return NOT_STATED if value is None else "yes" if value else "no"


def choose(rows: Sequence[Facts]) -> dict[str, list[str]]:
    """Filter -> the values that are listed; an empty list hides nothing."""
    chosen: dict[str, list[str]] = {}
    active = any(st.query_params.get_all(name) for name in LABELS)
    with (
        st.expander("Filter rows", expanded=active),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        for name, label in LABELS.items():
            options = sorted({facts[name] for facts in rows})
            chosen[name] = st.multiselect(
                label, options, key=name, bind="query-params", placeholder="all", width=250
            )
    return chosen


def listed(facts: Facts, chosen: Mapping[str, Sequence[str]]) -> bool:
    """Whether a row has one of the chosen values in every filter that is set."""
    return all(not values or facts[name] in values for name, values in chosen.items())
