"""Two or more methods or networks of one table side by side, and the images that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import streamlit as st
from markupsafe import Markup

from bench import catalogue
from bench.board import article, gallery, pictures, records
from bench.board.article import paragraph, small
from bench.notation import (
    p_value_text,
    percent,
    percent_interval,
    plain,
    points_interval,
    short_label,
)
from bench.records.card_text import awp_text
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.contrasts import Answer, by_name
from bench.stats.method_rows import MethodRow, method_table
from bench.stats.verdicts import seeds_text
from bench.stats.versus import Versus, separated, versus
from bench.table import WORST_CASE, Group, Row

_TABLE, _ROW = "measurement", "row"  # in the address
_OTHER_WORDS = ("model", "method")  # what an address may call a row too
_MOST = 6  # rows side by side
_NEAR = 0.5  # how alike a name must be to be suggested
_PICTURES = 12  # of the images that one alone withstands
_SMALL = 2_000  # images up to which all evidence of a record is opened for a few of them
# How a network was trained -> its class in the style sheet, and its shape.
_MARKS = {
    "yes": ("awp", "◆"),
    "no": ("vanilla", "○"),
    "random": ("random", "▲"),
    "unknown": ("unknown", "■"),
}


def show() -> None:
    """The page from top to bottom."""
    st.title("Compare", anchor=False)
    board = records.leaderboard()
    tables = records.once("tables to compare", lambda: _tables(board.groups))
    if not tables:
        paragraph("No table holds two models, so there is nothing to compare yet.")
        article.no_records(board)
        return
    wanted = _asked()
    label = st.selectbox("Table", list(tables), key=_TABLE, bind="query-params")
    group = tables[label if label in tables else next(iter(tables))]
    _say_unknown("table", wanted.get(_TABLE, []), tables)
    rows = records.once_of(group, "rows to compare", lambda: _rows(group))
    chosen = st.multiselect(
        "Methods, or single networks",
        list(rows),
        default=_telling(rows),
        key=_ROW,
        bind="query-params",
        max_selections=_MOST,
        placeholder="Choose two or more",
    )
    _say_unknown("row of this table", wanted.get(_ROW, []), rows)
    if group.demo:
        paragraph(article.DEMO)
    sides = [rows[name] for name in chosen if name in rows]
    if len(sides) < 2:
        paragraph("Choose two or more rows of one table.")
        return
    show_rates(group, sides)
    show_pairs(group, sides)
    table = article.link_to_table(group, "All rows of this table")
    small(Markup("{}: {}.").format(table, group.heading))


def _tables(groups: Sequence[Group]) -> dict[str, Group]:
    """How an address names a table of two models at least -> the table; what says most comes first."""

    def order(group: Group) -> tuple[bool, int, int, int]:
        attacks = sum(len(column.attacks) for column in group.columns)
        return group.demo, -attacks, -group.n, -len(group.members)

    found = sorted((group for group in groups if len(group.members) > 1), key=order)
    return {article.measurement_label(group): group for group in found}


def _asked() -> dict[str, list[str]]:
    """What the address that opened the page asks for, its rows under one word; empty later."""
    params = st.query_params
    if any(word in params for word in _OTHER_WORDS):
        names = [name for word in (_ROW, *_OTHER_WORDS) for name in params.get_all(word)]
        for word in _OTHER_WORDS:
            params.pop(word, None)
        st.session_state[_ROW] = list(dict.fromkeys(names))[:_MOST]
        return {_TABLE: params.get_all(_TABLE), _ROW: names}
    return {word: params.get_all(word) for word in (_TABLE, _ROW)}


def _say_unknown(kind: str, asked: Sequence[str], known: Mapping[str, object]) -> None:
    for name in dict.fromkeys(asked):
        if name not in known:
            near = catalogue.nearest(name, known, cutoff=_NEAR)
            hint = f" The nearest is {near[0]}." if near else ""
            paragraph(f"No {kind} is called {plain(name, 100)}.{hint}", "board-missed")


# ---------------------------------------------------------------- what can be compared


def _rows(group: Group) -> dict[str, MethodRow]:
    """What can be named in a table: its methods in their order, then every network alone."""
    table = method_table(group, records.answers(group), records.pairs_of(group))
    meant = by_name(group)
    alone = {
        row.card.name: MethodRow(group, row.card.name, (row,), (), row.rank, row.rank_range)
        for row in group.rows
        if meant[row.card.name] is row
    }
    return {row.name: row for row in table.rows} | alone


def _telling(rows: Mapping[str, MethodRow]) -> list[str]:
    """The best, the best that has a twin, and the twin; else the first two."""
    ranked = [row for row in rows.values() if row.rank is not None]
    for row in ranked:
        twin = _twin(row, rows.values())
        if twin is not None:
            return list(dict.fromkeys((ranked[0].name, row.name, twin.name)))
    return list(rows)[:2]


def _twin(row: MethodRow, rows: Iterable[MethodRow]) -> MethodRow | None:
    """The row of the vanilla networks that a row is compared with in its table."""
    if row.against is None:
        return None
    pairs = row.against.method.pairs if isinstance(row.against, Answer) else (row.against,)
    vanilla = {id(pair.vanilla) for pair in pairs}
    return next((other for other in rows if vanilla == set(map(id, other.rows))), None)


# ---------------------------------------------------------------- the numbers


def show_rates(group: Group, sides: Sequence[MethodRow]) -> None:
    """A row a measure, worst case first, a column a method or network."""
    form = '<th scope="col"><i class="board-mark {0}">{1}</i> {2}<small>{3}</small></th>'
    head = article.each(form, map(partial(_heading, group), sides))
    cell = "<td><b>{}</b> <small>{}</small></td>"
    lines = [
        (label, article.each(cell, (_rate(side, measure, group.n) for side in sides)))
        for measure, label in _measures(group).items()
    ]
    body = article.each('<tr><th scope="row">{}</th>{}</tr>', lines)
    caption = f"Share of {group.n:,} images still right, in percent, with 95 % intervals"
    table = (
        '<div class="board-scroll"><table class="board-compare"><caption>{}</caption>'
        '<thead><tr><th scope="col">withstands</th>{}</tr></thead><tbody>{}</tbody></table></div>'
    )
    st.html(Markup(table).format(caption, head, body))


def _measures(group: Group) -> dict[str, str]:
    """Measure -> its name: worst case, clean, every column."""
    labels = {measure: short_label(label) for measure, label in group.labels.items()}
    return {WORST_CASE: "worst case", **labels}


def _heading(group: Group, side: MethodRow) -> tuple[object, ...]:
    kind = awp_text(side.card)
    said = "one network" if side.alone else f"mean of {seeds_text(side.seeds)}"
    rank = f"rank {side.range_text}" if side.rank is not None else side.unranked
    name = article.link_to_model(group, side.rows[0])
    if not side.alone:
        name = Markup('{} <span class="board-small">({})</span>').format(side.name, name)
    return (*_MARKS[kind], name, f"{said}; {rank}")


def _rate(side: MethodRow, measure: str, n: int) -> tuple[str, str]:
    rate = side.rate(measure)
    return percent(rate.estimate, n), percent_interval(rate, n)


def show_pairs(group: Group, sides: Sequence[MethodRow]) -> None:
    """The first beside each of the others: how far apart, how sure, and which images."""
    found = []
    for other in sides[1:]:
        try:
            found.append(versus(sides[0], other))
        except InvalidInput as error:
            paragraph(f"{error}.")
    for one, apart in zip(found, separated(found), strict=True):
        heading = Markup('<h2 class="board-versus">{} beside {}</h2>')
        st.html(heading.format(plain(one.a.name, 80), plain(one.b.name, 80)))
        article.alone("This pair", show_pair, group, one, apart, len(found))
        article.alone("The images of this pair", show_images, one)


def show_pair(group: Group, one: Versus, apart: bool, family: int) -> None:
    """A sentence on the worst case, then every measure with what stands of both."""
    answer = one.answer(records.answers(group))
    over = f"over the {one.seeds} seeds of both" if one.over_seeds else f"on {group.n:,} images"
    how = f"Holm over {family} pairs" if family > 1 else "as one comparison"
    verdict = ""
    if answer is not None:
        method = answer.method
        verdict = (
            f" The verdict of this table, {method.name} minus {method.baseline}: "
            f"{answer.verdict.words}."
        )
    form = '<p class="board-verdict {}">Worst case {}: {}, p {}. <strong>{}</strong> ({}).{}</p>'
    said = (points_interval(one.difference()), p_value_text(one.p_value()))
    words = "Separated" if apart else "Not separated"
    st.html(Markup(form).format(_way(one, apart, answer), over, *said, words, how, verdict))
    form = '<tr><th scope="row">{}</th>' + 6 * "<td>{}</td>" + "</tr>"
    count = "{:,.1f}" if one.over_seeds else "{:,.0f}"
    lines = [
        (
            label,
            points_interval(one.difference(measure), ""),
            p_value_text(one.p_value(measure)),
            *(count.format(images) for images in one.outcomes(measure)),
        )
        for measure, label in _measures(group).items()
    ]
    unit = "images, mean over seeds" if one.over_seeds else "images"
    test = "Student's t over seeds" if one.over_seeds else "Tango's interval, exact McNemar p"
    table = (
        '<div class="board-scroll"><table class="board-compare"><caption>{}</caption><thead><tr>'
        '<th scope="col">measure</th><th scope="col">difference, points</th><th scope="col">p</th>'
        '<th scope="col">both stand</th><th scope="col">only {}</th><th scope="col">only {}</th>'
        '<th scope="col">neither</th></tr></thead><tbody>{}</tbody></table></div>'
    )
    caption = f"First minus second, 95 %: {test}; p of each line alone. Counts: {unit}."
    names = (plain(side.name, 40) for side in (one.a, one.b))
    st.html(Markup(table).format(caption, *names, article.each(form, lines)))


def _way(one: Versus, apart: bool, answer: Answer | None) -> str:
    """The class that colours a pair: by its verdict, where the table has one."""
    if answer is not None:
        turned = any(pair.vanilla is row for pair in answer.method.pairs for row, _ in one.pairs)
        sign = -answer.verdict.sign if turned else answer.verdict.sign
        way = {1: "better", -1: "worse"}.get(sign, "open")
        return way if answer.verdict.headline or not sign else f"{way} indication"
    if one.over_seeds or not apart:
        return "open"
    return "better" if one.difference().estimate > 0 else "worse"


# ---------------------------------------------------------------- the images


def show_images(one: Versus) -> None:
    """The images that one of the two withstands and the other does not, some of each."""
    for mine, other, places in zip((one.a, one.b), (one.b, one.a), one.only(), strict=True):
        every = " with every seed, and the other with none" if one.over_seeds else ""
        count = f"{len(places):,} image{'' if len(places) == 1 else 's'}"
        heading = Markup('<h3 class="board-versus">Only {} withstands{}: {}</h3>')
        st.html(heading.format(plain(mine.name, 80), every, count))
        if len(places):
            side = 1 if other is one.b else 0
            _show_some([pair[side] for pair in one.pairs], places[:_PICTURES].tolist())


def _show_some(fooled: Sequence[Row], places: Sequence[int]) -> None:
    """Images with their labels and what the networks that fell (one a seed) took them for."""
    whole = [row.record.whole for row in fooled]
    record, path = whole[0], fooled[0].path
    names = article.class_names(record)
    answers = [_answers(each) for each in whole]
    words = []
    for place in places:
        (taken, _), *_ = Counter(int(each[place]) for each in answers).most_common(1)
        words.append(
            (f"image {place:,}: {names[record.label_array[place]]}", f"taken for {names[taken]}")
        )
    clean, kept = gallery.clean_images(record), _adversarial(record, path, places)
    if clean is None and len(kept) < len(places):
        small("; ".join(f"{what}, {answer}" for what, answer in words) + ".")
        small("The images of this data set are not part of the page.")
        return
    shown = [kept[place] if place in kept else clean[place] for place in places]
    st.html(pictures.strip((p, *said) for p, said in zip(shown, words, strict=True)))
    small(
        f"{'Adversarial images' if kept else 'Clean images'}"
        f"{', or the clean one where none is kept' if kept and len(kept) < len(places) else ''}. "
        f"Numbers count from 0 in {plain(record.split, 60)}."
    )


def _answers(record: EvaluationRecord) -> np.ndarray:
    """(n,) int64: what a network answered in the end, under the last column that broke an image."""
    answers = record.clean_prediction_array
    for column in record.columns:
        broken = record.adversarial_predictions(column)
        answers = np.where(broken >= 0, broken, answers)
    return answers


def _adversarial(
    record: EvaluationRecord, path: Path, places: Sequence[int]
) -> dict[int, np.ndarray]:
    """Place -> the adversarial image (C, H, W) of the last column that keeps one beside the record."""
    evidence, found = path.with_suffix(".evidence.npz"), {}
    if record.n > _SMALL or not evidence.exists():
        return found
    for column in reversed(record.columns):
        examples = gallery.read_examples(evidence, column, record, most=record.n)
        for example in examples if isinstance(examples, list) else ():
            if example.index in places and example.adversarial is not None:
                found.setdefault(example.index, example.adversarial)
    return found


show()
