"""One measurement of one of our models: numbers, doubts, attacks, images, its twin, its training."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article, challenges, filters, gallery, provenance, records, training
from bench.board.article import code, link_to_compare, paragraph, small
from bench.exports.details import attacked, flags
from bench.notation import (
    p_value_text,
    percent,
    percent_interval,
    plain,
    points_interval,
    short_label,
)
from bench.records.card_text import images_text, marked, method_text, threat_text, trained_on
from bench.records.entry import cost_texts, directions_of, passes_a_standing_image
from bench.reliability import figures
from bench.reliability.figures import Stated
from bench.reliability.flags import reading
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.audit import sentence
from bench.stats.contrasts import Pair, by_name
from bench.stats.method_rows import BADGES
from bench.stats.versus import network
from bench.table import CLEAN, WORST_CASE, Group, Row

CURVE = "curve"  # the protocol whose records hold distances
_OTHER = "versus"  # the other model, in the address too
_MOST_CLASSES = 20  # a hundred intervals of ten images each say nothing


def show(group: Group, row: Row) -> None:
    """Everything about one row of one table."""
    try:
        record = row.record.whole
    except InvalidInput:  # its file went since the folder was looked at
        st.info("The record of this measurement is gone. The page shows what is left in a moment.")
        return
    alone = article.alone
    alone("The summary", show_summary, group, row, record)
    alone("The flags", show_flags, record)
    alone("The check of contamination", training.show_contamination, row)
    alone("What others state", show_stated, row)
    alone("What stood after each attack", show_attacks, group, row, record)
    alone("The challenges", challenges.show, group, row)
    column = alone("The choice of a column", choose_column, group)
    if column is not None:
        alone("The adversarial images", gallery.show, record, row.path, column)
        alone("The classes", show_classes, group, record, column)
    alone("The comparison with its twin", show_twin, group, row)
    alone("The way to other models", show_others, group, row)
    alone("What training left", training.show_model, row)
    alone("The way to load it", provenance.show_loading, record, row)
    alone("The card", provenance.show_card, record)
    alone("The provenance", provenance.show_provenance, record, row)
    alone("The citation", provenance.show_citation, group, row)


# ---------------------------------------------------------------- what it is, how far to trust it


def show_summary(group: Group, row: Row, record: EvaluationRecord) -> None:
    """What it is, what it was measured on, the numbers, and what vouches for them."""
    card, n = row.card, group.n
    trained = ""
    if card.train is not None and trained_on(card) != card.dataset:
        trained = f" on {plain(images_text(card.train), 100)}"
    if card.threat is not None:
        trained += f" against {threat_text(card)}"
    where = f"{group.dataset}, {group.threat}, {group.protocol_label}"
    paragraph(
        Markup("{}{}, {}{}. Measured on {}: {}.").format(
            "Demo data. " if group.demo else "",
            plain(card.arch or "An unregistered model", 60),
            "trained by others" if card.method == "unknown" else method_text(card),
            trained,
            where,
            article.link_to_table(group, "all models of this table"),
        )
    )
    clean, worst = row.rates[CLEAN], row.rates[WORST_CASE]
    passes, *cost = cost_texts(row.record.passes, n, row.record.worst_case_count, record.seconds)
    number, unit = passes.split(" ", 1)
    forward, backward = (f"{count / n:,.0f}" for count in directions_of(record))
    cost = [f"{forward} forward + {backward} backward", *cost]
    article.numbers(
        {
            "clean": (f"{percent(clean.estimate, n)} %", percent_interval(clean, n)),
            "worst case": (f"{percent(worst.estimate, n)} %", percent_interval(worst, n)),
            "rank": _place(group, row),
            unit: (number, ", ".join(cost)),
            "images": (f"{n:,}", plain(group.split, 40)),
        }
    )
    article.badges({badge: BADGES[badge] for badge in network(group, row).badges})


def _place(group: Group, row: Row) -> tuple[str, str]:
    if row.rank is None:
        return "none", row.unranked
    ranked = sum(other.rank is not None for other in group.rows)
    ranged = row.range_text not in ("", str(row.rank))
    return (f"{row.range_text} of {ranked}", "not separated" if ranged else "by worst case")


def show_flags(record: EvaluationRecord) -> None:
    """Reasons to doubt the numbers, with what raised them; then what is no such reason any more."""
    if not reading(record).flags:
        paragraph("No flags.")
    if found := flags(record):
        st.header("Flags", anchor=False)
        form = "{}: {} {} {}"
        article.bullets(
            Markup(form).format(
                code(flag["name"]), flag["message"], flag["seen"] and code(flag["seen"]), flag["remedy"]
            )
            for flag in found
        )  # fmt: skip


def show_stated(row: Row) -> None:
    """What others state of the model beside what was measured, and where the two contradict."""
    found = figures.stated(row.record)
    if not found:
        return
    st.header("Stated by others", anchor=False)
    for said in figures.contradictions(row.record):
        paragraph(Markup("<strong>Contradicted</strong>: {}.").format(said))
    lines = [
        {
            "what": figures.kind(each.figure),
            "images": figures.count_text(each.figure),
            "measured here": each.measured,
            "remark": _remark(each),
            "data set": each.figure.dataset,
            "threat": str(each.figure.threat or "none"),
            "source": figures.source(each.figure),
        }
        for each in found
    ]
    article.table(pa.Table.from_pylist(lines), "stated")


def _remark(found: Stated) -> str:
    if found.measured is None:
        return "other images or another threat: not compared"
    return "contradicted" if found.contradiction else "agrees"


# ---------------------------------------------------------------- under attack


def show_attacks(group: Group, row: Row, record: EvaluationRecord) -> None:
    """Accuracy under every column, what stood after each attack within it, and at every radius."""
    from bench.board import charts  # plotly is loaded after the text is on the screen

    st.header("Under attack", anchor=False)
    article.chart(charts.standing_under_attack(row, group.labels), "attacks")
    if row.best_known_basis:
        best = row.best_known_rate
        small(
            f"Best known, under {row.best_known_basis} of these weights: "
            f"{percent(best.estimate, group.n)} % ({percent_interval(best, group.n)})."
        )
    for audit in record.audits:
        small(f"Audit: {sentence(audit, group.n)}.")
    if row.seed_range is not None:
        small(f"Over attack seeds, another source of spread than the images: {row.seed_range}.")
    with st.expander("After each attack"):
        article.table(attack_table(group, record), "after each attack")
    curve = charts.security_curve(curve_record(row) or record)
    if curve is not None:
        st.header("Security curve", anchor=False)
        article.chart(curve, "security curve")


def curve_record(row: Row) -> EvaluationRecord | None:
    """The record that looked for the nearest misclassified point of every image; None: there is none.

    Of the same weights, images and norm, and as sure as the row itself; at the nearest radius.
    """
    mine = row.record
    found = [
        member.record
        for group in records.leaderboard().groups
        if group.protocol.name == CURVE and group.examples_sha256 == mine.examples_sha256
        for member in group.members
        if member.record.weights_sha256 == mine.weights_sha256
        and (member.known or not row.known)
        and member.record.threat.norm == mine.threat.norm
    ]
    apart = {each.id: abs(each.threat.epsilon - mine.threat.epsilon) for each in found}
    for entry in sorted(found, key=lambda each: (apart[each.id], each.id)):
        try:
            return entry.whole
        except InvalidInput:  # gone, or damaged since: the bound from distances is left
            continue
    return None


def attack_table(group: Group, record: EvaluationRecord) -> pa.Table:
    """A row an attack, in the order in which they ran."""
    lines = [
        {
            "column": label,
            "attack": plain(o.spec.name),
            "attacked": o.attacked,
            "broken": o.broken,
            "standing, %": percent((o.attacked - o.broken) / group.n, group.n),
            "largest perturbation": f"{o.largest_perturbation:.5f}",
            "forward passes": o.forward_passes,
            "backward passes": o.backward_passes,
            "passes a standing image": _rounded(
                passes_a_standing_image(o.forward_passes + o.backward_passes, o.attacked - o.broken)
            ),
            "seconds": round(o.seconds, 1),
            "parameters": plain(o.spec, 300),
        }
        for label, outcomes in attacked(group, record)
        for o in outcomes
    ]
    return pa.Table.from_pylist(lines)


def _rounded(passes: float | None) -> int | None:
    return None if passes is None else round(passes)


# ---------------------------------------------------------------- images


def choose_column(group: Group) -> str:
    """The column whose images and answers are shown."""
    st.header("Adversarial examples", anchor=False)
    names = [column.name for column in group.columns][::-1]  # the strongest is named last
    missed = "The address asks for a column that this table does not have."
    said = {name: short_label(group.labels[name]) for name in names}
    chosen = filters.choice("Broken by", names, "column", missed, said=said.__getitem__, width=220)
    return chosen if chosen in names else names[0]


def show_classes(group: Group, record: EvaluationRecord, column: str) -> None:
    """Which classes fall first, and what they are taken for."""
    from bench.board import charts

    classes = record.card.class_count
    if classes > _MOST_CLASSES:
        return
    with st.expander("By class"):
        article.chart(charts.robust_by_class(record), "classes", group.n // classes)
        confusion, attack = charts.confusion_map(record, column), plain(group.labels[column], 60)
        article.chart(confusion, "confusion", attack, width=680)


# ---------------------------------------------------------------- beside another model


def show_twin(group: Group, row: Row) -> None:
    """The paired comparison with the vanilla twin, or with the models that name this one."""
    found = [pair for pair in records.pairs_of(group) if row in (pair.awp, pair.vanilla)]
    if not found and row.card.pair is None:
        return
    st.header("Beside its twin", anchor=False)
    for pair in found:
        paragraph(_compared(group, pair, row))
    if found:
        return
    twin = marked(row.card, str(row.card.pair), "pair")
    why = "which is not in this table"
    if any(other.card.name == row.card.pair for other in group.rows):
        why = "but not that AWP was used: nothing is compared"
    paragraph(f"The card names {twin} as its twin, {why}.")


def _compared(group: Group, pair: Pair, row: Row) -> Markup:
    """`With AWP minus without, worst case: +2.6 points [+0.9, +4.4], p 0.004. Beside X: compare.`"""
    worst = pair.comparisons[WORST_CASE]
    twin = pair.vanilla if row is pair.awp else pair.awp
    names = (pair.awp.card.name, pair.vanilla.card.name)
    form = "With AWP minus without, worst case: <strong>{}</strong>, p {}. Twin: {}; {}.{}"
    return Markup(form).format(
        points_interval(worst.difference),
        p_value_text(worst.p_value),
        article.link_to_model(group, twin),
        link_to_compare(group, names, "compare the two image by image"),
        f" Not a matched pair: {pair.remark}." if pair.remark else "",
    )


def show_others(group: Group, row: Row) -> None:
    """Any other model of the table, and the way to the page that compares the two."""
    others = sorted({name for name, other in by_name(group).items() if other is not row})
    others = [name for name in others if name != row.card.name]
    if not others:
        return
    missed = "The address compares with a model that is not in this table."
    placeholder = "Choose a model of the same table"
    name = filters.choice("Compare with", others, _OTHER, missed, placeholder=placeholder)
    if name is not None:
        paragraph(link_to_compare(group, (row.card.name, name), f"Compare with {plain(name, 100)}"))
