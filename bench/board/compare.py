"""Two or more methods or networks of one table side by side, and the images that tell them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup

from bench import catalogue
from bench.board import article, filters, palette, pictures, records
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
from bench.schema import InvalidInput
from bench.stats.contrasts import Answer, by_name
from bench.stats.method_rows import MethodRow, settings_text
from bench.stats.verdicts import seeds_text
from bench.stats.versus import Versus, network, separated, twins, versus
from bench.table import WORST_CASE, Group

_TABLE, _ROW = "measurement", "row"  # in the address
_OTHER_WORDS = ("model", "method")  # what an address may call a row too
_MOST = 6  # rows side by side
_NEAR = 0.6  # how alike a name must be to be suggested


def show() -> None:
    """The page from top to bottom."""
    st.title("Compare", anchor=False)
    board = records.leaderboard()
    tables = records.once("tables to compare", lambda: _tables(board.groups))
    if not tables:
        paragraph("No table holds two models, so there is nothing to compare yet.")
        if not board.groups:
            article.no_records(board)
        return
    asked_tables, asked_rows = _asked()
    label = st.selectbox("Table", list(tables), key=_TABLE, bind="query-params")
    group = tables[label if label in tables else next(iter(tables))]
    _say_missed(tables, asked_tables)
    rows = records.once_of(group, "rows to compare", lambda: _rows(group))
    if not set(st.session_state.get(_ROW, ())) <= set(rows):  # of the table chosen before
        del st.session_state[_ROW]
    chosen = st.multiselect(
        "Methods, or single networks",
        list(rows),
        default=_telling(rows),
        key=_ROW,
        bind="query-params",
        max_selections=_MOST,
        placeholder="Choose two or more",
    )
    _say_strange(tables, rows, asked_rows)
    left_out = [name for name in dict.fromkeys(asked_rows) if name in rows and name not in chosen]
    if left_out:
        small(f"At most {_MOST} rows stand side by side; left out: {', '.join(left_out)}.")
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
    found = [group for group in groups if len(group.members) > 1]
    found.sort(key=lambda group: (group.demo, filters.says_less(group)))
    return {article.measurement_label(group): group for group in found}


def _asked() -> tuple[list[str], list[str]]:
    """The tables and the rows that the address asks for, the rows under one word."""
    params = st.query_params
    tables = params.get_all(_TABLE)
    rows = [name for word in (_ROW, *_OTHER_WORDS) for name in params.get_all(word)]
    if any(word in params for word in _OTHER_WORDS):
        one_word = {_ROW: rows[:_MOST]} | ({_TABLE: tables[0]} if tables else {})
        st.switch_page(Path(__file__), query_params=one_word)
    return tables, rows


def _say_missed(tables: Mapping[str, Group], asked: Sequence[str]) -> None:
    """A sentence a table that the address asks for and that is not here."""
    for name in asked:
        if name not in tables:
            paragraph(f"No table is called {plain(name, 100)}.{_nearest(name, tables)}")


def _say_strange(
    tables: Mapping[str, Group], rows: Mapping[str, MethodRow], asked: Sequence[str]
) -> None:
    """A sentence a row that the address asks for and that this table does not have."""
    for name in dict.fromkeys(asked):
        if name in rows:
            continue
        for label, group in tables.items():
            if any(member.record.name == name for member in group.members):
                address = urlencode({_TABLE: label, _ROW: name})
                form = '{} is not in this table but in <a href="compare?{}" target="_self">{}</a>.'
                paragraph(Markup(form).format(plain(name, 100), address, label))
                break
        else:
            paragraph(f"Nothing here is called {plain(name, 100)}.{_nearest(name, rows)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = catalogue.nearest(name, known, cutoff=_NEAR)
    return f" The nearest is {near[0]}." if near else ""


# ---------------------------------------------------------------- what can be compared


def _rows(group: Group) -> dict[str, MethodRow]:
    """What can be named in a table: its methods in their order, then every network alone."""
    meant = by_name(group)
    alone = {
        row.card.name: network(group, row) for row in group.rows if meant[row.card.name] is row
    }
    return {row.name: row for row in records.methods(group).rows} | alone


def _telling(rows: Mapping[str, MethodRow]) -> list[str]:
    """The best, the best that has a twin, and the twin; else the first two."""
    listed = [row for row in rows.values() if row.rank is not None]
    for vanilla, place in sorted(twins(listed), key=lambda pair: pair[1]):
        names = (listed[0].name, listed[place].name, listed[vanilla].name)
        return list(dict.fromkeys(names))
    return list(rows)[:2]


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
    table = (
        '<div class="board-scroll" role="group" tabindex="0">'
        '<table class="board-compare"><thead><tr>'
        '<th scope="col">% of {:,} images</th>{}</tr></thead><tbody>{}</tbody></table></div>'
    )
    st.html(Markup(table).format(group.n, head, body))


def _measures(group: Group) -> dict[str, str]:
    """Measure -> its name: worst case, clean, every column."""
    labels = {measure: short_label(label) for measure, label in group.labels.items()}
    return {WORST_CASE: "worst case", **labels}


def _heading(group: Group, side: MethodRow) -> tuple[object, ...]:
    kind = awp_text(side.card)
    said = "one network" if side.alone else f"mean of {seeds_text(side.seeds)}"
    rank = f"rank {side.range_text}" if side.rank is not None else side.unranked
    asked = urlencode(article.model_address(group, side.rows[0]))
    form = '<a href="model?{}" target="_self" title="{}">{}</a>'
    name = Markup(form).format(asked, settings_text(side.card), side.name)
    return (*palette.TRAINED[kind], name, f"{said}; {rank}")


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
        article.alone("This pair", show_pair, group, one, apart, len(found))
        article.alone("The images of this pair", pictures.show_telling, one)


def show_pair(group: Group, one: Versus, apart: bool, family: int) -> None:
    """A sentence on the worst case, then every measure with what stands of both."""
    answer = one.answer(records.answers(group))
    way = _way(one, apart, answer)
    over = f"over the {one.seeds} seeds of both" if one.over_seeds else f"on {group.n:,} images"
    verdict = ""
    if answer is not None:
        names = f"{answer.method.name} minus {answer.method.baseline}"
        verdict = f" The verdict of this table, {names}: {answer.verdict.words}."
    form = (
        '<h2 class="board-versus">{} minus {}</h2><p class="board-verdict {}">Worst case {}: {}, '
        "p {}. <strong>{}</strong> ({}).{}</p>"
    )
    said = Markup(form).format(
        plain(one.a.name, 80),
        plain(one.b.name, 80),
        way,
        over,
        points_interval(one.difference()),
        p_value_text(one.p_value()),
        "Separated" if apart else "Not separated",
        f"at 5 %, Holm over {family} pairs" if family > 1 else "at 5 %, as one comparison",
        verdict,
    )
    st.html(said + _measured(group, one, way))


def _measured(group: Group, one: Versus, way: str) -> Markup:
    """A row a measure: the difference with its interval and p, and the four outcomes."""
    found = {measure: one.difference(measure) for measure in _measures(group)}
    reach = max(max(abs(each.low), abs(each.high)) for each in found.values())
    count = "{:,.1f}" if one.over_seeds else "{:,.0f}"
    lines = [
        (
            label,
            article.around_zero(found[measure], reach, way if measure == WORST_CASE else "open"),
            points_interval(found[measure], ""),
            p_value_text(one.p_value(measure)),
            *(count.format(images) for images in one.outcomes(measure)),
        )
        for measure, label in _measures(group).items()
    ]
    form = '<tr><th scope="row">{}</th><td>{}{}</td>' + 5 * "<td>{}</td>" + "</tr>"
    unit = "images, mean over seeds" if one.over_seeds else "images"
    test = "Student's t over seeds" if one.over_seeds else "Tango's interval, exact McNemar p"
    table = (
        '<div class="board-scroll" role="group" tabindex="0">'
        '<table class="board-compare"><thead><tr>'
        '<th scope="col">measure</th><th scope="col">difference, points</th><th scope="col">p</th>'
        '<th scope="col">both stand</th><th scope="col">only {}</th><th scope="col">only {}</th>'
        '<th scope="col">neither</th></tr></thead><tbody>{}</tbody></table></div>'
        '<p class="board-p board-small">95 %: {}; p of each line alone. Counts: {}.</p>'
    )
    names = (plain(side.name, 40) for side in (one.a, one.b))
    return Markup(table).format(*names, article.each(form, lines), test, unit)


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


show()
