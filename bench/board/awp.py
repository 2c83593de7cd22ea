"""Did AWP help: every method over seeds, attack by attack, and beside stronger controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import streamlit as st
from markupsafe import Markup

from bench.board import article, choosing, ranking, records, studies, twins
from bench.board.article import paragraph, small
from bench.notation import ends, points, points_interval, short_label
from bench.stats.contrasts import Answer, Method, rule
from bench.table import WORST_CASE, Group

_METHOD = "compared"  # the method in detail, in the address too
_KEPT = {
    "validation": "Best against best",
    "last": "Last against last",
    None: "Epoch not recorded",
}
_SAID = {
    "validation": "epochs chosen on validation images; the headline.",
    "last": "includes robust overfitting, which AWP also delays.",
    None: "which epoch was kept is not known.",
}


def show() -> None:
    """The page from top to bottom."""
    st.title("Did AWP help?", anchor=False)
    paragraph(
        "A model trained with adversarial weight perturbation (AWP) beside its vanilla twin: the same "
        "data order, start, schedule and seed, measured on the same images. The seed is the unit; "
        "images are never pooled over seeds."
    )
    found = _places_with_pairs()
    if not found:
        paragraph(
            "No table holds a model and its vanilla twin, so nothing can be said yet. A twin is "
            "trained with the same data order, start and schedule, without AWP:"
        )
        st.code("make train-all\nmake evaluate", language="bash")
        studies.show(records.results_root(), records.studies())
        return
    asked = choosing.asked_on_arrival("awp", (*choosing.TABLE_FILTERS, _METHOD))
    place, group = choosing.choose(found, "bench/board/awp.py")
    assert group is not None
    shown = choosing.shown_values(place, group) | {_METHOD: show_group(group)}
    choosing.note_what_is_missed(asked, shown)
    studies.show(records.results_root(), records.studies())


def _places_with_pairs() -> list[choosing.Place]:
    """What can be compared; the tables of a place that hold no pair are left out."""
    found = []
    for place in records.places():
        groups = tuple(g for g in place.groups if records.comparable(g))
        if groups:
            found.append(choosing.Place(place.dataset, place.threat, groups))
    return found


def show_group(group: Group) -> list[str]:
    """All comparisons of one table; returns the names of the methods that can be chosen."""
    pairs, found = records.pairs_of(group), records.answers(group)
    twins_of = [answer for answer in found if answer.control is None]
    if group.demo:
        paragraph(article.DEMO)
    paragraph(Markup("<strong>{}</strong>").format(overall(twins_of)))
    if found:
        small(rule(found))
    _show_forest(found)
    for kept, heading in _KEPT.items():
        mine = [answer for answer in twins_of if _kept(answer) == kept]
        if mine:
            st.header(heading, anchor=False)
            small(f"{heading}: {_SAID[kept]}")
            for answer in mine:
                article.answer(answer)
    if twins_of:
        st.header("Attack by attack", anchor=False)
        show_table(twins_of)
    names = show_chosen(twins_of)
    show_controls(group, [answer for answer in found if answer.control])
    if pairs:
        st.header("Every pair", anchor=False)
        twins.show_pairs(group, pairs)
    small(
        Markup("All models of this table: {}.").format(
            article.link_to_table(group, "the leaderboard")
        )
    )
    return names


def _kept(answer: Answer) -> str | None:
    return answer.method.pairs[0].awp.card.selected_on


def overall(found: Sequence[Answer]) -> str:
    """One sentence over all methods, which also says how often AWP did not help."""
    if not found:
        return (
            "No pair here is matched in everything but the weight perturbation, so no method can be "
            "judged; the pairs are listed below."
        )
    said = []
    for kept, heading in _KEPT.items():
        standings = [
            answer.verdict.standing
            for answer in found
            if _kept(answer) == kept and answer.method.name.endswith("AWP")
        ]
        if len(standings) == 1:
            said.append(f"{heading}, AWP minus its twin: {standings[0]}.")
        elif standings:
            counts = {v: standings.count(v) for v in sorted(set(standings))}
            what = ", ".join(f"{standing} in {count}" for standing, count in counts.items())
            said.append(f"{heading}, AWP minus its twin, {len(standings)} methods: {what}.")
    if not said:
        return "Only random perturbations have twins here; AWP itself cannot be judged."
    return " ".join(said)


def _label(method: Method) -> str:
    """A method among the others of its table: `AT-AWP − AT, best`."""
    kept = {"validation": "best", "last": "last", None: "epoch unknown"}
    return f"{method.name} − {method.baseline}, {kept[method.pairs[0].awp.card.selected_on]}"


def labels(methods: Sequence[Method]) -> list[str]:
    """A label a method, with what tells it from others where two would read the same."""
    alike: dict[str, list[Method]] = defaultdict(list)
    for method in methods:
        alike[_label(method)].append(method)
    found = []
    for method in methods:
        label, others = _label(method), alike[_label(method)]
        if len(others) > 1:
            label += f" ({_what_tells(method, others)})"
        found.append(label)
    return found


def _what_tells(method: Method, others: Sequence[Method]) -> str:
    """The first setting in which all differ, else all settings."""
    for name, fact in method.facts.items():
        if len({other.facts.get(name) for other in others}) == len(others):
            return fact
    return method.settings


def _show_forest(found: Sequence[Answer]) -> None:
    """Everything that was compared on one axis."""
    from bench.board import charts, forests  # plotly is loaded after the text is on the screen

    if not found:
        return
    twins_of = [answer.method for answer in found if answer.control is None]
    of_twins = iter(labels(twins_of))
    lines = [
        forests.Line(
            f"{_label(answer.method)} ({answer.control})" if answer.control else next(of_twins),
            answer.method.differences[WORST_CASE],
            answer.verdict,
            answer.method.seeds_label,
        )
        for answer in found
    ]
    st.plotly_chart(
        forests.overview(lines),
        config=charts.CONFIG,
        alt="Worst case with AWP minus without, every method, mean over seeds with 95 % interval",
    )
    small(
        "Worst case, mean of per-seed paired differences with Student's t interval, 95 %. Blue "
        "diamond: better; orange: worse; filled where six seeds or more say so, open for an "
        "indication. Grey circle: nothing shown. One seed has no interval."
    )


def show_table(found: Sequence[Answer]) -> None:
    """A row a method, a column a measure, each difference with its interval, in points."""
    methods = [answer.method for answer in found]
    measures = {WORST_CASE: "worst case", **methods[0].group.labels}
    columns: dict[str, list[object]] = {
        "method": list(labels(methods)),
        "seeds": [method.seeds for method in methods],
        "verdict": [answer.verdict.standing for answer in found],
    }
    for measure, label in measures.items():
        columns[short_label(label)] = [
            points_interval(method.differences[measure], unit="") for method in methods
        ]
    columns["seeds x images"] = [
        ends(method.bootstrap()) if method.seeds > 1 else "" for method in methods
    ]
    columns["settings"] = [method.settings for method in methods]
    text = st.column_config.TextColumn
    with st.container(key="wide-methods"):
        st.dataframe(
            pa.table(columns),
            column_config={
                "method": text("method", width=210),
                "seeds": st.column_config.NumberColumn("seeds", width=56),
                "verdict": text("verdict", width=130, help="on the worst case"),
                **{short_label(label): text(width=132) for label in measures.values()},
                "seeds x images": text(
                    "seeds x images", width=110, help="worst case, crossed bootstrap, 95 %"
                ),
            },
            hide_index=True,
            height=ranking.table_height(len(methods)),
            alt="Differences of every method under every attack, with intervals over seeds",
        )
    with st.container(key="narrow-methods"):
        article.rows(
            [
                (
                    "",
                    label,
                    points(method.differences[WORST_CASE].estimate),
                    "; ".join(
                        f"{short_label(name)} {points_interval(method.differences[m], unit='')}"
                        for m, name in measures.items()
                    ),
                )
                for label, method in zip(labels(methods), methods, strict=True)
            ],
            "on a wider screen.",
        )
    small(
        "Percentage points, with minus without. Student's t over seeds; for the worst case also the "
        "percentile interval of seeds and images both drawn again."
    )


def show_chosen(found: Sequence[Answer]) -> list[str]:
    """One method in detail: attacks, seeds, gap and training curves."""
    if not found:
        return []
    names = labels([answer.method for answer in found])
    st.header("One method in detail", anchor=False)
    name = st.selectbox("Method", names, key=_METHOD, bind="query-params", width=460)
    chosen = found[names.index(name) if name in names else 0]
    twins.show_method(chosen.method, chosen.verdict)
    return names


def show_controls(group: Group, found: Sequence[Answer]) -> None:
    """AWP beside vanilla models that got as much compute or as many tries."""
    st.header("Stronger controls", anchor=False)
    if not found:
        paragraph(
            "None in this table. AWP costs more passes a step than its twin and was tuned; a control "
            "that gets the same compute, or as many tried settings, is the harder comparison."
        )
        return
    for place, answer in enumerate(found):
        article.answer(answer)
        # One recipe has several controls, of the best and the last epoch: its name is no key.
        twins.show_pairs_table(group, answer.method.pairs, key=f"-control-{place}")


show()
