"""Two models of one table on the same images: under every attack, by how much, how sure."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article, ranking
from bench.board.article import paragraph, small
from bench.notation import p_value_text, points, points_interval, short_label
from bench.stats.intervals import PairedComparison, compare_paired
from bench.table import WORST_CASE, Group, Row

FILTER = "versus"  # the other model, in the address too


def compare(a: Row, b: Row, measures: Sequence[str]) -> dict[str, PairedComparison]:
    """Measure -> A minus B on the images that both were measured on."""
    return {m: compare_paired(a.standing[m], b.standing[m]) for m in measures}


def show(group: Group, row: Row) -> None:
    """The chosen model beside any other of its table."""
    others = {other.card.name: other for other in group.rows if other is not row}
    if not others:
        return
    st.header("Compare with another model", anchor=False)
    asked = st.query_params.get(FILTER)
    name = st.selectbox(
        "Other model",
        list(others),
        index=None,
        key=FILTER,
        bind="query-params",
        placeholder="Choose a model of the same table",
        width=460,
    )
    if asked and asked not in others:
        st.info("The address compares with a model that is not in this table.")
    if name is None:
        return
    found = compare(row, others[name], group.measures)
    worst = found[WORST_CASE]
    paragraph(
        Markup("{} minus {}, worst case: {}, p {}: <strong>{}</strong>.").format(
            row.card.name,
            article.link_to_model(group, others[name]),
            points_interval(worst.difference),
            p_value_text(worst.p_value),
            "separated, as one comparison" if worst.p_value < 0.05 else "not separated",
        )
    )
    labels = {WORST_CASE: "worst case", **group.labels}
    with st.container(key="wide-versus"):
        st.dataframe(
            _table(found, labels),
            hide_index=True,
            height=ranking.table_height(len(found)),
            alt=f"{row.card.name} minus {name} under every attack",
        )
    with st.container(key="narrow-versus"):
        article.rows(
            [
                ("", short_label(labels[m]), points(c.difference.estimate), _about(c))
                for m, c in found.items()
            ],
            "on a wider screen.",
        )
    small(
        "Percentage points. Intervals: Tango's for paired proportions, 95 %; p: exact McNemar, "
        "two-sided, of this pair alone. The rank ranges of the leaderboard correct for all pairs."
    )


def _about(comparison: PairedComparison) -> str:
    ends = comparison.difference
    return (
        f"[{points(ends.low)}, {points(ends.high)}], p {p_value_text(comparison.p_value)}; only the "
        f"first stands on {comparison.only_a:,}, only the second on {comparison.only_b:,}"
    )


def _table(found: dict[str, PairedComparison], labels: dict[str, str]) -> pa.Table:
    compared = list(found.values())
    return pa.table(
        {
            "measure": [short_label(labels[measure]) for measure in found],
            "difference": [points(c.difference.estimate) for c in compared],
            "95 % interval": [
                f"[{points(c.difference.low)}, {points(c.difference.high)}]" for c in compared
            ],
            "p": [p_value_text(c.p_value) for c in compared],
            "both stand": [c.both for c in compared],
            "only this": [c.only_a for c in compared],
            "only the other": [c.only_b for c in compared],
            "neither": [c.neither for c in compared],
        }
    )
