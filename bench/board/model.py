"""The model page: finds a model, of ours or a published one, and says where it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import streamlit as st
from markupsafe import Markup

from bench.board import article, filters, measurement, provenance, published_model, records
from bench.board.article import link_to_name, paragraph, small
from bench.catalogue import nearest
from bench.notation import percent, plain
from bench.published import MARK, PublishedRow
from bench.records.card_text import method_text
from bench.records.entry import Entry
from bench.table import Group, Leaderboard, Row

_NAME = "name"  # of the model, in the address too
_MISSED = "name that no model has"  # in the session: the address forgets it, the page may not
_NEWEST, _TOP, _NEAR = 8, 3, 5  # how many are offered


def show() -> None:
    """The page from top to bottom."""
    board, published = records.leaderboard(), records.published().rows
    ours = {record.name for record in (*board.collection.records, *board.collection.failed)}
    theirs = {row.name for row in published}
    if not ours and not theirs:
        st.title("Model", anchor=False)
        article.no_records(board)
        return
    heading = st.container()
    finding = st.container(horizontal=True, vertical_alignment="bottom")
    with finding:
        name = _found(ours | theirs)
    with heading:
        article.title(name or "Model")
    if name is None:
        article.alone("What is near", show_nearest, ours | theirs)
        article.alone("The choice of models", show_offers, board, published)
    elif name in ours and not (name in theirs and published_model.asked()):
        with finding:
            mine = _chosen(_measurements(board, name))
        if name in theirs:
            small(Markup("Somebody else's model has this name too: {}.").format(
                link_to_name(name, f"its numbers, {MARK}", elsewhere=True)
            ))  # fmt: skip
        if mine is None:
            st.info("This model is in no table: its records failed or were withdrawn.")
        else:
            article.alone("This measurement", measurement.show, *mine)
        article.alone("The history", provenance.show_history, board, name)
    else:
        rows = [row for row in published if row.name == name]
        article.alone("This model", published_model.show, board, name, rows, name in ours)


def _found(names: Iterable[str]) -> str | None:
    """The name in the address, or found by a visitor as it is typed; None where there is none."""
    asked = st.query_params.get(_NAME)
    name = st.selectbox(
        "Find a model",
        sorted(names),
        index=None,
        key=_NAME,
        bind="query-params",
        placeholder="Type a name: ours, or a published one",
        on_change=published_model.forget,
        width=460,
    )
    if name is not None:
        st.session_state.pop(_MISSED, None)
    elif asked:
        st.session_state[_MISSED] = asked
    return name


# ---------------------------------------------------------------- one of ours


def _measurements(board: Leaderboard, name: str) -> dict[str, tuple[Group, Row]]:
    """How an address calls a measurement -> its row; the first is shown where it calls none.

    Of several rows of the name in one table, the one that is known is what links to the name mean. A
    security curve is no table that anybody looks for: it comes last.
    """
    mine = [
        (article.measurement_label(group), group, row)
        for group in board.groups
        if any(member.record.name == name for member in group.members)  # the others stay unranked
        for row in group.rows
        if row.record.name == name
    ]
    mine.sort(key=lambda each: (each[1].protocol.name == measurement.CURVE, not each[2].known))
    all_of = Counter(label for label, _, _ in mine)
    known_of = Counter(label for label, _, row in mine if row.known)

    def clear(label: str, row: Row) -> bool:
        return all_of[label] == 1 or (row.known and known_of[label] == 1)

    return {
        label if clear(label, row) else f"{label} record={row.record.id}": (group, row)
        for label, group, row in mine
    }


def _chosen(mine: dict[str, tuple[Group, Row]]) -> tuple[Group, Row] | None:
    """The measurement of the address, else the first; a box only where there are several."""
    missed = "This model has no such measurement; showing another one."
    if len(mine) > 1:
        label = filters.choice("Measurement", list(mine), "measurement", missed)
        return mine[label if label in mine else next(iter(mine))]
    if st.query_params.get("measurement", "") not in {"", *mine}:
        st.info(missed)
    return next(iter(mine.values()), None)


# ---------------------------------------------------------------- none yet


def show_nearest(names: Iterable[str]) -> None:
    """What the address may have meant by a name that nothing has."""
    missed = st.session_state.get(_MISSED)
    if missed is None:
        return
    folded = {name.casefold(): name for name in sorted(names)}
    near = [folded[each] for each in nearest(missed.casefold(), folded, n=_NEAR, cutoff=0.5)]
    st.info("The address asks for a model that is not here.")
    if near:
        links = Markup(", ").join(link_to_name(name) for name in near)
        paragraph(Markup("Nearest to {}: {}.").format(article.code(plain(missed, 100)), links))


def show_offers(board: Leaderboard, published: Sequence[PublishedRow]) -> None:
    """The best of every table and the newest records, as links."""
    places = filters.places()
    if board.groups:
        st.header("Highest", anchor=False)
        article.lines(("table", "highest of a method, worst case, %"), _highest(places))
        st.header("Newest", anchor=False)
        lines = [
            (plain(entry.created[:10]), _linked(group, entry), _where(group))
            for group, entry in _newest(board.groups)
        ]
        article.lines(("measured", "model, worst case, %", "table"), lines)
    if published:
        st.header("Published elsewhere", anchor=False)
        small(f"{MARK.capitalize()}.")
        article.lines(("data set, threat", "under", "highest, %"), _highest_published(places))


def _newest(groups: Iterable[Group]) -> list[tuple[Group, Entry]]:
    """The newest measurement of each of the models that were measured last."""
    found = [
        (group, member.record)
        for group in groups
        if group.protocol.name != measurement.CURVE
        for member in group.members
    ]
    found.sort(key=lambda each: each[1].created, reverse=True)
    newest: dict[str, tuple[Group, Entry]] = {}
    for group, entry in found:
        newest.setdefault(entry.name, (group, entry))
        if len(newest) == _NEWEST:
            break
    return list(newest.values())


def _highest(places: Iterable[filters.Place]) -> list[tuple[object, ...]]:
    """A line a table, in the order of the landing page; its members need not be ranked for it."""
    lines: list[tuple[object, ...]] = []
    for place in places:
        for group in place.groups:
            entries = [m.record for m in group.members if not m.doubts]
            entries.sort(key=lambda entry: (-entry.worst_case_count, entry.name))
            best: dict[str, Entry] = {}
            for entry in entries:
                best.setdefault(method_text(entry.card), entry)
            top = Markup(", ").join(_linked(group, entry) for entry in [*best.values()][:_TOP])
            if top and group.protocol.name != measurement.CURVE:
                lines.append((article.link_to_table(group, _where(group)), top))
    return lines


def _highest_published(places: Iterable[filters.Place]) -> list[tuple[object, ...]]:
    """A line a data set and threat, under the first attack of its rows, mostly AutoAttack."""
    lines: list[tuple[object, ...]] = []
    for place in places:
        if place.published:
            attack = place.published[0].attack
            named = {row.name: row for row in place.published[::-1] if row.attack == attack}
            best = sorted(named.values(), key=lambda row: (-row.standing, row.name))[:_TOP]
            top = (
                Markup("{} {}").format(link_to_name(row.name, elsewhere=True), row.standing)
                for row in best
            )
            where = f"{place.dataset}, {place.threat}"
            lines.append((where, plain(attack, 40), Markup(", ").join(top)))
    return lines


def _where(group: Group) -> str:
    demo = "demo: " if group.demo else ""
    return f"{demo}{group.dataset}, {group.threat}, {group.protocol_label}, n = {group.n:,}"


def _linked(group: Group, entry: Entry) -> Markup:
    rate = percent(entry.worst_case_count / group.n, group.n)
    label = article.measurement_label(group)
    return Markup("{} {}").format(link_to_name(entry.name, measurement=label), rate)


show()
