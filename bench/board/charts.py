"""The charts of the board: every one repeats in shape what it says in colour, and shows intervals.

What a colour means stands in `bench.board.palette`. K classes, n images.
"""

from __future__ import annotations

import html
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from bench.board import palette
from bench.board.article import class_names
from bench.notation import percent, percent_interval, plain, points, points_interval, short_label
from bench.schema import EvaluationRecord
from bench.schema.packing import unpack_floats
from bench.stats.contrasts import Method
from bench.stats.curve import smallest_distances, standing_at
from bench.stats.intervals import Interval, wilson
from bench.stats.verdicts import Verdict
from bench.table import CLEAN, WORST_CASE, Row

# plotly looks into a pandas that another visitor's thread is still importing, and fails: wait for it.
importlib.import_module("pandas")

# Named lines from the top.
_LINES = {"autorange": "reversed", "showgrid": True, "ticks": "", "fixedrange": True}
_RADII = 81  # of a security curve, from 0 to twice that of the record
_COUNTED = 12  # classes up to which a confusion has room for its counts

Axis = Mapping[str, object]


def plain_layout(
    figure: go.Figure, height: int, *, x: Axis | None = None, y: Axis | None = None
) -> go.Figure:
    """What all charts have in common: no drag that a scroll could start, legend above."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 34, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        hovermode="closest",
        dragmode=False,
        bargap=0.35,
    )
    return figure.update_xaxes(zeroline=False, fixedrange=True, **(x or {})).update_yaxes(
        **(y or {})
    )


def whiskers(found: Sequence[Interval], colour: str, thickness: float = 2) -> dict[str, object]:
    """Both ends of intervals of rates, in percent, as plotly draws them; none of an unbounded one."""

    def ends(lengths: Iterable[float]) -> list[float]:
        return [100 * length if math.isfinite(length) else 0 for length in lengths]

    return {
        "type": "data",
        "symmetric": False,
        "array": ends(i.high - i.estimate for i in found),
        "arrayminus": ends(i.estimate - i.low for i in found),
        "color": colour,
        "thickness": thickness,
        "width": 0,
    }


def _mark(colour: str, symbol: str, size: int) -> dict[str, object]:
    line = {"width": 2, "color": colour}
    return {"color": colour, "symbol": symbol, "size": size, "line": line}


# ---------------------------------------------------------------- methods


def mark(verdict: Verdict | None) -> tuple[str, str]:
    """Colour and symbol of a verdict.

    Pointing to where the treated is; filled for a headline, open for an indication.
    """
    colour = palette.of_sign(verdict.sign if verdict is not None else 0)
    symbol = palette.SHAPES[colour]
    indicated = verdict is not None and verdict.sign and not verdict.headline
    return colour, f"{symbol}-open" if indicated else symbol


@dataclass(frozen=True)
class ForestLine:
    """One line of a forest plot."""

    label: str
    difference: Interval  # of rates
    verdict: Verdict | None = None  # None: it has none, and only describes
    remark: str = ""
    seeds: Mapping[str, float] | None = None  # the difference of each, as a tick


def forest(lines: Sequence[ForestLine], title: str) -> go.Figure:
    """Differences with their intervals on one axis, zero marked; filled where one is a headline."""
    figure = go.Figure()
    for line in lines:
        name = html.escape(plain(line.label, 80))
        if line.seeds is not None:
            figure.add_scatter(
                x=[100 * difference for difference in line.seeds.values()],
                y=[name] * len(line.seeds),
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 12, "color": palette.LINE},
                customdata=list(line.seeds),
                hovertemplate="%{x:+.1f} points<extra>seed %{customdata}</extra>",
                showlegend=False,
            )
        colour, symbol = mark(line.verdict)
        standing = line.verdict.standing if line.verdict else ""
        told = (points_interval(line.difference), plain(line.remark, 100), standing)
        figure.add_scatter(
            x=[100 * line.difference.estimate],
            y=[name],
            error_x=whiskers([line.difference], colour, 2.5),
            mode="markers+text",
            marker=_mark(colour, symbol, 11),
            text=points(line.difference.estimate),
            textposition="top center",
            cliponaxis=False,
            hovertemplate=html.escape(", ".join(filter(None, told))) + "<extra>%{y}</extra>",
            showlegend=False,
        )
    figure.add_vline(x=0, line={"color": palette.LINE, "width": 1.5, "dash": "dot"})
    y = {"type": "category", "automargin": True, **_LINES}
    return plain_layout(figure, 90 + 44 * len(lines), x={"title": title}, y=y)


def by_attack(method: Method, verdict: Verdict) -> go.Figure:
    """A line a measure, worst case first: the mean with its interval, every seed as a tick.

    The verdict is on the worst case; the other lines only describe.
    """
    lines = [
        ForestLine(
            short_label(label),
            method.differences[measure],
            verdict if measure == WORST_CASE else None,
            seeds={
                pair.awp.texts["seed"]: pair.comparisons[measure].difference.estimate
                for pair in method.pairs
            },
        )
        for measure, label in {WORST_CASE: "worst case", **method.group.labels}.items()
    ]
    return forest(lines, f"{method.name} minus {method.baseline}, points")


# ---------------------------------------------------------------- one model


def standing_under_attack(row: Row, labels: Mapping[str, str]) -> go.Figure:
    """Clean accuracy, every column and the worst case as dots with their Wilson intervals."""
    names = {measure: html.escape(short_label(label)) for measure, label in labels.items()}
    names[WORST_CASE] = "<b>worst case</b>"
    figure = go.Figure()
    for measure, name in names.items():
        rate = row.rates[measure]
        colour = palette.CLEAN if measure == CLEAN else palette.ATTACKED
        figure.add_scatter(
            x=[100 * rate.estimate],
            y=[name],
            error_x=whiskers([rate], colour),
            mode="markers+text",
            marker=_mark(colour, palette.SHAPES[colour], 10),
            text=percent(rate.estimate, row.record.n),
            textposition="top center",
            cliponaxis=False,
            hovertemplate=f"{percent_interval(rate, row.record.n)} %<extra>%{{y}}</extra>",
            showlegend=False,
        )
    x = {"range": [0, 101], "dtick": 20, "title": f"% of all {row.record.n:,} images"}
    return plain_layout(figure, 80 + 42 * len(names), x=x, y=_LINES).update_layout(margin_t=16)


def robust_by_class(record: EvaluationRecord) -> go.Figure:
    """Clean and worst-case accuracy of each class, with Wilson intervals."""
    names = class_names(record)
    classes, sizes = np.unique(record.label_array, return_counts=True)
    figure = go.Figure()
    for name, bits, colour in (
        ("clean", record.clean_correct, palette.CLEAN),
        ("worst case", record.worst_case_standing, palette.ATTACKED),
    ):
        counts = [int(bits[record.label_array == k].sum()) for k in classes]
        rates = [wilson(right, int(n)) for right, n in zip(counts, sizes, strict=True)]
        figure.add_scatter(
            x=[html.escape(names[k]) for k in classes],
            y=[100 * rate.estimate for rate in rates],
            error_y=whiskers(rates, colour, 1.5),
            mode="markers",
            name=name,
            marker=_mark(colour, palette.SHAPES[colour], 10),
            cliponaxis=False,
            customdata=[f"{right} of {n}" for right, n in zip(counts, sizes, strict=True)],
            hovertemplate="%{y:.1f} % (%{customdata})<extra>" + name + ", %{x}</extra>",
        )
    y = {"range": [0, 103], "dtick": 20, "title": "%", "fixedrange": True}
    return plain_layout(figure, 320, x={"type": "category", "showgrid": False}, y=y)


def confusion(record: EvaluationRecord, column: str) -> np.ndarray:
    """(K, K) int64 counts: row the label, column the answer in the end.

    That of the adversarial image where an image is broken, else that of the clean image.
    """
    broken = record.adversarial_predictions(column)
    answered = np.where(broken >= 0, broken, record.clean_prediction_array)
    counts = np.zeros((record.card.class_count,) * 2, dtype=np.int64)
    np.add.at(counts, (record.label_array, answered), 1)
    return counts


def confusion_map(record: EvaluationRecord, column: str) -> go.Figure:
    """The confusion as a heat map: share of a label's images, counts in the cells."""
    counts = confusion(record, column)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ticks = [html.escape(plain(name, 16)) for name in class_names(record)]
    counted = np.where((counts > 0) & (len(ticks) <= _COUNTED), counts.astype(str), "")
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=ticks,
            y=ticks,
            customdata=counts,
            text=counted,  # white on dark cells, and the other way round
            texttemplate="%{text}",
            colorscale=[[k, palette.shade(palette.ATTACKED, o)] for k, o in ((0, 0.04), (1, 0.95))],
            zmin=0,
            zmax=100,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{y} taken for %{x}: %{customdata} images, %{z:.0f} %<extra></extra>",
        )
    )
    x = {"title": "answer under attack", "side": "bottom", "type": "category", "showgrid": False}
    y = {"title": "label", "type": "category", **_LINES, "showgrid": False, "ticks": None}
    return plain_layout(figure, 150 + 30 * len(ticks), x=x, y=y)


def security_curve(record: EvaluationRecord) -> go.Figure | None:
    """Share standing against the radius, an upper bound, with Wilson's interval, eps marked.

    From the smallest distance over all columns that measured one; None where none did.
    """
    packed = [c.distances for c in record.columns.values() if c.distances is not None]
    if not packed:
        return None
    found = (unpack_floats(text, record.n) for text in packed)
    distances = smallest_distances(record.clean_correct, *found)
    grid = np.linspace(0, 2 * record.threat.epsilon, _RADII)
    counts = standing_at(
        distances, grid.tolist(), norm=record.threat.norm, protocol=record.protocol
    )
    rates = [wilson(int(count), record.n) for count in counts]
    figure = go.Figure()
    for ends, fill in (([r.low for r in rates], None), ([r.high for r in rates], "tonexty")):
        figure.add_scatter(
            x=grid, y=[100 * end for end in ends], mode="lines", line={"width": 0}, fill=fill,
            fillcolor=palette.shade(palette.ATTACKED, 0.18), hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=grid,
        y=[100 * rate.estimate for rate in rates],
        mode="lines",
        line={"color": palette.ATTACKED, "width": 2.5},
        customdata=counts,
        hovertemplate="%{y:.1f} % (%{customdata} images) at %{x:.4f}<extra></extra>",
        showlegend=False,
    )
    eps = f"eps {record.threat.eps}"
    figure.add_vline(
        x=record.threat.epsilon, line={"color": palette.LINE, "dash": "dot"}, annotation_text=eps
    )
    x = {"title": f"radius, {record.threat.norm}", "rangemode": "tozero"}
    y = {"title": "% standing, at most", "rangemode": "tozero", "fixedrange": True}
    return plain_layout(figure, 320, x=x, y=y)
