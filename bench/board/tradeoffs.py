"""What robustness costs: against clean accuracy, size, and the price of training and of measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st
from markupsafe import Markup

from bench.board import article, choosing, records
from bench.board.article import paragraph, small
from bench.board.pareto import Point, front
from bench.notation import percent, plain
from bench.published import AUTOATTACK, MARK, PublishedRow
from bench.table import CLEAN, WORST_CASE, Group, Row

_BESIDE = "published"  # the toggle, in the address too
_AXIS = "against"  # the horizontal axis, in the address too
_MODEL_PAGE = "bench/board/model.py"


def show() -> None:
    """The page from top to bottom."""
    st.title("Trade-offs", anchor=False)
    paragraph(
        "Robust accuracy is bought with clean accuracy, parameters and compute. A model is on the "
        "front when no other model here is at least as good in both and better in one."
    )
    found = records.places()
    if not found:
        article.no_records(records.leaderboard())
        return
    asked = choosing.asked_on_arrival("trade-offs", (*choosing.TABLE_FILTERS, _BESIDE, _AXIS))
    place, group = choosing.choose(found, "bench/board/tradeoffs.py")
    axes = _axes(group)
    label = "Robust accuracy against"
    axis = st.selectbox(label, list(axes), key=_AXIS, bind="query-params", width=320)
    axis = axis if axis in axes else CLEAN_AXIS
    beside = _beside(place.published) if axis == CLEAN_AXIS else False
    shown = choosing.shown_values(place, group) | {_BESIDE: [str(beside).lower()], _AXIS: [axis]}
    choosing.note_what_is_missed(asked, shown)
    if group is not None and group.demo:
        paragraph(article.DEMO)
    ours = axes[axis](group) if group is not None else []
    theirs = _published_points(place.published) if beside else []
    if not ours and not theirs:
        st.info("No model of this table has both numbers, so there is nothing to draw.")
        return
    show_chart(group, ours, theirs, axis)


CLEAN_AXIS = "clean accuracy, %"


def _axes(group: Group | None) -> Mapping[str, Callable[[Group], list[Point]]]:
    """Axis -> the points of a table; without a table, what published rows have too."""
    axes: dict[str, Callable[[Group], list[Point]]] = {
        CLEAN_AXIS: lambda g: _points(g, lambda row: 100 * row.rates[CLEAN].estimate)
    }
    if group is not None:
        axes["parameters"] = lambda g: _points(g, lambda row: row.card.n_parameters or None)
        axes["evaluation, passes an image"] = lambda g: _points(
            g, lambda row: records.costs(g)[row.record.id].passes_an_image
        )
        axes["evaluation, seconds"] = lambda g: _points(
            g, lambda row: records.costs(g)[row.record.id].seconds
        )
        axes["training, seconds"] = lambda g: _points(g, _training_seconds)
    return axes


def _training_seconds(row: Row) -> float | None:
    """Seconds of the whole run, as its log beside the record says; None where there is none."""
    seconds = [line.get("seconds") for line in records.log_of(row)]
    known = [s for s in seconds if isinstance(s, int | float) and not isinstance(s, bool) and s > 0]
    return float(max(known)) if known else None


def _points(group: Group, of: Callable[[Row], float | None]) -> list[Point]:
    """The ranked rows of a table; one that a flag puts into doubt would spoil the front."""
    points = []
    for place, row in enumerate(group.rows):
        x, rate = of(row), row.rates[WORST_CASE]
        if x is not None and row.rank is not None:
            points.append(
                Point(
                    x, 100 * rate.estimate, row.card.name, row.card.uses_awp, place,
                    (100 * rate.low, 100 * rate.high),
                )
            )  # fmt: skip
    return points


def _published_points(rows: Sequence[PublishedRow]) -> list[Point]:
    """Published AutoAttack numbers alone: those of weaker attacks do not stand beside them."""
    return [
        Point(float(row.clean), float(row.standing), plain(row.name, 80), row.awp, -1, None)
        for row in rows
        if row.clean is not None and row.attack == AUTOATTACK and not row.unreliable
    ]


def _beside(rows: Sequence[PublishedRow]) -> bool:
    count = len(_published_points(rows))
    if not count:
        return False
    label = f"Show {count:,} published AutoAttack numbers ({MARK})"
    return st.toggle(label, value=True, key=_BESIDE, bind="query-params")


def show_chart(
    group: Group | None, ours: Sequence[Point], theirs: Sequence[Point], axis: str
) -> None:
    """The points with their fronts; clicking one of ours opens its model."""
    from bench.board import charts, pareto  # plotly is loaded after the text is on the screen

    more_is_better = axis == CLEAN_AXIS
    event = st.plotly_chart(
        pareto.figure(ours, theirs, axis, more_is_better=more_is_better),
        config=charts.CONFIG,
        on_select="rerun",
        selection_mode="points",
        key=f"trade-off {axis} {group.key if group else ''}",
        alt=f"Robust accuracy against {axis}, with the Pareto front",
    )
    chosen = [point.get("customdata") for point in event.selection.points]
    if group is not None and chosen and isinstance(chosen[0], int | list):
        place = chosen[0][0] if isinstance(chosen[0], list) else chosen[0]
        if 0 <= place < len(group.rows):
            measurement = article.measurement_label(group)
            name = group.rows[place].card.name
            st.switch_page(_MODEL_PAGE, query_params={"name": name, "measurement": measurement})
    small(
        "Filled diamond: with AWP; open circle: without; square: not stated. Bars: Wilson, 95 %. "
        "Select a point of ours to open its model. "
        + ("" if "second" not in axis else "Seconds are those of the machines that ran it. ")
        + (f"Small and pale: {MARK}; their front is dashed." if theirs else "")
    )
    if ours:
        show_front(group, ours, axis, more_is_better=more_is_better)


def show_front(
    group: Group | None, ours: Sequence[Point], axis: str, *, more_is_better: bool
) -> None:
    """The models on the front as links: what a keyboard can reach, and a phone can read."""
    assert group is not None
    st.header("On the front", anchor=False)
    article.rows(
        [
            (
                "",
                article.link_to_model(group, group.rows[point.place]),
                percent(point.y / 100, group.n),
                f"{axis}: {point.x:,.4g}; rank {group.rows[point.place].range_text}",
            )
            for point in front(ours, more_is_better=more_is_better)
        ],
        "on the chart.",
    )
    small(
        Markup(
            "Points of the front whose intervals overlap those of others are not separated: {}."
        ).format(article.link_to_table(group, "see the table"))
    )


show()
