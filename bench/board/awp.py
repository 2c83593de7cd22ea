"""Did AWP help: every comparison of the board on one axis, then one table of it in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlencode

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article, filters, records, studies, tables, training
from bench.board.article import paragraph, small
from bench.board.forest import Line, forest, line_of
from bench.notation import ends, points_interval, short_label
from bench.stats import contrasts
from bench.stats.comparisons import RULE, answer_in_a_sentence, baseline
from bench.stats.contrasts import Answer, Method, rule
from bench.table import WORST_CASE, Group

_METHOD = "compared"  # the method in detail, in the address too
_RANDOM = "Random perturbations instead of AWP"
_MOST = 12  # twins on the first axis; the others are folded
# Kept epoch -> its heading, with what to know about it, and how a label says it.
_KEPT = {
    "validation": ("Best against best: epochs chosen on validation images", "best"),
    "last": ("Last against last: with robust overfitting, which AWP also delays", "last"),
    None: ("Epoch not recorded", "epoch unknown"),
}


def show() -> None:
    """The page from top to bottom."""
    st.title("Did AWP help?", anchor=False)
    article.alone("The comparisons", show_comparisons)
    found = records.once("places with pairs", places_with_pairs)
    if found:
        st.header("One table", anchor=False)
        chosen = filters.choose(found, "bench/board/awp.py")
        assert chosen.group is not None
        names = article.alone("The table", show_group, chosen.group)
        filters.note_what_is_missed(chosen, {_METHOD: names or ()})
    else:
        paragraph("A twin is trained with the same data order, start and schedule, without AWP:")
        st.code("make train-all\nmake evaluate", language="bash")
    article.alone("The studies", lambda: studies.show(records.studies()))


def places_with_pairs() -> list[filters.Place]:
    """The tables that hold a model beside its twin or its control; ranks nothing."""
    kept = (
        (place, tuple(filter(contrasts.comparable, place.groups))) for place in filters.places()
    )
    return [replace(place, groups=groups, published=()) for place, groups in kept if groups]


def show_comparisons() -> None:
    """The answer, and all that it rests on: one line a question, those with most evidence first."""
    found = records.comparisons()
    paragraph(Markup("<strong>{}</strong>").format(answer_in_a_sentence(found)))
    if not found:
        return
    twins = [one for one in found if not (one.random or one.method.control)]
    stronger = [one for one in found if one.method.control and not one.random]
    random = [one for one in found if one.random]
    lines: list[Line | str] = [*map(line_of, twins[:_MOST])]
    if stronger:
        lines += ["Beside stronger baselines", *map(line_of, stronger)]
    folded = {
        f"{len(twins) - _MOST} more": [line_of(one) for one in twins[_MOST:]],
        f"{_RANDOM}: {len(random)}": [line_of(one) for one in random],
    }
    st.html(forest(lines, folded=folded) + _folded("What comes first", RULE))


def show_group(group: Group) -> list[str]:
    """All comparisons of one table; returns the names of the methods that can be chosen."""
    pairs, found = records.pairs_of(group), records.answers(group)
    of_twins = [answer for answer in found if answer.control is None]
    names = labels([answer.method for answer in of_twins])
    if group.demo:
        paragraph(article.DEMO)
    if found:
        st.html(table_of(group, found, names))
        with st.expander("Every verdict in a sentence, and how it came about"):
            small(rule(found))
            article.answers(found)
    else:
        paragraph(
            "No pair here is matched in everything but the weight perturbation, so no method can be "
            "judged; the pairs are listed below."
        )
    if of_twins:
        with st.expander("Attack by attack"):
            article.alone("Attack by attack", show_table, of_twins, names)
        with st.expander("One method in detail", expanded=_METHOD in st.query_params):
            name = st.selectbox("Method", names, key=_METHOD, bind="query-params", width=460)
            shown = of_twins[names.index(name) if name in names else 0]
            article.alone("This method", show_method, shown)
    if pairs or found:
        with st.expander("Every pair of networks"):
            article.alone("The pairs", show_pairs, group, pairs, found)
    small("All models of this table: " + article.link_to_table(group, "the leaderboard") + ".")
    return names


# ---------------------------------------------------------------- words


_HEADS = ("method", "difference, points", "verdict", "seeds")


def _folded(said: str, text: str) -> Markup:
    form = '<details class="board-fold"><summary>{}</summary><p class="board-p">{}</p></details>'
    return Markup(form).format(said, text)


def _label(method: Method) -> str:
    """A method among the others of its table: `AT-AWP − AT, best`."""
    return f"{method.name} − {baseline(method)}, {_KEPT[method.kept][1]}"


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


def table_of(group: Group, found: Sequence[Answer], names: Sequence[str]) -> Markup:
    """Everything that was compared in a table: by the epoch kept, then beside stronger baselines.

    names: of the methods beside their twins, which come first in found; each leads to its details.
    """
    lines: list[Line | str] = []
    random: list[Line] = []
    for kept, (heading, said) in _KEPT.items():
        mine = []
        for answer, name in zip(found, names, strict=False):
            if answer.method.kept != kept:
                continue
            if answer.method.random:
                random.append(_line(answer, _to_details(group, name, name)))
            else:
                text = name.replace(f", {said}", "", 1)
                mine.append(_line(answer, _to_details(group, name, text)))
        lines += [heading, *mine] if mine else []
    controls = sorted(found[len(names) :], key=lambda answer: list(_KEPT).index(answer.method.kept))
    if controls:
        lines.append("Beside stronger baselines")
        lines += [_line(a, _label(a.method)) for a in controls]
    return forest(lines, heads=_HEADS, folded={f"{_RANDOM}: {len(random)}": random})


def _line(answer: Answer, label: str | Markup) -> Line:
    method = answer.method
    return Line(label, method.differences[WORST_CASE], answer.verdict, method.seeds_label)


def _to_details(group: Group, name: str, text: str) -> Markup:
    """A link to this page with one method in detail."""
    asked = urlencode({**article.table_address(group), _METHOD: name})
    return Markup('<a href="did-awp-help?{}" target="_self">{}</a>').format(asked, text)


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


def show_pairs(group: Group, pairs: Sequence[contrasts.Pair], found: Sequence[Answer]) -> None:
    """Network beside network on the same images: twins, then stronger baselines."""
    if pairs:
        paragraph("AWP minus its vanilla twin on the same images, in percentage points.")
        tables.show_pairs(group, pairs)
    controls = [answer for answer in found if answer.control]
    for answer in controls:
        paragraph(f"{_label(answer.method)}.")
        tables.show_pairs(group, answer.method.pairs)
    if not controls:
        small(
            "No stronger baseline in this table. AWP costs more passes a step than its twin and was "
            "tuned; one with the same compute, or as many tried settings, is the harder comparison."
        )


if __name__ == "__main__":  # as a page
    show()
