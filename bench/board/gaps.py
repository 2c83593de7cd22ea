"""The robust generalisation gap on the pages: training against test images under one attack."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import streamlit as st

from bench.board import article, records
from bench.board.article import shown, small
from bench.gap import GapPart, RobustGap
from bench.notation import percent, percent_interval, points, points_interval
from bench.schema import InvalidInput
from bench.stats.contrasts import Method
from bench.stats.intervals import Interval, seed_interval
from bench.table import Row

_WHAT = (
    "Robust generalisation gap: the same PGD-20 on training and on test images, at the trained "
    "weights, in eval mode, unaugmented"
)


def known(row: Row) -> bool:
    """Whether there is something to show of a row's gap, be it why it cannot be read."""
    try:
        return records.gap_of(row) is not None
    except InvalidInput:
        return True


def show_gap(row: Row) -> None:
    """Both parts and the gap of one model as numbers; nothing where it was not measured."""
    try:
        gap = records.gap_of(row)
    except InvalidInput as error:
        small(shown(error, 300))
        return
    if gap is None:
        return
    article.numbers(
        {
            "robust on training images": _number(gap.training),
            "robust on test images": _number(gap.test),
            "gap": (f"{points(gap.gap.estimate)} points", f"[{_ends(gap.gap)}]"),
        }
    )
    small(
        f"{_WHAT}. Robust loss {gap.training.robust_loss:.2f} and {gap.test.robust_loss:.2f} nats."
    )


def show_method(method: Method) -> None:
    """What a method did to the gap over seeds, as a sentence and a table of its models."""
    rows = [row for pair in method.pairs for row in (pair.vanilla, pair.awp)]
    found: dict[str, tuple[str, RobustGap]] = {}  # record id -> model, gap
    for row in rows:
        try:
            gap = records.gap_of(row)
        except InvalidInput as error:
            small(shown(error, 300))
            continue
        if gap is not None:
            found[row.record.id] = row.card.name, gap
    if not found:
        return
    both = [(p.vanilla.record.id, p.awp.record.id) for p in method.pairs]
    pairs = [(found[v][1], found[a][1]) for v, a in both if v in found and a in found]
    if compared := [pair for pair in pairs if alike(*pair)]:
        small(sentence(method.baseline, method.name, compared))
    with st.expander("Robust generalisation gap of every model"):
        st.dataframe(
            table(list(found.values())),
            column_config={
                "train": st.column_config.NumberColumn("train", format="%.1f"),
                "test": st.column_config.NumberColumn("test", format="%.1f"),
                "gap": st.column_config.NumberColumn("gap", format="%+.1f"),
            },
            hide_index=True,
            alt="Robust accuracy on training and test images, and the gap, of every model",
        )
        small(f"{_WHAT}. Intervals: Newcombe's for two independent proportions, 95 %.")


def alike(a: RobustGap, b: RobustGap) -> bool:
    """Whether two gaps were measured by the same attack on the same images."""

    def images(gap: RobustGap) -> tuple[str, str]:
        return gap.training.examples_sha256, gap.test.examples_sha256

    return (a.threat, a.attack, a.seed, images(a)) == (b.threat, b.attack, b.seed, images(b))


def sentence(baseline: str, name: str, compared: Sequence[tuple[RobustGap, RobustGap]]) -> str:
    """`AT +35.2 points, AT-AWP +31.3; difference -3.9 points [..] over 6 seeds`, with n."""
    vanilla, awp = zip(*compared, strict=True)
    means = [sum(g.gap.estimate for g in gaps) / len(gaps) for gaps in (vanilla, awp)]
    differences = [a.gap.estimate - v.gap.estimate for v, a in compared]
    seeds = f"{len(compared)} seed{'' if len(compared) == 1 else 's'}"
    first = vanilla[0]
    return (
        f"Robust generalisation gap (PGD-20; n = {first.training.n:,} training and "
        f"{first.test.n:,} test images): {baseline} {points(means[0])}, {name} {points(means[1])}; "
        f"difference {points_interval(seed_interval(differences))} over {seeds}."
    )


def table(found: Sequence[tuple[str, RobustGap]]) -> pa.Table:
    """Model, robust accuracy in percent on both parts, gap in points with its interval, both n."""
    gaps = [gap for _, gap in found]
    return pa.table(
        {
            "model": [name for name, _ in found],
            "train": [100 * g.training.robust_rate.estimate for g in gaps],
            "n train": [g.training.n for g in gaps],
            "test": [100 * g.test.robust_rate.estimate for g in gaps],
            "n test": [g.test.n for g in gaps],
            "gap": [100 * g.gap.estimate for g in gaps],
            "95 % interval": [f"[{_ends(g.gap)}]" for g in gaps],
            "epoch": [g.epoch for g in gaps],
        }
    )


def _number(part: GapPart) -> tuple[str, str]:
    rate = part.robust_rate
    return (
        f"{percent(rate.estimate, part.n)} %",
        f"{percent_interval(rate, part.n)}; n = {part.n:,}",
    )


def _ends(interval: Interval) -> str:
    return f"{points(interval.low)}, {points(interval.high)}"
