"""What a model withstood: every column, every attack within it, every class, every radius."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from bench import catalogue
from bench.board import ranking
from bench.board.article import small
from bench.notation import percent, percent_interval, plain, short_label
from bench.schema import EvaluationRecord
from bench.table import Group, Row

_COLUMN = "column"  # whose answers are shown, in the address too


def show_attacks(group: Group, row: Row, record: EvaluationRecord) -> None:
    """Accuracy under every column, and what stood after each attack within it."""
    from bench.board import charts

    st.header("Under attack", anchor=False)
    st.plotly_chart(
        charts.standing_under_attack(row, group.labels),
        config=charts.CONFIG,
        alt="Accuracy, clean and under every column, with 95 % intervals",
    )
    small(
        "Share of all images standing, with Wilson's 95 % interval. Every column starts "
        "from all images that are classified correctly; its attacks run one after another."
    )
    if row.record_count > 1:
        best = row.best_known_rate
        small(
            f"Best known, standing under all {row.record_count} records of these weights: "
            f"{percent(best.estimate, group.n)} % ({percent_interval(best, group.n)})."
        )
    if row.seed_range is not None:
        small(f"Over attack seeds, another source of spread than the images: {row.seed_range}.")
    with st.expander("After each attack"):
        table = attack_table(group, record)
        st.dataframe(
            table,
            hide_index=True,
            height=ranking.table_height(len(table)),
            alt="Images standing after each attack",
        )


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


def show_curve(record: EvaluationRecord) -> None:
    """Standing against the radius, where a column measured distances."""
    from bench.board import charts, security

    found = security.distances(record)
    if found is None:
        return
    st.header("Security curve", anchor=False)
    st.plotly_chart(
        security.figure(record, found),
        config=charts.CONFIG,
        alt="Share of images standing at every radius, at most",
    )
    small(
        "An upper bound at every radius: an image falls at the smallest distance at which it was seen "
        "misclassified, and a better attack may find nearer points. Band: Wilson, 95 %."
    )


def show_classes(group: Group, record: EvaluationRecord) -> str:
    """Which classes fall first, and what they are taken for; returns the column chosen."""
    column = choose_column(group)
    if record.card.class_count > 20:
        return column  # a hundred intervals of ten images each say nothing
    from bench.board import charts, confusions

    info = catalogue.DATASETS.get(group.dataset)
    names = info.classes if info is not None else ()
    st.plotly_chart(
        charts.robust_by_class(record, names),
        config=charts.CONFIG,
        alt="Clean and worst-case accuracy of each class, with 95 % intervals",
    )
    each = group.n // record.card.class_count
    small(f"About {each:,} images a class, so the intervals are wide.")
    st.plotly_chart(
        confusions.figure(record, column, names),
        width=680,
        config=charts.CONFIG,
        alt="Labels against answers under attack, as counts of images",
    )
    small(
        f"Answers under {plain(group.labels[column], 60)}: that of the verified adversarial image "
        "where one was found, else that of the clean image."
    )
    return column


def choose_column(group: Group) -> str:
    """The column whose answers and adversarial images are shown; the strongest named last."""
    st.header("By class", anchor=False)
    names = [column.name for column in group.columns][::-1]
    asked = st.query_params.get(_COLUMN)
    column = st.selectbox(
        "Answers under",
        names,
        key=_COLUMN,
        bind="query-params",
        format_func=lambda name: short_label(group.labels.get(str(name), str(name))),
        width=220,
    )
    if asked and asked not in [*names, *(short_label(group.labels[name]) for name in names)]:
        st.info("The address asks for a column that this table does not have.")
    return column if column in names else names[0]
