"""Did AWP help: every method over seeds, attack by attack, and beside stronger controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article, filters, records, studies, tables, training
from bench.board.article import paragraph, small
from bench.notation import ends, points_interval, short_label
from bench.stats import contrasts
from bench.stats.contrasts import Answer, Method, rule
from bench.table import WORST_CASE, Group

_METHOD = "compared"  # the method in detail, in the address too
# Kept epoch -> its heading, what to know about it, and how a label says it.
_KEPT = {
    "validation": (
        "Best against best", "epochs chosen on validation images; the headline.", "best",
    ),
    "last": (
        "Last against last", "includes robust overfitting, which AWP also delays.", "last",
    ),
    None: ("Epoch not recorded", "which epoch was kept is not known.", "epoch unknown"),
}  # fmt: skip


def show() -> None:
    """The page from top to bottom."""
    st.title("Did AWP help?", anchor=False)
    paragraph(
        "A model trained with adversarial weight perturbation (AWP) beside its vanilla twin: the same "
        "data order, start, schedule and seed, measured on the same images. The seed is the unit; "
        "images are never pooled over seeds."
    )
    found = records.once("places with pairs", places_with_pairs)
    if found:
        chosen = filters.choose(found, "bench/board/awp.py")
        assert chosen.group is not None
        filters.note_what_is_missed(chosen, {_METHOD: show_group(chosen.group)})
    else:
        paragraph(
            "No table holds a model and its vanilla twin, so nothing can be said yet. A twin is "
            "trained with the same data order, start and schedule, without AWP:"
        )
        st.code("make train-all\nmake evaluate", language="bash")
    article.alone("The studies", lambda: studies.show(records.studies()))


def places_with_pairs() -> list[filters.Place]:
    """The tables that hold a model beside its twin or its control; ranks nothing."""
    kept = (
        (place, tuple(filter(contrasts.comparable, place.groups))) for place in filters.places()
    )
    return [replace(place, groups=groups, published=()) for place, groups in kept if groups]


def show_group(group: Group) -> list[str]:
    """All comparisons of one table; returns the names of the methods that can be chosen."""
    pairs, found = records.pairs_of(group), records.answers(group)
    of_twins = [answer for answer in found if answer.control is None]
    methods = [answer.method for answer in of_twins]
    names = labels(methods)
    if group.demo:
        paragraph(article.DEMO)
    paragraph(Markup("<strong>{}</strong>").format(overall(of_twins)))
    if found:
        small(rule(found))
        show_forest(found, names)
    for kept, (heading, said, _) in _KEPT.items():
        mine = [answer for answer in of_twins if _kept(answer.method) == kept]
        if mine:
            st.header(heading, anchor=False)
            small(f"{heading}: {said}")
            article.answers(mine)
    if of_twins:
        st.header("Attack by attack", anchor=False)
        show_table(of_twins, names)
        st.header("One method in detail", anchor=False)
        name = st.selectbox("Method", names, key=_METHOD, bind="query-params", width=460)
        shown = of_twins[names.index(name) if name in names else 0]
        article.alone("This method", show_method, shown)
    controls = [answer for answer in found if answer.control]
    article.alone("The stronger controls", show_controls, group, controls)
    if pairs:
        st.header("Every pair", anchor=False)
        paragraph("AWP minus its vanilla twin on the same images, in percentage points.")
        tables.show_pairs(group, pairs)
    small("All models of this table: " + article.link_to_table(group, "the leaderboard") + ".")
    return names


# ---------------------------------------------------------------- words


def _kept(method: Method) -> str | None:
    return method.kept


def overall(found: Sequence[Answer]) -> str:
    """One sentence over all methods, which also says how often AWP did not help."""
    if not found:
        return (
            "No pair here is matched in everything but the weight perturbation, so no method can be "
            "judged; the pairs are listed below."
        )
    said = []
    for kept, (heading, *_) in _KEPT.items():
        standings = Counter(
            answer.verdict.standing
            for answer in found
            if _kept(answer.method) == kept and answer.method.name.endswith("AWP")
        )
        count = standings.total()
        each = [f"{standing} in {n}" for standing, n in sorted(standings.items())]
        what = f", {count} methods: {', '.join(each)}" if count > 1 else f": {''.join(standings)}"
        if count:
            said.append(f"{heading}, AWP minus its twin{what}.")
    return (
        " ".join(said) or "Only random perturbations have twins here; AWP itself cannot be judged."
    )


def _label(method: Method) -> str:
    """A method among the others of its table: `AT-AWP − AT, best`."""
    return f"{method.name} − {method.baseline}, {_KEPT[_kept(method)][2]}"


def labels(methods: Sequence[Method]) -> list[str]:
    """A label a method; where two would read the same, with the first setting in which all differ."""
    found = []
    for method in methods:
        label = _label(method)
        others = [other.facts for other in methods if _label(other) == label]
        telling = (
            fact
            for name, fact in method.facts.items()
            if len({facts.get(name) for facts in others}) == len(others)
        )
        if len(others) > 1:
            label += f" ({next(telling, method.settings)})"
        found.append(label)
    return found


# ---------------------------------------------------------------- parts of the page


def show_forest(found: Sequence[Answer], names: Sequence[str]) -> None:
    """Everything that was compared on one axis: methods under their names, then controls."""
    from bench.board import charts  # plotly is loaded after the text is on the screen

    controls = (f"{_label(a.method)} ({a.control})" for a in found if a.control)
    lines = [
        charts.ForestLine(
            label, answer.method.differences[WORST_CASE], answer.verdict, answer.method.seeds_label
        )
        for label, answer in zip((*names, *controls), found, strict=True)
    ]
    article.chart(charts.forest(lines, "worst case, points"), "methods")


def show_table(found: Sequence[Answer], names: Sequence[str]) -> None:
    """A row a method, a column a measure, each difference with its interval, in points."""
    methods = [answer.method for answer in found]
    measures = {WORST_CASE: "worst case", **methods[0].group.labels}
    text = st.column_config.TextColumn
    said = {
        short_label(label): [points_interval(m.differences[measure], unit="") for m in methods]
        for measure, label in measures.items()
    }
    data = {
        "method": list(names),
        "seeds": [method.seeds for method in methods],
        "verdict": [answer.verdict.standing for answer in found],
        **said,
        "seeds x images": [ends(m.bootstrap()) if m.seeds > 1 else "" for m in methods],
        "settings": [method.settings for method in methods],
    }
    article.table(
        pa.table(data),
        "every attack",
        columns={
            "method": text("method", width=210),
            "seeds": st.column_config.NumberColumn("seeds", width=56),
            "verdict": text("verdict", width=130, help="on the worst case"),
            **{name: text(width=132) for name in said},
            "seeds x images": text(
                "seeds x images", width=110, help="worst case, crossed bootstrap, 95 %"
            ),
        },
    )


def show_method(answer: Answer) -> None:
    """Attack by attack, every seed a tick, the gap and the training curves of one method."""
    from bench.board import charts

    method = answer.method
    drawn = charts.by_attack(method, answer.verdict)
    article.chart(drawn, "method", method.name, method.baseline)
    training.show_method_gaps(method)
    training.show_method_curves(method)


def show_controls(group: Group, found: Sequence[Answer]) -> None:
    """AWP beside vanilla models that got as much compute or as many tries."""
    st.header("Stronger controls", anchor=False)
    if not found:
        paragraph(
            "None in this table. AWP costs more passes a step than its twin and was tuned; a control "
            "that gets the same compute, or as many tried settings, is the harder comparison."
        )
    for answer in found:
        article.answers([answer])
        tables.show_pairs(group, answer.method.pairs)


if __name__ == "__main__":  # as a page
    show()
