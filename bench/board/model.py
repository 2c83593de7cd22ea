"""The model page: what one model withstood, how it was made, and how to check it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup, escape

from bench.board import article, filters, gallery, records, tables, training
from bench.board.article import code, link, paragraph, small
from bench.exports.details import Fact, attacked, facts, flags
from bench.exports.papers import bibtex_of_model
from bench.notation import (
    ends,
    harmless,
    p_value_text,
    percent,
    percent_interval,
    plain,
    points,
    points_interval,
    short_label,
)
from bench.records.card_text import images_text, marked, method_text, threat_text, trained_on
from bench.records.entry import Entry, cost_texts, passes_a_standing_image
from bench.records.reproduce import reproduce
from bench.reliability import figures
from bench.reliability.figures import Stated
from bench.reliability.flags import reading
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.audit import sentence
from bench.stats.contrasts import by_name
from bench.stats.intervals import compare_paired
from bench.table import CLEAN, WORST_CASE, Group, Leaderboard, Row

_OTHER = "versus"  # the other model, in the address too
_MOST_CLASSES = 20  # a hundred intervals of ten images each say nothing


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
    name = filters.choice("Model", sorted(named), "name", missed, placeholder="Choose a model")
    with heading:
        article.title(name or "Model")
    if name is None:
        paragraph("Choose a model to see what it withstood and how it was made.")
        return
    mine = _measurements(board, name)
    if mine:
        missed = "This model has no such measurement; showing another one."
        label = filters.choice("Measurement", list(mine), "measurement", missed)
        shown = mine[label if label in mine else next(iter(mine))]
        article.alone("This measurement", show_measurement, *shown)
    else:
        st.info("This model is in no table: its records failed or were withdrawn.")
    article.alone("The history", show_history, board, name)


def _measurements(board: Leaderboard, name: str) -> dict[str, tuple[Group, Row]]:
    """How an address calls a measurement -> its row; the first is shown where it calls none.

    Of several rows of the name in one table, the one that is known is what links to the name mean.
    """
    mine = [
        (article.measurement_label(group), group, row)
        for group in board.groups
        if any(member.record.name == name for member in group.members)  # the others stay unranked
        for row in group.rows
        if row.record.name == name
    ]
    mine.sort(key=lambda each: not each[2].known)
    all_of = Counter(label for label, _, _ in mine)
    known_of = Counter(label for label, _, row in mine if row.known)

    def clear(label: str, row: Row) -> bool:
        return all_of[label] == 1 or (row.known and known_of[label] == 1)

    return {
        label if clear(label, row) else f"{label} record={row.record.id}": (group, row)
        for label, group, row in mine
    }


def show_measurement(group: Group, row: Row) -> None:
    """Everything about one row of one table."""
    try:
        record = row.record.whole
    except InvalidInput:  # its file went since the folder was looked at
        st.info("The record of this measurement is gone. The page shows what is left in a moment.")
        return
    alone = article.alone
    alone("The summary", show_summary, group, row)
    alone("The flags", show_flags, record)
    alone("What others state", show_stated, row)
    alone("What stood after each attack", show_attacks, group, row, record)
    column = alone("The classes", show_classes, group, record)
    if column is not None:
        alone("The adversarial images", gallery.show, record, row.path, column)
    alone("The comparison with its twin", show_twin, group, row)
    alone("The comparison with another model", show_comparison, group, row)
    alone("What training left", training.show_model, row)
    alone("The card", show_card, record)
    alone("The provenance", show_provenance, record, row)
    alone("The citation", show_citation, group, row)


def show_summary(group: Group, row: Row) -> None:
    """What it is, what it was measured on, and the numbers."""
    card, n = row.card, group.n
    demo = "Demo data. " if group.demo else ""
    trained = ""
    if card.train is not None and trained_on(card) != card.dataset:
        trained = f" on {plain(images_text(card.train), 100)}"
    if card.threat is not None:
        trained += f" against {threat_text(card)}"
    trained = trained and f" trained{trained}"
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
    standing = row.record.worst_case_count
    passes, *cost = cost_texts(row.record.passes, n, standing, row.record.seconds)
    number, unit = passes.split(" ", 1)
    article.numbers(
        {
            "clean": (f"{percent(clean.estimate, n)} %", percent_interval(clean, n)),
            "worst case": (f"{percent(worst.estimate, n)} %", percent_interval(worst, n)),
            "rank": ("none", row.unranked) if row.rank is None else (f"{row.rank} of {ranked}", place),
            "cost": (number, ", ".join((unit, *cost))),
            "images": (f"{n:,}", plain(group.split, 40)),
        }
    )  # fmt: skip


def show_flags(record: EvaluationRecord) -> None:
    """Reasons to doubt the numbers, with what raised them; then what is no such reason any more."""
    st.header("Flags", anchor=False)
    if not reading(record).flags:
        paragraph("None: no check of this model or of this evaluation gave a reason for doubt.")
    if found := flags(record):
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
    if row.record_count > 1:
        best = row.best_known_rate
        small(
            f"Best known, standing under all {row.record_count} records of these weights: "
            f"{percent(best.estimate, group.n)} % ({percent_interval(best, group.n)})."
        )
    for audit in record.audits:
        small(f"Audit: {sentence(audit, group.n)}.")
    if row.seed_range is not None:
        small(f"Over attack seeds, another source of spread than the images: {row.seed_range}.")
    with st.expander("After each attack"):
        article.table(attack_table(group, record), "after each attack")
    curve = charts.security_curve(record)
    if curve is not None:
        st.header("Security curve", anchor=False)
        article.chart(curve, "security curve")


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


def show_classes(group: Group, record: EvaluationRecord) -> str:
    """Which classes fall first, and what they are taken for; returns the column chosen."""
    from bench.board import charts

    st.header("By class", anchor=False)
    names = [column.name for column in group.columns][::-1]  # the strongest is named last
    missed = "The address asks for a column that this table does not have."
    said = {name: short_label(group.labels[name]) for name in names}
    chosen = filters.choice(
        "Answers under", names, "column", missed, said=said.__getitem__, width=220
    )
    column = chosen if chosen in names else names[0]
    classes = record.card.class_count
    if classes <= _MOST_CLASSES:
        article.chart(charts.robust_by_class(record), "classes", group.n // classes)
        confusion, attack = charts.confusion_map(record, column), plain(group.labels[column], 60)
        article.chart(confusion, "confusion", attack, width=680)
    return column


# ---------------------------------------------------------------- beside another model


def show_twin(group: Group, row: Row) -> None:
    """The paired comparison with the vanilla twin, or with the models that name this one."""
    found = [pair for pair in records.pairs_of(group) if row in (pair.awp, pair.vanilla)]
    if not found and row.card.pair is None:
        return
    st.header("Beside its twin", anchor=False)
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
    if found:
        tables.show_pairs(group, found)
        return
    twin = marked(row.card, str(row.card.pair), "pair")
    why = "which is not in this table"
    if any(other.card.name == row.card.pair for other in group.rows):
        why = "but not that AWP was used: nothing is compared"
    paragraph(f"The card names {twin} as its twin, {why}.")


def show_comparison(group: Group, row: Row) -> None:
    """The chosen model beside any other of its table: under every attack, by how much, how sure."""
    meant = by_name(group)
    named = {other.card.name: meant[other.card.name] for other in group.rows}
    others = {name: other for name, other in named.items() if other is not row}
    if not others:
        return
    st.header("Compare with another model", anchor=False)
    missed = "The address compares with a model that is not in this table."
    placeholder = "Choose a model of the same table"
    name = filters.choice("Other model", list(others), _OTHER, missed, placeholder=placeholder)
    if name is None:
        return
    other, labels = others[name], {WORST_CASE: "worst case", **group.labels}
    found = {m: compare_paired(row.standing[m], other.standing[m]) for m in group.measures}
    worst = found[WORST_CASE]
    paragraph(
        Markup("{} minus {}, worst case: {}, p {}: <strong>{}</strong>.").format(
            row.card.name,
            article.link_to_model(group, other),
            points_interval(worst.difference),
            p_value_text(worst.p_value),
            "separated, as one comparison" if worst.p_value < 0.05 else "not separated",
        )
    )
    lines = [
        {
            "measure": short_label(labels[measure]),
            "difference": points(c.difference.estimate),
            "95 % interval": ends(c.difference),
            "p": p_value_text(c.p_value),
            "both stand": c.both,
            "only this": c.only_a,
            "only the other": c.only_b,
            "neither": c.neither,
        }
        for measure, c in found.items()
    ]
    article.table(pa.Table.from_pylist(lines), "two models", row.card.name, name)


# ---------------------------------------------------------------- where it comes from


def show_card(record: EvaluationRecord) -> None:
    """How the model was made."""
    card = record.card
    st.header("Card", anchor=False)
    drawn = _drawn(facts(record)["card"])
    if card.mean is not None and card.std is not None:
        mean, std = (", ".join(f"{v:.6g}" for v in each[:10]) for each in (card.mean, card.std))
        drawn.append(("normalisation", escape(f"mean {mean}; std {std}")))
    article.facts(drawn)
    if card.train is not None:
        with st.expander("Training settings"):
            st.code(card.train.model_dump_json(indent=1), language="json")


def show_citation(group: Group, row: Row) -> None:
    """The model as an entry of a bibliography."""
    st.header("Cite", anchor=False)
    st.code(bibtex_of_model(group, row), language="latex", wrap_lines=True)


def show_provenance(record: EvaluationRecord, row: Row) -> None:
    """What the number rests on, and how to check it."""
    st.header("Provenance", anchor=False)
    paragraph("The same question asked anew:")
    st.code(reproduce(record, row.path), language="bash", wrap_lines=True)
    article.facts(_drawn(facts(record)["provenance"]))
    st.header("Evidence", anchor=False)
    if record.evidence_sha256 is None:
        paragraph("This record names no evidence: its broken images cannot be proved again.")
        return
    there = row.path.with_suffix(".evidence.npz").exists()
    where = "beside the record" if there else "not beside the record; look for it by its sha256"
    paragraph(
        "Every broken image is kept, and proved again with forward passes only. An image that "
        "stood cannot be proved to stand: verify attacks a sample of those again and says what "
        "that shows."
    )
    command = shlex.join(["python", "-m", "bench", "verify", str(row.path)])
    st.code(command, language="bash", wrap_lines=True)
    small(f"The evidence lies {where}.")
    if record.card.file_sha256 is not None:
        small(
            "The weights are not ours to hand on: get the file that the card names, and give it with "
            "--weights FILE."
        )


def _drawn(said: Sequence[Fact]) -> list[tuple[str, Markup]]:
    """Labels, and texts as their kind is shown on a page."""
    how: dict[str, Callable[[str], Markup]] = {"": escape, "code": code, "link": link}
    return [(label, how[kind](text)) for label, text, kind in said]


def show_history(board: Leaderboard, name: str) -> None:
    """Every record of this name: in a table, superseded, withdrawn, failed."""
    collection = board.collection
    in_table = {member.record.id for group in board.groups for member in group.members}
    mine = [r for r in (*collection.records, *collection.failed) if r.name == name]
    mine.sort(key=lambda record: (record.created, record.id), reverse=True)

    def state(record: Entry) -> str:
        if record.place in collection.withdrawn:
            return f"withdrawn: {plain(collection.withdrawn[record.place], 300)}"
        if record.failure is not None:
            return f"failed: {plain(record.failure, 300)}"
        return "in the table" if record.id in in_table else "another record speaks for the model"

    st.header("History", anchor=False)
    lines = [
        {
            "measured": harmless(plain(r.created, 20)),
            "state": state(r),
            "data set": r.dataset,
            "threat": str(r.threat),
            "protocol": r.protocol.name,
            "n": r.n,
            "worst case, %": percent(r.worst_case, r.n) if r.failure is None else "",
            "engine": plain(f"{r.engine} {r.engine_version}", 60),
            "precision": r.precision,
            "seed": r.seed,
            "record": r.id,
        }
        for r in mine
    ]
    article.table(pa.Table.from_pylist(lines), "history")


show()
