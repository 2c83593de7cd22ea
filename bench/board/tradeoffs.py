"""What robustness costs: against clean accuracy, size, and the price of training and of measuring."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from bench.board import article, filters, records
from bench.board.article import paragraph, small
from bench.notation import percent, plain
from bench.published import AUTOATTACK, MARK
from bench.records.entry import passes_a_standing_image
from bench.stats.intervals import Interval
from bench.table import CLEAN, WORST_CASE, Group, Row
from bench.training_log import number

if TYPE_CHECKING:
    from bench.board.charts import Point

_AXIS = "against"  # the horizontal axis, in the address too
_CLEAN_AXIS = "clean accuracy, %"  # where more is better, and the only one of published numbers


def training_seconds(row: Row) -> float | None:
    """Seconds of the whole run, as its log beside the record says; None where there is none."""
    seconds = (number(line, "seconds") for line in records.log_of(row))
    return max((each for each in seconds if each is not None and each > 0), default=None)


AXES: dict[str, Callable[[Row], float | None]] = {
    _CLEAN_AXIS: lambda row: 100 * row.rates[CLEAN].estimate,
    "parameters": lambda row: row.card.n_parameters or None,
    "evaluation, passes an image": lambda row: row.record.passes / row.record.n,
    "evaluation, passes a standing image": lambda row: passes_a_standing_image(
        row.record.passes, row.record.worst_case_count
    ),
    "evaluation, seconds": lambda row: row.record.seconds,
    "training, seconds": training_seconds,
}


def show() -> None:
    """The page from top to bottom."""
    st.title("Trade-offs", anchor=False)
    paragraph(
        "Robust accuracy is bought with clean accuracy, parameters and compute. A model is on the "
        "front when no other model here is at least as good in both and better in one."
    )
    found = filters.places()
    if not found:
        article.no_records(records.leaderboard())
        return
    from bench.board.charts import Point  # plotly is loaded after the text is on the screen

    table = filters.choose(found, "bench/board/tradeoffs.py")
    group = table.group
    axes = [*AXES] if group is not None else [_CLEAN_AXIS]
    label = "Robust accuracy against"
    axis = st.selectbox(label, axes, key=_AXIS, bind="query-params", width=320)
    axis = axis if axis in axes else _CLEAN_AXIS
    # A row that a flag puts into doubt would spoil the front.
    ours = [
        Point(x, row.rates[WORST_CASE], row.card.name, row.card.uses_awp, place)
        for place, row in enumerate(group.rows if group is not None else ())
        if row.rank is not None and (x := AXES[axis](row)) is not None
    ]
    # Published AutoAttack numbers alone: those of weaker attacks do not stand beside them.
    theirs = [
        Point(
            float(row.clean),
            Interval(*3 * [float(row.standing) / 100]),
            plain(row.name, 80),
            row.awp,
            -1,
            row.awp_likely,
        )
        for row in table.place.published
        if row.clean is not None and row.attack == AUTOATTACK and not row.unreliable
    ]
    label = f"Show {len(theirs):,} published AutoAttack numbers ({MARK})"
    beside = filters.show_published(len(theirs) if axis == _CLEAN_AXIS else 0, label)
    more = {filters.PUBLISHED: [str(beside).lower()], _AXIS: [axis]}
    filters.note_what_is_missed(table, more)
    if group is not None and group.demo:
        paragraph(article.DEMO)
    if not ours and not beside:
        st.info("No model of this table has both numbers, so there is nothing to draw.")
        return
    show_chart(group, ours, theirs if beside else [], axis)
    if group is not None and ours:
        show_front(group, ours, axis)


def show_chart(group: Group | None, ours: list[Point], theirs: list[Point], axis: str) -> None:
    """The points with their fronts; clicking one of ours opens its model."""
    from bench.board.charts import trade_off

    event = st.plotly_chart(
        trade_off(ours, theirs, axis, more_is_better=axis == _CLEAN_AXIS),
        config=article.CHART,
        on_select="rerun",
        selection_mode="points",
        key=f"trade-off {axis} {group.key if group else ''}",
        alt=f"Robust accuracy against {axis}, with the Pareto front",
    )
    chosen = [point.get("customdata") for point in event.selection.points]
    if group is not None and chosen and isinstance(chosen[0], int | list):
        place = chosen[0][0] if isinstance(chosen[0], list) else chosen[0]
        if 0 <= place < len(group.rows):
            address = article.model_address(group, group.rows[place])
            st.switch_page(article.MODEL_PAGE, query_params=address)
    seconds = "Seconds are those of the machines that ran it. " if "second" in axis else ""
    pale = f"Small and pale: {MARK}; their front is dashed." if theirs else ""
    article.caption("trade-off", seconds, pale)


def show_front(group: Group, ours: list[Point], axis: str) -> None:
    """The models on the front as links: what a keyboard can reach, and a phone can read."""
    from bench.board.charts import front

    st.header("On the front", anchor=False)
    article.rows(
        [
            (
                "",
                article.link_to_model(group, group.rows[point.place]),
                percent(point.robust.estimate, group.n),
                f"{axis}: {point.x:,.4g}; rank {group.rows[point.place].range_text}",
            )
            for point in front(ours, more_is_better=axis == _CLEAN_AXIS)
        ],
        "on the chart.",
    )
    table = article.link_to_table(group, "see the table")
    small(
        "Points of the front whose intervals overlap those of others are not separated: "
        + table
        + "."
    )  # fmt: skip


show()
