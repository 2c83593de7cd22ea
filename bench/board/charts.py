"""The charts of the board: every one repeats in shape what it says in colour, and shows intervals.

Blue is with weight perturbation and under attack, orange is without; both read on light and dark.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bench.board.curves import Band, Log, band, robust_loss, robust_percent, shown_parts
from bench.notation import percent, percent_interval, plain, points, short_label
from bench.published.curves import Official
from bench.schema import EvaluationRecord
from bench.stats.contrasts import Method
from bench.stats.intervals import Interval, wilson
from bench.stats.verdicts import Verdict
from bench.table import CLEAN, WORST_CASE, Row
from bench.training_log import PARTS

# plotly looks into a pandas that another visitor's thread is still importing, and fails: wait for it.
importlib.import_module("pandas")

BLUE, ORANGE, GREY = "#3d8bcb", "#dd8520", "#8a8f98"
_SHADE = {BLUE: "rgba(61, 139, 203, 0.18)", ORANGE: "rgba(221, 133, 32, 0.18)"}
# A chart is read, not played with: no toolbar, no zoom that a phone's scroll could trigger.
CONFIG = {"displayModeBar": False, "scrollZoom": False}


def colour_of(verdict: Verdict) -> str:
    """Blue where the treated is better, orange where worse, indications too; else grey."""
    return {1: BLUE, -1: ORANGE}.get(verdict.sign, GREY)


def paired_differences(method: Method, verdict: Verdict) -> go.Figure:
    """Worst case per seed: vanilla to AWP on the left; the difference with its interval on the right.

    The mean has the colour of the verdict; a seed alone has none.
    """
    measure = WORST_CASE
    seeds = [f"seed {pair.awp.texts['seed']}" for pair in method.pairs]
    vanilla = [100 * pair.vanilla.rates[measure].estimate for pair in method.pairs]
    awp = [100 * pair.awp.rates[measure].estimate for pair in method.pairs]
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.06,
    )
    for seed, low, high in zip(seeds, vanilla, awp, strict=True):
        figure.add_scatter(
            x=[low, high], y=[seed, seed], mode="lines", line={"color": GREY, "width": 2},
            hoverinfo="skip", showlegend=False, col=1, row=1,
        )  # fmt: skip
    for name, rates, colour, symbol in (
        (method.baseline, vanilla, ORANGE, "circle-open"),
        (method.name, awp, BLUE, "diamond"),
    ):
        figure.add_scatter(
            x=rates, y=seeds, mode="markers", name=name, col=1, row=1,
            marker=_mark(colour, symbol, 11),
            hovertemplate="%{x:.1f} %<extra>" + name + ", %{y}</extra>",
        )  # fmt: skip
    differences = [pair.comparisons[measure].difference for pair in method.pairs]
    _interval_marks(figure, seeds, differences, "square", 8, GREY)
    mean = method.differences[measure]
    if method.seeds > 1:
        _interval_marks(figure, ["mean"], [mean], "diamond-wide", 13, colour_of(verdict))
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"}, col=2, row=1)
    figure.update_xaxes(title="worst case, %", col=1)
    figure.update_xaxes(title="difference, points", col=2)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", fixedrange=True)
    rows = method.seeds + (method.seeds > 1)
    return plain_layout(figure, height=110 + 28 * rows)


def _mark(colour: str, symbol: str, size: int) -> dict[str, object]:
    line = {"width": 2, "color": colour}
    return {"color": colour, "symbol": symbol, "size": size, "line": line}


def _interval_marks(
    figure: go.Figure,
    names: Sequence[str],
    values: Sequence[Interval],
    symbol: str,
    size: int,
    colour: str,
) -> None:
    figure.add_scatter(
        x=[100 * v.estimate for v in values],
        y=list(names),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (v.high - v.estimate) for v in values],
            "arrayminus": [100 * (v.estimate - v.low) for v in values],
            "width": 0,
            "thickness": 2,
            "color": colour,
        },
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": size},
        customdata=[f"{points(v.estimate)} [{points(v.low)}, {points(v.high)}]" for v in values],
        hovertemplate="%{customdata} points<extra>%{y}</extra>",
        showlegend=False,
        col=2,
        row=1,
    )


def standing_under_attack(row: Row, labels: Mapping[str, str]) -> go.Figure:
    """Clean accuracy, every column and the worst case as dots with their Wilson intervals."""
    names = {measure: html.escape(short_label(label)) for measure, label in labels.items()}
    names[WORST_CASE] = "<b>worst case</b>"
    figure = go.Figure()
    for measure, name in names.items():
        rate, clean = row.rates[measure], measure == CLEAN
        colour = ORANGE if clean else BLUE
        figure.add_scatter(
            x=[100 * rate.estimate],
            y=[name],
            error_x=_whisker(rate, colour),
            mode="markers+text",
            marker=_mark(colour, "circle-open" if clean else "diamond", 10),
            text=percent(rate.estimate, row.record.n),
            textposition="top center",
            cliponaxis=False,
            hovertemplate=f"{percent_interval(rate, row.record.n)} %<extra>%{{y}}</extra>",
            showlegend=False,
        )
    figure.update_yaxes(autorange="reversed", showgrid=True, ticks="", fixedrange=True)
    figure.update_xaxes(range=[0, 101], dtick=20, title=f"% of all {row.record.n:,} images")
    figure = plain_layout(figure, height=80 + 42 * len(names))
    return figure.update_layout(margin_t=16)


def _whisker(rate: Interval, colour: str) -> dict[str, object]:
    """Both ends of an interval, as plotly draws them from its estimate."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (rate.high - rate.estimate)],
        "arrayminus": [100 * (rate.estimate - rate.low)],
        "color": colour,
        "thickness": 2,
        "width": 0,
    }


def robust_by_class(record: EvaluationRecord, names: Sequence[str]) -> go.Figure:
    """Clean and worst-case accuracy of each class, with Wilson intervals."""
    classes = np.unique(record.label_array)
    ticks = [html.escape(plain(names[k] if k < len(names) else f"class {k}", 30)) for k in classes]
    figure = go.Figure()
    for name, bits, colour, symbol in (
        ("clean", record.clean_correct, ORANGE, "circle-open"),
        ("worst case", record.worst_case_standing, BLUE, "diamond"),
    ):
        counts = [(int(bits[record.label_array == k].sum()), int(n)) for k, n in _sizes(record)]
        rates = [wilson(right, n) for right, n in counts]
        figure.add_scatter(
            x=ticks,
            y=[100 * r.estimate for r in rates],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [100 * (r.high - r.estimate) for r in rates],
                "arrayminus": [100 * (r.estimate - r.low) for r in rates],
                "color": colour,
                "thickness": 1.5,
                "width": 0,
            },
            mode="markers",
            name=name,
            marker=_mark(colour, symbol, 10),
            cliponaxis=False,
            customdata=[f"{right} of {n}" for right, n in counts],
            hovertemplate="%{y:.1f} % (%{customdata})<extra>" + name + ", %{x}</extra>",
        )
    figure.update_xaxes(type="category", showgrid=False, fixedrange=True)
    figure.update_yaxes(range=[0, 103], dtick=20, title="%", fixedrange=True)
    return plain_layout(figure, height=320)


def _sizes(record: EvaluationRecord) -> list[tuple[int, int]]:
    classes, sizes = np.unique(record.label_array, return_counts=True)
    return [(int(k), int(n)) for k, n in zip(classes, sizes, strict=True)]


def training_curves(
    methods: Mapping[str, Sequence[Log]], *, kept: int | None = None
) -> go.Figure | None:
    """Robust accuracy above robust loss over training; None where no log says anything.

    methods: name -> the logs of its runs, one a seed, the vanilla method first. One method is drawn in
    a colour a part, two in a colour each; training images are dashed. kept: an epoch to mark.
    """
    parts = shown_parts(methods)
    rows = [
        (title, value)
        for title, value in (
            ("robust accuracy, %", robust_percent),
            ("robust loss, nats", robust_loss),
        )
        if any(band(logs, part, value) for logs in methods.values() for part in parts)
    ]
    if not rows:
        return None
    figure = make_subplots(rows=len(rows), shared_xaxes=True, vertical_spacing=0.08)
    for row, (title, value) in enumerate(rows, 1):
        for place, (name, logs) in enumerate(methods.items()):
            for part in parts:
                found = band(logs, part, value)
                if found is None:
                    continue
                dashed = part == "train"
                blue = place > 0 if len(methods) > 1 else not dashed
                label = f"{plain(name, 40)}, {part}" if len(methods) > 1 else PARTS[part]
                _draw_band(figure, row, found, html.escape(label), blue=blue, dashed=dashed)
        figure.update_yaxes(title=title, rangemode="tozero", fixedrange=True, row=row)
    if kept is not None:
        figure.add_vline(x=kept, line={"color": GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=kept, y=0, yref="y domain", text="kept", font={"color": GREY}, showarrow=False,
            xanchor="right", yanchor="bottom",
        )  # fmt: skip
    figure.update_xaxes(showgrid=False, fixedrange=True, rangemode="tozero")
    figure.update_xaxes(title="epoch", row=len(rows))
    return plain_layout(figure, height=90 + 210 * len(rows))


def _draw_band(
    figure: go.Figure, row: int, found: Band, label: str, *, blue: bool, dashed: bool
) -> None:
    """A mean as a line, and what lies between lowest and highest shaded where there are several."""
    colour = BLUE if blue else ORANGE
    if found.runs > 1:
        for ends, fill in ((found.low, None), (found.high, "tonexty")):
            figure.add_scatter(
                x=found.epochs, y=ends, mode="lines", line={"width": 0}, fill=fill,
                fillcolor=_SHADE[colour], hoverinfo="skip", showlegend=False,
                legendgroup=label, row=row, col=1,
            )  # fmt: skip
    figure.add_scatter(
        x=found.epochs,
        y=found.mean,
        name=label,
        mode="lines+markers",
        line={"color": colour, "dash": "dash" if dashed else "solid", "width": 2},
        # A symbol here and there says again which line it is.
        marker={"symbol": "diamond" if blue else "circle-open", "size": 7, "maxdisplayed": 12},
        hovertemplate="%{y:.3~f}<extra>" + label + ", epoch %{x}</extra>",
        legendgroup=label,
        showlegend=row == 1,
        row=row,
        col=1,
    )


def over_official(name: str, log: Log, part: str, official: Official) -> go.Figure:
    """Robust accuracy above robust loss of one run, over the test curve of an official one."""
    label, theirs = html.escape(f"{plain(name, 60)}, {PARTS[part]}"), html.escape(official.name)
    epochs = [e.epoch for e in official.epochs]
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    for row, (title, known, value) in enumerate(
        (
            ("robust accuracy, %", [100 * e.robust_rate for e in official.epochs], robust_percent),
            ("robust loss, nats", [e.robust_loss for e in official.epochs], robust_loss),
        ),
        1,
    ):
        figure.add_scatter(
            x=epochs, y=known, name=theirs, mode="lines", line={"color": GREY, "width": 2},
            hovertemplate="%{y:.3~f}<extra>" + theirs + ", epoch %{x}</extra>",
            legendgroup=theirs, showlegend=row == 1, row=row, col=1,
        )  # fmt: skip
        found = band([log], part, value)
        if found is not None:
            _draw_band(figure, row, found, label, blue=True, dashed=False)
        figure.update_yaxes(title=title, row=row)
    figure.update_xaxes(title="epoch", row=2)
    return plain_layout(figure, height=640)


def plain_layout(figure: go.Figure, height: int) -> go.Figure:
    """What all charts have in common: no drag that a scroll could start, legend above."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 34, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        hovermode="closest",
        dragmode=False,
        bargap=0.35,
    )
    figure.update_xaxes(zeroline=False, fixedrange=True)
    return figure
