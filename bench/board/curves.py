"""Training curves of runs that differ in their seed alone, as one band: mean, lowest, highest."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bench.board import palette
from bench.board.charts import plain_layout
from bench.notation import plain
from bench.published.curves import Official
from bench.training_log import PARTS, Line, Measured, held_out, measured

Log = Sequence[Line]
Runs = Mapping[str, Sequence[Log]]  # name -> the logs of its runs, one a seed, vanilla first

_VALUES: dict[str, Callable[[Measured], float | None]] = {
    "robust accuracy, %": lambda entry: 100 * entry.robust_rate,
    "robust loss, nats": lambda entry: entry.robust_loss,  # mean cross-entropy under the attack
}


@dataclass(frozen=True)
class Band:
    """One value of one part over the epochs that every run logged."""

    epochs: list[int]  # 1-based
    low: list[float]
    mean: list[float]
    high: list[float]
    runs: int


def band(logs: Sequence[Log], part: str, title: str) -> Band | None:
    """The band of a value over runs; None where they share no epoch that says it."""
    curves: list[dict[int, float]] = []
    for log in logs:
        known = {entry.epoch: _VALUES[title](entry) for entry in measured(log, part)}
        curves.append({epoch: value for epoch, value in known.items() if value is not None})
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if not epochs:
        return None
    columns = [[curve[epoch] for curve in curves] for epoch in epochs]
    means = [sum(column) / len(column) for column in columns]
    return Band(epochs, list(map(min, columns)), means, list(map(max, columns)), len(curves))


def shown_parts(methods: Runs) -> tuple[str, ...]:
    """The parts to draw: training images, and one part unseen in training, the same for all."""
    logs = [log for runs in methods.values() for log in runs]
    unseen = "test" if logs and all(held_out(log) == "test" for log in logs) else "validation"
    return tuple(p for p in ("train", unseen) if any(measured(log, p) for log in logs))


def behind(methods: Runs) -> tuple[str, str]:
    """What lines and bands are, empty for one run; and how many images are behind them."""
    runs = max(map(len, methods.values()), default=0)
    over = f"Lines: means over {runs} seeds; bands: lowest and highest. " if runs > 1 else ""
    sizes = []
    for part in shown_parts(methods):
        seen = {e.n for logs in methods.values() for log in logs for e in measured(log, part)}
        count = " to ".join(f"{n:,}" for n in sorted({min(seen), max(seen)}))
        sizes.append(f"{count} {PARTS[part]}")
    return over, " and ".join(sizes)


def training_curves(methods: Runs, *, kept: int | None = None) -> go.Figure | None:
    """Robust accuracy above robust loss over training; None where no log says anything.

    One method is drawn in a colour a part, two in a colour each; training images are dashed.
    kept: an epoch to mark.
    """
    parts = shown_parts(methods)
    found = {
        title: [
            (place, name, part, drawn)
            for place, (name, logs) in enumerate(methods.items())
            for part in parts
            if (drawn := band(logs, part, title)) is not None
        ]
        for title in _VALUES
    }
    titles = [title for title, drawn in found.items() if drawn]
    if not titles:
        return None
    figure = make_subplots(rows=len(titles), shared_xaxes=True, vertical_spacing=0.08)
    for row, title in enumerate(titles, 1):
        for place, name, part, drawn in found[title]:
            several, dashed = len(methods) > 1, part == "train"
            label = f"{plain(name, 40)}, {part}" if several else PARTS[part]
            colour = _of_method(name, place) if several else _OF_PART[dashed]
            _draw(figure, row, drawn, html.escape(label), colour, dashed=dashed)
        figure.update_yaxes(title=title, rangemode="tozero", fixedrange=True, row=row)
    if kept is not None:
        figure.add_vline(x=kept, line={"color": palette.LINE, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=kept, y=0, yref="y domain", text="kept", showarrow=False,
            xanchor="right", yanchor="bottom",
        )  # fmt: skip
    figure.update_xaxes(showgrid=False, fixedrange=True, rangemode="tozero")
    figure.update_xaxes(title="epoch", row=len(titles))
    return plain_layout(figure, height=90 + 210 * len(titles))


def over_official(name: str, log: Log, part: str, official: Official) -> go.Figure:
    """Robust accuracy above robust loss of one run, over the test curve of an official one."""
    label, theirs = html.escape(f"{plain(name, 60)}, {PARTS[part]}"), html.escape(official.name)
    epochs = [e.epoch for e in official.epochs]
    known = (
        [100 * e.robust_rate for e in official.epochs],
        [e.robust_loss for e in official.epochs],
    )
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    for row, (title, values) in enumerate(zip(_VALUES, known, strict=True), 1):
        _draw(figure, row, Band(epochs, values, values, values, 1), theirs, palette.UNKNOWN)
        found = band([log], part, title)
        if found is not None:
            _draw(figure, row, found, label, palette.TEST)
        figure.update_yaxes(title=title, row=row)
    figure.update_xaxes(title="epoch", row=2)
    return plain_layout(figure, height=640)


_OF_PART = {True: palette.TRAINING, False: palette.TEST}  # whether its images were trained on


def _of_method(name: str, place: int) -> str:
    """The colour of one method of two: the vanilla one is the first."""
    if not place:
        return palette.VANILLA
    return palette.RANDOM if name.endswith("RWP") else palette.AWP


def _draw(
    figure: go.Figure, row: int, found: Band, label: str, colour: str, *, dashed: bool = False
) -> None:
    """A mean as a line, and what lies between lowest and highest shaded where there are several."""
    if found.runs > 1:
        for ends, fill in ((found.low, None), (found.high, "tonexty")):
            figure.add_scatter(
                x=found.epochs, y=ends, mode="lines", line={"width": 0}, fill=fill,
                fillcolor=palette.shade(colour, 0.18), hoverinfo="skip", showlegend=False,
                legendgroup=label, row=row, col=1,
            )  # fmt: skip
    figure.add_scatter(
        x=found.epochs,
        y=found.mean,
        name=label,
        mode="lines+markers",
        line={"color": colour, "dash": "dash" if dashed else "solid", "width": 2},
        # A symbol here and there says again which line it is.
        marker={"symbol": palette.SHAPES[colour], "size": 7, "maxdisplayed": 12},
        hovertemplate="%{y:.3~f}<extra>" + label + ", epoch %{x}</extra>",
        legendgroup=label,
        showlegend=row == 1,
        row=row,
        col=1,
    )
