"""The security curve of a record: images standing at every radius, an upper bound."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from bench.board.charts import BLUE, GREY, plain_layout
from bench.schema import EvaluationRecord
from bench.schema.packing import unpack_floats
from bench.stats.curve import smallest_distances, standing_at
from bench.stats.intervals import wilson

_POINTS = 81  # radii from 0 to twice that of the record


def distances(record: EvaluationRecord) -> np.ndarray | None:
    """(n,) float64: the smallest distance over all columns that measured one; None where none did."""
    packed = [c.distances for c in record.columns.values() if c.distances is not None]
    if not packed:
        return None
    found = (unpack_floats(text, record.n) for text in packed)
    return smallest_distances(record.clean_correct, *found)


def figure(record: EvaluationRecord, found: np.ndarray) -> go.Figure:
    """Share standing against the radius, with Wilson's interval at each, the record's eps marked."""
    eps = record.threat.epsilon
    grid = np.linspace(0, 2 * eps, _POINTS)
    counts = standing_at(found, grid.tolist(), norm=record.threat.norm, protocol=record.protocol)
    rates = [wilson(int(count), record.n) for count in counts]
    chart = go.Figure()
    for ends, fill in (([r.low for r in rates], None), ([r.high for r in rates], "tonexty")):
        chart.add_scatter(
            x=grid, y=[100 * end for end in ends], mode="lines", line={"width": 0}, fill=fill,
            fillcolor="rgba(61, 139, 203, 0.18)", hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    chart.add_scatter(
        x=grid,
        y=[100 * r.estimate for r in rates],
        mode="lines",
        line={"color": BLUE, "width": 2.5},
        customdata=counts,
        hovertemplate="%{y:.1f} % (%{customdata} images) at %{x:.4f}<extra></extra>",
        showlegend=False,
    )
    chart.add_vline(
        x=eps, line={"color": GREY, "dash": "dot"}, annotation_text=f"eps {record.threat.eps}"
    )
    chart.update_yaxes(title="% standing, at most", rangemode="tozero", fixedrange=True)
    chart.update_xaxes(title=f"radius, {record.threat.norm}", rangemode="tozero")
    return plain_layout(chart, height=320)
