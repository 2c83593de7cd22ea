"""The model page: what one model withstood, how it was made, and how to check it again."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article, attacks, filters, gallery, provenance, records, tables, training
from bench.board.article import code, paragraph, shown, small
from bench.notation import (
    ends,
    p_value_text,
    percent,
    percent_interval,
    plain,
    points,
    points_interval,
    short_label,
)
from bench.records.card_text import marked, method_text, threat_text
from bench.reliability.flags import FLAGS, KEEPS_UNRANKED, reading
from bench.schema import EvaluationRecord, Flag, InvalidInput
from bench.stats.intervals import compare_paired
from bench.table import CLEAN, WORST_CASE, Group, Row

_OTHER = "versus"  # the other model, in the address too
Place = tuple[Group, Row]


def show() -> None:
    """The page from top to bottom."""
    board = records.leaderboard()
    named = {record.name for record in (*board.collection.records, *board.collection.failed)}
    if not named:
        st.title("Model", anchor=False)
        article.no_records(board)
        return
    heading = st.container()
    missed = "The address asks for a model that no record here has."
    names = sorted(named)
    name = filters.choice("Model", names, "name", missed, placeholder="Choose a model")
    with heading:
        article.title(name or "Model")
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
        show_measurement(*choose_measurement(mine))
    else:
        st.info("This model is in no table: its records failed or were withdrawn.")
    provenance.show_history(board, name)


def choose_measurement(places: Sequence[Place]) -> Place:
    """One of the tables this model stands in, by ?measurement=."""
    labels = [article.measurement_label(group) for group, _ in places]
    labels = [
        label if labels.count(label) == 1 else f"{label} record={row.record.id}"
        for label, (_, row) in zip(labels, places, strict=True)
    ]
    if len(places) == 1:
        return places[0]
    missed = "This model has no such measurement; showing another one."
    label = filters.choice("Measurement", labels, "measurement", missed)
    return places[labels.index(label)] if label in labels else places[0]


def show_measurement(group: Group, row: Row) -> None:
    """Everything about one row of one table."""
    try:
        record = row.record.whole
    except InvalidInput:  # its file went since the folder was looked at
        st.info("The record of this measurement is gone. The page shows what is left in a moment.")
        return
    show_summary(group, row)
    show_flags(record)
    attacks.show(group, row, record)
    column = attacks.show_classes(group, record)
    gallery.show(record, row.path, column)
    show_twin(group, row)
    show_comparison(group, row)
    training.show_model(row)
    provenance.show(group, row, record)


def show_summary(group: Group, row: Row) -> None:
    """What it is, what it was measured on, and the numbers."""
    card, n = row.card, group.n
    demo = "Demo data. " if group.demo else ""
    trained = f" trained against {threat_text(card)}" if card.threat is not None else ""
    others = article.link_to_table(group, "All models of this table")
    paragraph(
        f"{demo}{plain(card.arch or 'An unregistered model', 60)}, method {method_text(card)}"
        f"{trained}; measured on {group.dataset} under {group.threat} with the "
        f"{group.protocol_label} protocol. "
        + others
        + "."
    )  # fmt: skip
    ranked = sum(other.rank is not None for other in group.rows)
    place = "by worst case"
    if row.range_text not in ("", str(row.rank)):
        place = f"{row.range_text}: not separated from its neighbours"
    clean, worst = row.rates[CLEAN], row.rates[WORST_CASE]
    passes = row.record.passes / n
    article.numbers(
        {
            "clean": (f"{percent(clean.estimate, n)} %", percent_interval(clean, n)),
            "worst case": (f"{percent(worst.estimate, n)} %", percent_interval(worst, n)),
            "rank": ("none", row.unranked) if row.rank is None else (f"{row.rank} of {ranked}", place),
            "cost": (f"{passes:,.0f}", f"passes an image; {row.record.seconds:,.0f} s"),
            "images": (f"{n:,}", plain(group.split, 40)),
        }
    )  # fmt: skip


def show_flags(record: EvaluationRecord) -> None:
    """Reasons to doubt the numbers, with what raised them; then what is no such reason any more."""
    st.header("Flags", anchor=False)
    found = reading(record)
    if not found.flags:
        paragraph("None: no check of this model or of this evaluation gave a reason for doubt.")
    doubts = []
    for flag in found.flags:
        remedy = FLAGS[flag.name].remedy if flag.name in FLAGS else ""
        kept = KEEPS_UNRANKED if flag.name in found.unranking else ""
        doubts.append(_flag(flag, f"{kept}{remedy}"))
    if doubts:
        article.bullets(doubts)
    if found.set_aside:
        small("Recorded, but no reason for doubt; the record is not edited:")
        article.bullets(_flag(flag, why) for flag, why in found.set_aside)


def _flag(flag: Flag, said: str) -> Markup:
    seen = code(", ".join(f"{k} = {v}" for k, v in flag.values.items())) if flag.values else ""
    return Markup("{}: {} {} {}").format(code(flag.name), shown(flag.message, 500), seen, said)


# ---------------------------------------------------------------- beside another model


def show_twin(group: Group, row: Row) -> None:
    """The paired comparison with the vanilla twin, or with the models that name this one."""
    found = [pair for pair in records.pairs_of(group) if row in (pair.awp, pair.vanilla)]
    if not found and row.card.pair is None:
        return
    st.header("Beside its twin", anchor=False)
    if not found:
        twin = marked(row.card, str(row.card.pair), "pair")
        why = "which is not in this table"
        if any(other.card.name == row.card.pair for other in group.rows):
            why = "but not that AWP was used: nothing is compared"
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
    tables.show_pairs(group, found, phone=False)


def show_comparison(group: Group, row: Row) -> None:
    """The chosen model beside any other of its table: under every attack, by how much, how sure."""
    others = {other.card.name: other for other in group.rows if other is not row}
    if not others:
        return
    st.header("Compare with another model", anchor=False)
    missed = "The address compares with a model that is not in this table."
    placeholder = "Choose a model of the same table"
    name = filters.choice("Other model", list(others), _OTHER, missed, placeholder=placeholder)
    if name is None:
        return
    other, labels = others[name], {WORST_CASE: "worst case", **group.labels}
    names = [short_label(labels[measure]) for measure in group.measures]
    found = [compare_paired(row.standing[m], other.standing[m]) for m in group.measures]
    worst = found[group.measures.index(WORST_CASE)]
    paragraph(
        Markup("{} minus {}, worst case: {}, p {}: <strong>{}</strong>.").format(
            row.card.name,
            article.link_to_model(group, other),
            points_interval(worst.difference),
            p_value_text(worst.p_value),
            "separated, as one comparison" if worst.p_value < 0.05 else "not separated",
        )
    )
    data = {
        "measure": names,
        "difference": [points(c.difference.estimate) for c in found],
        "95 % interval": [ends(c.difference) for c in found],
        "p": [p_value_text(c.p_value) for c in found],
        "both stand": [c.both for c in found],
        "only this": [c.only_a for c in found],
        "only the other": [c.only_b for c in found],
        "neither": [c.neither for c in found],
    }
    lines = [
        (
            "",
            label,
            points(c.difference.estimate),
            f"{ends(c.difference)}, p {p_value_text(c.p_value)}; only the first stands on "
            f"{c.only_a:,}, only the second on {c.only_b:,}",
        )
        for label, c in zip(names, found, strict=True)
    ]
    article.table(pa.table(data), "two models", row.card.name, name, key="versus", lines=lines)


show()
