"""What lies beside the records: the gap, the curves of the log, the check of contamination."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import streamlit as st

from bench.board import article, records
from bench.board.article import paragraph, shown, small
from bench.contamination import read_contamination, sentence
from bench.gap import GapPart, RobustGap, read_gap
from bench.notation import ends, percent, percent_interval, points, points_interval
from bench.schema import InvalidInput
from bench.stats.contrasts import Method
from bench.stats.intervals import seed_interval
from bench.table import Row
from bench.training_log import PARTS, held_out, mean_of_last


def show_model(row: Row) -> None:
    """The gap and the curve of one model, where they were measured."""
    from bench.board import curves

    log = records.log_of(row)
    runs = {row.card.method: [log]} if log else {}
    figure = curves.training_curves(runs, kept=row.card.epoch_kept)
    gap = _gap_or_why(row)
    if figure is None and gap is None:
        return
    st.header("Training", anchor=False)
    if isinstance(gap, str):
        small(shown(gap, 300))
    elif gap is not None:
        article.numbers(
            {
                "robust on training images": _number(gap.training),
                "robust on test images": _number(gap.test),
                "gap": (f"{points(gap.gap.estimate)} points", ends(gap.gap)),
            }
        )
        article.caption("gap", gap.training.robust_loss, gap.test.robust_loss)
    if figure is None:
        return
    said = *curves.behind(runs), "robust ", "on training", "on unseen images"
    article.chart(figure, "training", *said)
    part = held_out(log)
    last = mean_of_last(log, part)
    if row.card.selected_on == "last" and last is not None:
        small(
            f"Robust accuracy on {last.n:,} {PARTS[part]}, {last.remark}: "
            f"{percent(last.robust_rate, last.n)} %. The AWP paper's last is the mean of six epochs."
        )


def _gap_or_why(row: Row) -> RobustGap | str | None:
    """The gap beside a record; why it cannot be read where it cannot."""
    try:
        return read_gap(row.path.parent, weights_sha256=row.card.weights_sha256)
    except InvalidInput as error:
        return str(error)


def _number(part: GapPart) -> tuple[str, str]:
    rate = part.robust_rate
    said = f"{percent_interval(rate, part.n)}; n = {part.n:,}"
    return f"{percent(rate.estimate, part.n)} %", said


# ---------------------------------------------------------------- trained on test images?


def show_contamination(row: Row) -> None:
    """Whether a network shows that it was trained on test images, where that was checked."""
    try:
        found = read_contamination(row.path.parent, weights_sha256=row.card.weights_sha256)
    except InvalidInput as error:
        small(shown(str(error), 300))
        return
    if found is None or found.dataset != row.record.dataset:
        small("Trained on test images: not checked.")
        return
    paragraph(f"{sentence(found)}.")
    excesses = ", ".join(
        f"{points_interval(excess)} {'clean' if loss == 'clean' else 'under FGSM'}"
        for loss in found.compared
        if (excess := found.excess(loss)) is not None
    )
    declared = "" if found.trained_on == "run" else " What it was trained on is self-declared."
    small(
        f"Accuracy on {found.test.n:,} test images minus {found.second.n:,} that it never saw: "
        f"{excesses}.{declared}"
    )


# ---------------------------------------------------------------- a method over seeds


def show_method_gaps(method: Method) -> None:
    """What a method did to the gap over seeds, as a sentence and a table of its models."""
    rows = [row for pair in method.pairs for row in (pair.vanilla, pair.awp)]
    found = [_gap_or_why(row) for row in rows]
    for why in found:
        if isinstance(why, str):
            small(shown(why, 300))
    compared = [
        (vanilla, awp)
        for vanilla, awp in zip(found[::2], found[1::2], strict=True)
        if isinstance(vanilla, RobustGap) and isinstance(awp, RobustGap) and alike(vanilla, awp)
    ]
    if compared:
        small(gap_sentence(method.baseline, method.name, compared))
    read = [
        (row.card.name, g) for row, g in zip(rows, found, strict=True) if isinstance(g, RobustGap)
    ]
    if not read:
        return
    data = {
        "model": [name for name, _ in read],
        "train": [100 * g.training.robust_rate.estimate for _, g in read],
        "n train": [g.training.n for _, g in read],
        "test": [100 * g.test.robust_rate.estimate for _, g in read],
        "n test": [g.test.n for _, g in read],
        "gap": [100 * g.gap.estimate for _, g in read],
        "95 % interval": [ends(g.gap) for _, g in read],
        "epoch": [g.epoch for _, g in read],
    }
    form = {"train": "%.1f", "test": "%.1f", "gap": "%+.1f"}
    config = {name: st.column_config.NumberColumn(name, format=said) for name, said in form.items()}
    with st.expander("Robust generalisation gap of every model"):
        article.table(pa.table(data), "gaps", columns=config)


def alike(a: RobustGap, b: RobustGap) -> bool:
    """Whether two gaps were measured by the same attack on the same images."""
    asked = [
        (g.threat, g.attack, g.seed, g.training.examples_sha256, g.test.examples_sha256)
        for g in (a, b)
    ]
    return asked[0] == asked[1]


def gap_sentence(baseline: str, name: str, compared: Sequence[tuple[RobustGap, RobustGap]]) -> str:
    """`AT +35.2 points, AT-AWP +31.3; difference -3.9 points [..] over 6 seeds`, with n."""
    first, _ = compared[0]
    means = [sum(g.gap.estimate for g in gaps) / len(gaps) for gaps in zip(*compared, strict=True)]
    differences = [a.gap.estimate - v.gap.estimate for v, a in compared]
    seeds = f"{len(compared)} seed{'' if len(compared) == 1 else 's'}"
    return (
        f"Robust generalisation gap (PGD-20; n = {first.training.n:,} training and "
        f"{first.test.n:,} test images): {baseline} {points(means[0])}, {name} {points(means[1])}; "
        f"difference {points_interval(seed_interval(differences))} over {seeds}."
    )


def show_method_curves(method: Method) -> None:
    """Robust accuracy and loss over training with and without AWP on one plot, where logs are here."""
    from bench.board import curves

    logs = [(records.log_of(pair.vanilla), records.log_of(pair.awp)) for pair in method.pairs]
    logged = [both for both in logs if all(both)]
    names = (method.baseline, method.name)
    runs = {name: [both[k] for both in logged] for k, name in enumerate(names)}
    figure = curves.training_curves(runs)
    if figure is None:
        return
    st.subheader("Training curves", anchor=False)
    article.chart(figure, "training", *curves.behind(runs), "", *names)
