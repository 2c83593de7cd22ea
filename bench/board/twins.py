"""AWP beside its vanilla twin: what a method did over seeds, and every pair on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup
from streamlit.elements.lib.column_types import ColumnConfig

from bench.board import article, curves, gaps, ranking, records
from bench.board.article import paragraph, small
from bench.notation import p_value_text, points, short_label
from bench.stats.contrasts import Method, Pair
from bench.stats.intervals import Interval
from bench.stats.verdicts import Verdict
from bench.table import WORST_CASE, Group


def show_method(method: Method, verdict: Verdict) -> None:
    """Attack by attack, seed by seed, the gap and the training curves of one method."""
    from bench.board import charts, forests  # plotly is loaded after the text is on the screen

    st.plotly_chart(
        forests.by_attack(method, verdict),
        config=charts.CONFIG,
        alt=f"{method.name} minus {method.baseline} under every attack, with intervals over seeds",
    )
    small(
        "Marks and lines: mean over seeds with Student's t interval, 95 %. Ticks: the seeds. The "
        "colour is the verdict on the worst case; the other lines have none and only describe."
    )
    st.plotly_chart(
        charts.paired_differences(method, verdict),
        config=charts.CONFIG,
        alt=f"Worst case per seed, {method.baseline} and {method.name}, with paired differences",
    )
    small(
        "Worst case seed by seed; squares and lines: the pair's difference with Tango's interval."
    )
    gaps.show_method(method)
    show_training(method)


def show_training(method: Method) -> None:
    """Robust accuracy and loss over training with and without AWP on one plot, where logs are here."""
    from bench.board import charts

    logs = [(records.log_of(pair.vanilla), records.log_of(pair.awp)) for pair in method.pairs]
    logged = [(vanilla, awp) for vanilla, awp in logs if vanilla and awp]
    if not logged:
        return
    runs = {
        method.baseline: [vanilla for vanilla, _ in logged],
        method.name: [awp for _, awp in logged],
    }
    figure = charts.training_curves(runs)
    if figure is None:
        return
    st.subheader("Training curves", anchor=False)
    st.plotly_chart(
        figure,
        config=charts.CONFIG,
        alt=f"Robust accuracy and loss over training, {method.baseline} and {method.name}",
    )
    small(curves.caption(runs))


def show_pairs(group: Group, found: Sequence[Pair]) -> None:
    """Every pair, as a table or, on a phone, as a list."""
    paragraph("AWP minus its vanilla twin on the same images, in percentage points.")
    with st.container(key="narrow-pairs"):
        article.rows([_pair_line(group, pair) for pair in found], "in LEADERBOARD.md.")
    show_pairs_table(group, found)


def show_pairs_table(group: Group, found: Sequence[Pair], key: str = "") -> None:
    """Differences of pairs on the same images, in percentage points."""
    with st.container(key=f"wide-pairs{key}"):
        st.dataframe(
            _pairs_table(group, found),
            column_config=_pair_columns(group),
            hide_index=True,
            height=ranking.table_height(len(found)),
            alt="Differences of every pair, AWP minus vanilla",
        )
    small("Intervals: Tango's for paired proportions, 95 %. p: exact McNemar, two-sided.")


def _ends(difference: Interval) -> str:
    return f"[{points(difference.low)}, {points(difference.high)}]"


def _pair_line(group: Group, pair: Pair) -> tuple[str, Markup, str, str]:
    worst = pair.comparisons[WORST_CASE]
    remark = f"; {pair.remark}" if pair.remark else ""
    about = f"{_ends(worst.difference)}, p {p_value_text(worst.p_value)}"
    about += f"; twin {pair.vanilla.card.name}{remark}"
    return "", article.link_to_model(group, pair.awp), points(worst.difference.estimate), about


def _pairs_table(group: Group, found: Sequence[Pair]) -> pa.Table:
    worst = [pair.comparisons[WORST_CASE] for pair in found]
    columns: dict[str, list[object]] = {
        "model": [pair.awp.card.name for pair in found],
        "twin": [pair.vanilla.card.name for pair in found],
        "seed": [pair.awp.card.seed for pair in found],
        WORST_CASE: [100 * c.difference.estimate for c in worst],
        "interval": [_ends(c.difference) for c in worst],
        "p": [p_value_text(c.p_value) for c in worst],
    }
    for measure in group.labels:
        estimates = [pair.comparisons[measure].difference.estimate for pair in found]
        columns[measure] = [100 * estimate for estimate in estimates]
    columns["remark"] = [pair.remark for pair in found]
    return pa.table(columns)


def _pair_columns(group: Group) -> Mapping[str, ColumnConfig]:
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "model": text("model", width=215),
        "twin": text("twin", width=190),
        "seed": number("seed", width=52),
        WORST_CASE: number("worst case", format="%+.1f", width=84),
        "interval": text("95 % interval", width=100),
        "p": text("p", width=68),
        **{
            measure: number(short_label(label), format="%+.1f", width=ranking.rate_width(label))
            for measure, label in group.labels.items()
        },
    }
