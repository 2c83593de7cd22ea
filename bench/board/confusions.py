"""What a model answers under attack: for every class, which classes its images are taken for."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from bench.board.charts import GREY, plain_layout
from bench.notation import plain
from bench.schema import EvaluationRecord

MOST_CLASSES = 20  # more cells than a page can show


def answers(record: EvaluationRecord, column: str) -> np.ndarray:
    """(n,) int64: the class predicted in the end; that of the adversarial image where it is broken."""
    broken = record.adversarial_predictions(column)
    return np.where(broken >= 0, broken, record.clean_prediction_array)


def confusion(labels: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) int64 counts: row the label, column the answer."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, answered), 1)
    return counts


def figure(record: EvaluationRecord, column: str, names: Sequence[str]) -> go.Figure:
    """The confusion as a heat map: share of a label's images, counts in the cells."""
    classes = record.card.class_count
    counts = confusion(record.label_array, answers(record, column), classes)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ticks = [
        html.escape(plain(names[k] if k < len(names) else f"class {k}", 16)) for k in range(classes)
    ]
    chart = go.Figure(
        go.Heatmap(
            z=shares,
            x=ticks,
            y=ticks,
            customdata=counts,
            colorscale=[[0, "rgba(61, 139, 203, 0.04)"], [1, "rgba(43, 123, 186, 0.95)"]],
            zmin=0,
            zmax=100,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{y} taken for %{x}: %{customdata} images, %{z:.0f} %<extra></extra>",
        )
    )
    if classes <= 12:
        _write_counts(chart, counts, shares)
    chart.update_xaxes(title="answer under attack", type="category", showgrid=False, side="bottom")
    chart.update_yaxes(
        title="label", type="category", autorange="reversed", showgrid=False, fixedrange=True
    )
    return plain_layout(chart, height=150 + 30 * classes)


def _write_counts(chart: go.Figure, counts: np.ndarray, shares: np.ndarray) -> None:
    """The counts in the cells, white on dark cells and grey on the others; zeros are left out."""
    for dark, colour in ((True, "white"), (False, GREY)):
        rows, columns = np.nonzero((counts > 0) & ((shares >= 40) == dark))
        chart.add_scatter(
            x=columns,
            y=rows,
            mode="text",
            text=counts[rows, columns],
            textfont={"color": colour},
            hoverinfo="skip",
            showlegend=False,
        )
