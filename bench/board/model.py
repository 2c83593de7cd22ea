"""The model page: what one model withstood, how it was made, and how to check it again."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench import catalogue
from bench.board import article, curves, gaps, provenance, records, twins
from bench.board.article import code, paragraph, shown, small
from bench.flag_catalogue import FLAGS, unranking
from bench.notation import p_value_text, percent, percent_interval, plain, points_interval
from bench.schema import EvaluationRecord, ModelCard
from bench.table import CLEAN, WORST_CASE, Group, Row
from bench.training_log import PARTS, held_out, mean_of_last

Place = tuple[Group, Row]


def show() -> None:
    """The page from top to bottom."""
    board = records.leaderboard()
    places = [(group, row) for group in board.groups for row in group.rows]
    named = {record.card.name for record in (*board.collection.records, *board.collection.failed)}
    if not named:
        st.title("Model", anchor=False)
        article.no_records(board)
        return
    name = choose_name(sorted(named))
    if name is None:
        paragraph("Choose a model to see what it withstood and how it was made.")
        return
    mine = [place for place in places if place[1].card.name == name]
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
    card, n = row.card, group.n
    paragraph(summary(group, card))
    clean, worst = row.rates[CLEAN], row.rates[WORST_CASE]
    article.numbers(
        {
            "clean": (f"{percent(clean.estimate, n)} %", percent_interval(clean, n)),
            "worst case": (f"{percent(worst.estimate, n)} %", percent_interval(worst, n)),
            "rank": _rank(group, row),
            "images": (f"{n:,}", plain(group.split, 40)),
        }
    )
    show_attacks(group, row)
    show_classes(group, row)
    show_flags(row.record)
    show_twin(group, row)
    show_training(row)
    provenance.show_card(card)
    provenance.show_provenance(row)


def _rank(group: Group, row: Row) -> tuple[str, str]:
    if row.rank is None:
        return "none", row.unranked
    return f"{row.rank} of {sum(r.rank is not None for r in group.rows)}", "by worst case"


def summary(group: Group, card: ModelCard) -> Markup:
    """One sentence: what it is, and what it was measured on."""
    demo = "Demo data. " if group.demo else ""
    trained = f" trained against {card.threat}" if card.threat is not None else ""
    arch = plain(card.arch or "An unregistered model", 60)
    sentence = (
        f"{demo}{arch}, method {card.method}{trained}; measured on {group.dataset} under "
        f"{group.threat} with the {group.protocol_label} protocol."
    )
    others = article.link_to_table(group, "All models of this table")
    return Markup("{} {}.").format(sentence, others)


def show_attacks(group: Group, row: Row) -> None:
    """Accuracy under every column, and what stood after each attack within it."""
    from bench.board import charts

    st.header("Under attack", anchor=False)
    st.plotly_chart(
        charts.standing_under_attack(row, group.labels),
        config=charts.CONFIG,
        alt="Accuracy, clean and under every column, with 95 % intervals",
    )
    small(
        "Share of all images standing, with Wilson's 95 % interval. Every column starts "
        "from all images that are classified correctly; its attacks run one after another."
    )
    if row.record_count > 1:
        best = row.best_known_rate
        small(
            f"Best known, standing under all {row.record_count} records of these weights: "
            f"{percent(best.estimate, group.n)} % ({percent_interval(best, group.n)})."
        )
    with st.expander("After each attack"):
        st.dataframe(
            _attack_table(group, row.record),
            hide_index=True,
            alt="Images standing after each attack",
        )


def _attack_table(group: Group, record: EvaluationRecord) -> pa.Table:
    steps = [
        (group.labels[column.name], outcome)
        for column in group.columns  # a record's own are in the order of their names
        for outcome in record.columns[column.name].outcomes
    ]
    return pa.table(
        {
            "column": [label for label, _ in steps],
            "attack": [plain(o.spec.name) for _, o in steps],
            "attacked": [o.attacked for _, o in steps],
            "broken": [o.broken for _, o in steps],
            "standing, %": [percent((o.attacked - o.broken) / group.n, group.n) for _, o in steps],
            "largest perturbation": [f"{o.largest_perturbation:.5f}" for _, o in steps],
            "forward passes": [o.forward_passes for _, o in steps],
            "backward passes": [o.backward_passes for _, o in steps],
            "seconds": [round(o.seconds, 1) for _, o in steps],
            "parameters": [plain(o.spec, 300) for _, o in steps],
        }
    )


def show_classes(group: Group, row: Row) -> None:
    """Which classes fall first."""
    if row.card.class_count > 20:
        return  # a hundred intervals of ten images each say nothing
    from bench.board import charts

    st.header("By class", anchor=False)
    info = catalogue.DATASETS.get(group.dataset)
    st.plotly_chart(
        charts.robust_by_class(row.record, info.classes if info is not None else ()),
        config=charts.CONFIG,
        alt="Clean and worst-case accuracy of each class, with 95 % intervals",
    )
    small(f"About {group.n // row.card.class_count:,} images a class, so the intervals are wide.")


def show_flags(record: EvaluationRecord) -> None:
    """Reasons to doubt the numbers, with what raised them."""
    st.header("Flags", anchor=False)
    if not record.flags:
        paragraph("None: no check of this model or of this evaluation gave a reason for doubt.")
        return
    article.bullets(
        Markup("{}: {} {} {}").format(
            code(flag.name),
            shown(flag.message, 500),
            code(", ".join(f"{k} = {v}" for k, v in flag.values.items())) if flag.values else "",
            _remedy(flag.name, unranking(record)),
        )
        for flag in record.flags
    )


def _remedy(name: str, reasons: Sequence[str]) -> str:
    """What the catalogue says to do, and whether this flag keeps the row out of the ranking."""
    if name not in FLAGS:
        return ""
    return f"{'It keeps the row unranked. ' if name in reasons else ''}{FLAGS[name].remedy}"


def show_twin(group: Group, row: Row) -> None:
    """The paired comparison with the vanilla twin, or with the models that name this one."""
    found = [pair for pair in records.compared(group)[0] if row in (pair.awp, pair.vanilla)]
    if not found and row.card.pair is None:
        return
    st.header("Beside its twin", anchor=False)
    if not found:
        paragraph(f"The card names {row.card.pair} as its twin, which is not in this table.")
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
