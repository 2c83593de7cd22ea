"""What a model withstood: every column, every attack within it, every class, every radius."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from bench.board import article, filters
from bench.board.article import small
from bench.notation import percent, percent_interval, plain, short_label
from bench.schema import EvaluationRecord
from bench.table import Group, Row

_MOST_CLASSES = 20  # a hundred intervals of ten images each say nothing


def show(group: Group, row: Row, record: EvaluationRecord) -> None:
    """Accuracy under every column, what stood after each attack within it, and at every radius."""
    from bench.board import charts

    st.header("Under attack", anchor=False)
    article.chart(charts.standing_under_attack(row, group.labels), "attacks")
    if row.record_count > 1:
        best = row.best_known_rate
        small(
            f"Best known, standing under all {row.record_count} records of these weights: "
            f"{percent(best.estimate, group.n)} % ({percent_interval(best, group.n)})."
        )
    if row.seed_range is not None:
        small(f"Over attack seeds, another source of spread than the images: {row.seed_range}.")
    with st.expander("After each attack"):
        article.table(attack_table(group, record), "after each attack")
    curve = charts.security_curve(record)
    if curve is not None:
        st.header("Security curve", anchor=False)
        article.chart(curve, "security curve")


def attack_table(group: Group, record: EvaluationRecord) -> pa.Table:
    """A row an attack, in the order in which they ran."""
    steps = [
        (group.labels[column.name], outcome)
        for column in group.columns  # a record's own are in the order of their names
        for outcome in record.columns[column.name].outcomes
    ]
    return pa.table(
        {
            "column": [label for label, _ in steps],
            "attack": [plain(o.spec.name) for _, o in steps],
            "attacked": [o.attacked for _, o in steps],
            "broken": [o.broken for _, o in steps],
            "standing, %": [percent((o.attacked - o.broken) / group.n, group.n) for _, o in steps],
            "largest perturbation": [f"{o.largest_perturbation:.5f}" for _, o in steps],
            "forward passes": [o.forward_passes for _, o in steps],
            "backward passes": [o.backward_passes for _, o in steps],
            "seconds": [round(o.seconds, 1) for _, o in steps],
            "parameters": [plain(o.spec, 300) for _, o in steps],
        }
    )


def show_classes(group: Group, record: EvaluationRecord) -> str:
    """Which classes fall first, and what they are taken for; returns the column chosen."""
    from bench.board import charts

    st.header("By class", anchor=False)
    names = [column.name for column in group.columns][::-1]  # the strongest is named last
    missed = "The address asks for a column that this table does not have."
    said = {name: short_label(group.labels[name]) for name in names}
    chosen = filters.choice(
        "Answers under", names, "column", missed, said=said.__getitem__, width=220
    )
    column = chosen if chosen in names else names[0]
    classes = record.card.class_count
    if classes <= _MOST_CLASSES:
        article.chart(charts.robust_by_class(record), "classes", group.n // classes)
        confusion, attack = charts.confusion_map(record, column), plain(group.labels[column], 60)
        article.chart(confusion, "confusion", attack, width=680)
    return column
