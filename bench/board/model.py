"""The model page: what one model withstood, how it was made, and how to check it again."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from bench.board import (
    article,
    comparison,
    curves,
    gallery,
    gaps,
    provenance,
    records,
    twins,
    withstood,
)
from bench.board.article import code, paragraph, shown, small
from bench.board.cost import cost_of
from bench.notation import p_value_text, percent, percent_interval, plain, points_interval
from bench.records.card_text import marked, method_text, threat_text
from bench.records.entry import Entry
from bench.reliability.flags import FLAGS, KEEPS_UNRANKED, reading
from bench.schema import EvaluationRecord, Flag, InvalidInput, ModelCard
from bench.table import CLEAN, WORST_CASE, Group, Row
from bench.training_log import PARTS, held_out, mean_of_last

Place = tuple[Group, Row]


def show() -> None:
    """The page from top to bottom."""
    board = records.leaderboard()
    named = {record.name for record in (*board.collection.records, *board.collection.failed)}
    if not named:
        st.title("Model", anchor=False)
        article.no_records(board)
        return
    name = choose_name(sorted(named))
    if name is None:
        paragraph("Choose a model to see what it withstood and how it was made.")
        return
    mine = [
        (group, row)
        for group in board.groups
        if any(member.record.name == name for member in group.members)  # the others stay unranked
        for row in group.rows
        if row.record.name == name
    ]
    if mine:
        group, row = choose_measurement(mine)
        show_measurement(group, row)
    else:
        st.info("This model is in no table: its records failed or were withdrawn.")
    provenance.show_history(board, name)


def choose_name(names: Sequence[str]) -> str | None:
    """The model asked for by ?name=, as the heading of the page."""
    asked = st.query_params.get("name")
    heading = st.container()
    name = st.selectbox(
        "Model",
        names,
        index=None,
        key="name",
        bind="query-params",
        placeholder="Choose a model",
        width=460,
    )
    with heading:
        article.title(name or "Model")
    if asked and asked not in names:
        st.info("The address asks for a model that no record here has.")
    return name


def choose_measurement(places: Sequence[Place]) -> Place:
    """One of the tables this model stands in, by ?measurement=."""
    labels = [article.measurement_label(group) for group, _ in places]
    labels = [
        label if labels.count(label) == 1 else f"{label} record={row.record.id}"
        for label, (_, row) in zip(labels, places, strict=True)
    ]
    wanted = st.query_params.get("measurement")
    if len(places) == 1:
        return places[0]
    if wanted and wanted not in labels:
        st.info("This model has no such measurement; showing another one.")
    label = st.selectbox("Measurement", labels, key="measurement", bind="query-params", width=460)
    return places[labels.index(label)] if label in labels else places[0]


def show_measurement(group: Group, row: Row) -> None:
    """Everything about one row of one table."""
    try:
        record = records.whole(row)
    except InvalidInput:  # its file went since the folder was looked at
        st.info("The record of this measurement is gone. The page shows what is left in a moment.")
        return
    card, n = row.card, group.n
    paragraph(summary(group, card))
    clean, worst = row.rates[CLEAN], row.rates[WORST_CASE]
    article.numbers(
        {
            "clean": (f"{percent(clean.estimate, n)} %", percent_interval(clean, n)),
            "worst case": (f"{percent(worst.estimate, n)} %", percent_interval(worst, n)),
            "rank": _rank(group, row),
            "cost": _cost(row.record),
            "images": (f"{n:,}", plain(group.split, 40)),
        }
    )
    show_flags(record)
    withstood.show_attacks(group, row, record)
    withstood.show_curve(record)
    column = withstood.show_classes(group, record)
    gallery.show(record, row.path, column)
    show_twin(group, row)
    comparison.show(group, row)
    show_training(row)
    provenance.show_card(card)
    provenance.show_provenance(record, row.path)
    provenance.show_check(record, row.path)
    provenance.show_citation(group, row)


def _rank(group: Group, row: Row) -> tuple[str, str]:
    if row.rank is None:
        return "none", row.unranked
    ranked = sum(r.rank is not None for r in group.rows)
    if row.range_text in ("", str(row.rank)):
        return f"{row.rank} of {ranked}", "by worst case"
    return f"{row.rank} of {ranked}", f"{row.range_text}: not separated from its neighbours"


def _cost(record: Entry) -> tuple[str, str]:
    cost = cost_of(record)
    return f"{cost.passes_an_image:,.0f}", f"passes an image; {cost.seconds:,.0f} s"


def summary(group: Group, card: ModelCard) -> Markup:
    """One sentence: what it is, and what it was measured on."""
    demo = "Demo data. " if group.demo else ""
    trained = f" trained against {threat_text(card)}" if card.threat is not None else ""
    arch = plain(card.arch or "An unregistered model", 60)
    sentence = (
        f"{demo}{arch}, method {method_text(card)}{trained}; measured on {group.dataset} under "
        f"{group.threat} with the {group.protocol_label} protocol."
    )
    others = article.link_to_table(group, "All models of this table")
    return Markup("{} {}.").format(sentence, others)


def show_flags(record: EvaluationRecord) -> None:
    """Reasons to doubt the numbers, with what raised them; then what is no such reason any more."""
    st.header("Flags", anchor=False)
    found = reading(record)
    if not found.flags:
        paragraph("None: no check of this model or of this evaluation gave a reason for doubt.")
    if found.flags:
        article.bullets(
            _flag(flag, f"{KEEPS_UNRANKED if flag.name in found.unranking else ''}{_remedy(flag)}")
            for flag in found.flags
        )
    if found.set_aside:
        small("Recorded, but no reason for doubt; the record is not edited:")
        article.bullets(_flag(flag, why) for flag, why in found.set_aside)


def _flag(flag: Flag, said: str) -> Markup:
    return Markup("{}: {} {} {}").format(
        code(flag.name),
        shown(flag.message, 500),
        code(", ".join(f"{k} = {v}" for k, v in flag.values.items())) if flag.values else "",
        said,
    )


def _remedy(flag: Flag) -> str:
    """What the catalogue says to do."""
    return FLAGS[flag.name].remedy if flag.name in FLAGS else ""


def show_twin(group: Group, row: Row) -> None:
    """The paired comparison with the vanilla twin, or with the models that name this one."""
    found = [pair for pair in records.pairs_of(group) if row in (pair.awp, pair.vanilla)]
    if not found and row.card.pair is None:
        return
    st.header("Beside its twin", anchor=False)
    if not found:
        twin = marked(row.card, str(row.card.pair), "pair")
        there = any(other.card.name == row.card.pair for other in group.rows)
        why = (
            "but not that AWP was used: nothing is compared"
            if there
            else "which is not in this table"
        )
        paragraph(f"The card names {twin} as its twin, {why}.")
        return
    for pair in found:
        worst = pair.comparisons[WORST_CASE]
        paragraph(
            Markup("{} minus {}, worst case: {}, p {}. {}").format(
                article.link_to_model(group, pair.awp),
                article.link_to_model(group, pair.vanilla),
                points_interval(worst.difference),
                p_value_text(worst.p_value),
                f"Not a matched pair: {pair.remark}." if pair.remark else "",
            )
        )
        small(
            f"Of {worst.n:,} images {worst.both:,} stood under both, {worst.only_a:,} only with "
            f"AWP, {worst.only_b:,} only without, {worst.neither:,} under neither."
        )
    twins.show_pairs_table(group, found)


def show_training(row: Row) -> None:
    """The robust generalisation gap and the curve that lie beside the record, where they do."""
    log = records.log_of(row)
    figure = None
    if log:
        from bench.board import charts

        figure = charts.training_curves({row.card.method: [log]}, kept=row.card.epoch_kept)
    has_gap = gaps.known(row)
    if figure is None and not has_gap:
        return
    st.header("Training", anchor=False)
    gaps.show_gap(row)
    if figure is None:
        return
    st.plotly_chart(
        figure,
        config=charts.CONFIG,
        alt="Robust accuracy and robust loss over training, on training and on unseen images",
    )
    small(curves.caption({row.card.method: [log]}))
    part = held_out(log)
    last = mean_of_last(log, part)
    if row.card.selected_on == "last" and last is not None:
        small(
            f"Robust accuracy on {last.n:,} {PARTS[part]}, {last.remark}: "
            f"{percent(last.robust_rate, last.n)} %. The AWP paper's last is the mean of six epochs."
        )


show()
