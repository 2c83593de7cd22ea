"""What robustness costs: against clean accuracy, size, and the price of training and of measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup

from bench.board import article, filters, records
from bench.board.article import paragraph, small
from bench.board.points import CLEAN_AXIS, LIKELY, Joined, Point, front, of_methods
from bench.notation import percent, plain
from bench.published import AUTOATTACK, MARK, PublishedRow
from bench.records.entry import passes_a_standing_image
from bench.stats.intervals import Interval
from bench.stats.method_rows import MethodRow
from bench.stats.versus import network
from bench.table import CLEAN, Group, Row
from bench.training_log import number

_AXIS = "against"  # the horizontal axis, in the address too
_EVERY = "networks"  # whether every network is a point, in the address too


def training_seconds(row: Row) -> float | None:
    """Seconds of the whole run, as its log beside the record says; None where there is none."""
    seconds = (number(line, "seconds") for line in records.log_of(row))
    return max((each for each in seconds if each is not None and each > 0), default=None)


AXES: dict[str, Callable[[Row], float | None]] = {
    CLEAN_AXIS: lambda row: 100 * row.rates[CLEAN].estimate,
    "parameters": lambda row: row.card.n_parameters or None,
    "evaluation, passes an image": lambda row: row.record.passes / row.record.n or None,
    "evaluation, passes a standing image": lambda row: passes_a_standing_image(
        row.record.passes, row.record.worst_case_count
    ),
    "evaluation, seconds": lambda row: row.record.seconds or None,
    "training, seconds": training_seconds,
}


def show() -> None:
    """The page from top to bottom."""
    st.title("Trade-offs", anchor=False)
    paragraph(
        "What robust accuracy costs. On the front: no other is as good in both and better in one."
    )
    found = filters.places()
    if not found:
        article.no_records(records.leaderboard())
        return
    table = filters.choose(found, "bench/board/tradeoffs.py")
    group = table.group
    axes = [*AXES] if group is not None else [CLEAN_AXIS]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = "Robust accuracy against"
        axis = st.selectbox(label, axes, key=_AXIS, bind="query-params", width=320)
        every = group is not None and st.toggle("Every network", key=_EVERY, bind="query-params")
    axis = axis if axis in axes else CLEAN_AXIS
    rows = [] if group is None else shown_rows(group, every=every)
    ours, joined = of_methods(rows, AXES[axis])
    theirs = published_points(table.place.published)
    label = f"Show {len(theirs):,} published AutoAttack numbers ({MARK})"
    beside = filters.show_published(len(theirs) if axis == CLEAN_AXIS else 0, label)
    said = {filters.PUBLISHED: [str(beside).lower()], _EVERY: [str(every).lower()]}
    filters.note_what_is_missed(table, said | {_AXIS: [axis]})
    if group is not None and group.demo:
        paragraph(article.DEMO)
    if not ours and not beside:
        st.info("No model of this table has both numbers, so there is nothing to draw.")
        return
    show_chart(rows, ours, theirs if beside else [], axis, joined)
    if ours:
        show_front(rows, ours, axis)


def shown_rows(group: Group, *, every: bool) -> list[MethodRow]:
    """Methods, or every network; a row that a flag puts into doubt would spoil the front."""
    if every:
        pairs = {id(pair.awp): pair for pair in records.pairs_of(group)}
        ranked = (row for row in group.rows if row.rank is not None)
        return [network(group, row, pairs.get(id(row))) for row in ranked]
    return [row for row in records.methods(group).rows if row.rank is not None]


def published_points(rows: Iterable[PublishedRow]) -> list[Point]:
    """AutoAttack numbers alone: those of weaker attacks do not stand beside them."""
    known = {True: "yes", False: "no", None: "unknown"}
    return [
        Point(
            float(row.clean),
            Interval(*3 * [float(row.standing) / 100]),
            plain(row.name, 80),
            LIKELY if row.awp_likely else known[row.awp],
            -1,
        )
        for row in rows
        if row.clean is not None and row.attack == AUTOATTACK and not row.unreliable
    ]


def show_chart(
    rows: Sequence[MethodRow],
    ours: list[Point],
    theirs: list[Point],
    axis: str,
    joined: Sequence[Joined],
) -> None:
    """The points with their fronts; clicking one of ours opens its model."""
    from bench.board.scatter import trade_off  # plotly is loaded after the text is on the screen

    clean = axis == CLEAN_AXIS
    event = st.plotly_chart(
        trade_off(ours, theirs, axis, more_is_better=clean, joined=joined),
        config=article.CHART,
        on_select="rerun",
        selection_mode="points",
        key=f"trade-off {axis} {len(rows)} {rows[0].group.key if rows else ''}",
        alt=f"Robust accuracy against {axis}, with the Pareto front",
    )
    chosen = [point.get("customdata") for point in event.selection.points]
    if chosen and isinstance(chosen[0], int | list):
        place = chosen[0][0] if isinstance(chosen[0], list) else chosen[0]
        if 0 <= place < len(rows):
            address = article.model_address(rows[place].group, rows[place].rows[0])
            st.switch_page(article.MODEL_PAGE, query_params=address)
    seconds = "Seconds are those of the machines that ran it. " if "second" in axis else ""
    small_ones = f"Small and open: {MARK}; their front is dashed." if theirs else ""
    article.caption("trade-off", seconds, small_ones)


def show_front(rows: Sequence[MethodRow], ours: list[Point], axis: str) -> None:
    """The rows on the front as links: what a keyboard can reach, and a phone can read."""
    st.header("On the front", anchor=False)
    group = rows[0].group

    def line(point: Point) -> article.Line:
        row = rows[point.place]
        asked = urlencode(article.model_address(group, row.rows[0]))
        name = Markup('<a href="model?{}" target="_self">{}</a>').format(asked, row.name)
        seeds = "one network" if row.alone else f"mean of {row.seeds} seeds"
        said = f"{axis}: {point.x:,.4g}; {seeds}; rank {row.range_text}"
        return "", name, percent(point.robust.estimate, group.n), said

    best = front(ours, more_is_better=axis == CLEAN_AXIS)
    article.rows([line(point) for point in best], "on the chart.")
    table = article.link_to_table(group, "the table")
    small(Markup("Whether the tests separate them stands in {}.").format(table))


show()
