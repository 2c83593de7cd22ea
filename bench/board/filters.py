"""What a page shows, chosen by the address: data set, threat model, protocol, images; then its rows.

A filter of rows hides rows. It never changes a rank or a rank range: those belong to the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import streamlit as st
from streamlit.errors import StreamlitAPIException

from bench.board import article, records
from bench.catalogue import DATASETS
from bench.notation import plain
from bench.published import NOT_STATED, Published, PublishedRow, beside
from bench.records.card_text import awp_text
from bench.schema import ThreatModel
from bench.table import Group, Row

TABLE = ("dataset", "threat", "protocol", "images")  # also their names in the address
ROWS = {"arch": "Architecture", "method": "Method", "awp": "AWP", "extra": "Extra data"}
PUBLISHED = "published"  # the toggle of published numbers, in the address too
ELSEWHERE = "published elsewhere"  # beside the protocols, in the address too
_LAST_PAGE, _LAST_VIEW = "page of the filters", "view of the filters"  # in the session

Facts = Mapping[str, str]  # filter of rows -> what a row has there
Choice = TypeVar("Choice")


# ---------------------------------------------------------------- which table


@dataclass(frozen=True, eq=False)
class Place:
    """A data set under a threat: our tables there, and the published rows beside them."""

    dataset: str
    threat: ThreatModel
    groups: tuple[Group, ...] = ()
    published: tuple[PublishedRow, ...] = ()

    @property
    def size(self) -> int:
        """Rows of all its tables."""
        return sum(len(group.members) for group in self.groups) + len(self.published)


def places() -> list[Place]:
    """Every data set and threat of which there is something, in the order of the landing page."""
    board, published = records.leaderboard(), records.published()
    return records.once("places", lambda: places_of(board.groups, published))


def places_of(groups: Sequence[Group], published: Published) -> list[Place]:
    """What a page lands on first: a real data set that is measured here, then demo data.

    A table of records that nothing vouches for, where others are known, counts for nothing.
    Of several the one whose fullest table says most, then of which most is published, then in the order
    of the catalogue, where a set of one's own is last; of several threats the one that says more.
    """
    ours = dict.fromkeys((group.dataset, group.threat) for group in groups)
    others = beside(published.rows, ours)
    found = [
        Place(
            *key,
            tuple(group for group in groups if (group.dataset, group.threat) == key),
            tuple(others.get(key, ())),
        )
        for key in dict.fromkeys((*ours, *others))
    ]

    named = list(DATASETS)

    def order(place: Place) -> tuple[object, ...]:
        same = [other for other in found if other.dataset == place.dataset]
        known = named.index(place.dataset) if place.dataset in named else len(named)
        demo = any(group.demo for group in place.groups)
        tables = [
            g for other in same for g in other.groups if not all(m.strange for m in g.members)
        ]
        most = min(map(says_less, tables), default=())
        here = min(map(says_less, place.groups), default=())
        published = sum(len(other.published) for other in same)
        last = (-published, known, not place.groups, here, -place.size)
        return not tables, demo, most, *last

    return sorted(found, key=order)


def says_less(group: Group) -> tuple[bool, bool, int, int, int]:
    """Sorts the table that says most first: rows to compare, attacks, images, seeds, models.

    What nothing vouches for counts for nothing where others are known.
    """
    members = [member for member in group.members if not member.strange]
    seeds = {member.record.card.seed for member in members}
    models = len(members)
    return models < 2, group.gradients_alone, -group.n, -len(seeds), -models


class Chosen(NamedTuple):
    """What the filters ask for, and what the address asked for that opened the page."""

    place: Place
    group: Group | None  # None: nothing is measured here
    asked: Mapping[str, list[str]]  # empty on any later run: changes come from the widgets


def choose(found: Sequence[Place], page: str, *, elsewhere: bool = False) -> Chosen:
    """The place and the table asked for by the filters.

    page is the file of the page. elsewhere: published numbers are a choice beside the protocols, under
    which no group is chosen. A visitor who comes from another one, whose address says nothing, is
    led to the table that was chosen there, if this page has it.
    """
    arrived = f"arrived at {page}"
    first = not st.session_state.get(arrived)
    asked = {name: st.query_params.get_all(name) for name in st.query_params} if first else {}
    st.session_state[arrived] = True
    came = st.session_state.get(_LAST_PAGE) not in (None, page)
    st.session_state[_LAST_PAGE] = page
    if came and not any(key in st.query_params for key in TABLE):
        _carry(found, st.session_state.get(_LAST_VIEW, {}), page)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        left = _narrowed("dataset", "Data set", found, lambda place: place.dataset)
        place = _narrowed("threat", "Threat model", left, lambda place: str(place.threat))[0]
        groups: Sequence[Group | None] = place.groups
        if elsewhere and place.published:
            groups = (*groups, None)
        if groups:
            opens = _protocol(min(place.groups, key=says_less, default=None))
            groups = _narrowed("protocol", "Protocol", groups, _protocol, opens=opens)
        ours = [group for group in groups if group is not None]
        if len(ours) > 1:
            labels = article.image_labels(ours)
            most = labels[min(ours, key=says_less).key]
            ours = _narrowed("images", "Images", ours, lambda g: labels[g.key], opens=most)
    group = ours[0] if ours else None
    st.session_state[_LAST_VIEW] = _view(place, group)
    return Chosen(place, group, asked)


def _carry(found: Sequence[Place], last: Mapping[str, str], page: str) -> None:
    """Starts a page again with as much of the view of another page as this one has."""
    for place in found:
        view = _view(place, None)
        if any(last.get(key) != value for key, value in view.items()):
            continue
        view.pop("protocol", None)
        if last.get("protocol") in {group.protocol_label for group in place.groups}:
            view["protocol"] = last["protocol"]
        try:  # values set in place alone would be missing in the address
            st.switch_page(Path(__file__).with_name(Path(page).name), query_params=view)
        except StreamlitAPIException:  # widgets of the page before still hold these names
            for key, value in view.items():
                st.session_state[key] = value


def _protocol(group: Group | None) -> str:
    return ELSEWHERE if group is None else group.protocol_label


def _narrowed(
    key: str,
    label: str,
    choices: Sequence[Choice],
    of: Callable[[Choice], str],
    *,
    opens: str | None = None,
) -> list[Choice]:
    """The choices under one of their names; opens: the one chosen first."""
    options = list(dict.fromkeys(map(of, choices)))
    first = opens if opens in options else options[0]
    if st.session_state.get(key, first) not in options:  # of the data set chosen before
        del st.session_state[key]
    value = st.pills(label, options, default=first, required=True, key=key, bind="query-params")
    return [choice for choice in choices if of(choice) == value] or list(choices)


def _view(place: Place, group: Group | None) -> dict[str, str]:
    """What an address may say to get this table."""
    view = {"dataset": place.dataset, "threat": str(place.threat)}
    elsewhere = {"protocol": ELSEWHERE} if place.published else {}
    return view | (article.table_address(group) if group is not None else elsewhere)


def note_what_is_missed(chosen: Chosen, more: Mapping[str, Collection[str]]) -> None:
    """Says which wishes of an address no record here can fulfil; the page shows something else.

    more: what else the page takes from its address -> all that it has there.
    """
    view = _view(chosen.place, chosen.group)
    shown = {name: (view[name],) if name in view else () for name in TABLE} | dict(more)
    missed = [name for name in shown if not set(chosen.asked.get(name, ())) <= set(shown[name])]
    if missed:
        st.info(
            f"The address asks for a view that no record here has ({', '.join(missed)}). "
            "Showing another one."
        )


def choice(
    label: str,
    options: Sequence[str],
    key: str,
    missed: str,
    *,
    said: Callable[[str], str] = str,
    placeholder: str | None = None,
    width: int = 460,
) -> str | None:
    """One of the options, by the address; None under a placeholder until a visitor chooses.

    missed: what to say where the address asks for another. said: how an option reads.
    """
    asked = st.query_params.get(key)
    value = st.selectbox(
        label,
        options,
        index=0 if placeholder is None else None,
        key=key,
        bind="query-params",
        placeholder=placeholder,
        format_func=said,
        width=width,
    )
    if asked and asked not in {*options, *map(said, options)}:
        st.info(missed)
    return value


# ---------------------------------------------------------------- which rows


def show_published(count: int, label: str) -> bool:
    """Whether published numbers are shown; they are unless the address or the visitor says no."""
    return count > 0 and st.toggle(label, value=True, key=PUBLISHED, bind="query-params")


def facts_of(row: Row) -> Facts:
    """What the filters see of a row that is measured here."""
    card, awp = row.card, awp_text(row.card)
    return {
        "arch": row.texts["arch"],
        "method": card.method if card.objective is not None else NOT_STATED,
        "awp": NOT_STATED if awp == "unknown" else awp,
        "extra": extra_data(row),
    }


def extra_data(row: Row) -> str:
    """Whether a model saw images besides its data set: yes, no or not stated."""
    card = row.card
    if card.extra_data or (card.train is not None and card.train.extra is not None):
        return "yes"
    return NOT_STATED if card.objective is None or not card.states("extra_data") else "no"


def facts_of_published(row: PublishedRow) -> Facts:
    """What the filters see of a published row."""
    return {
        "arch": plain(row.architecture, 60) or NOT_STATED,
        "method": plain(row.method, 60) or NOT_STATED,
        "awp": row.texts["AWP"],
        "extra": row.texts["extra data"],
    }


def choose_rows(rows: Sequence[Facts]) -> dict[str, list[str]]:
    """Filter -> the values that are listed; an empty list hides nothing."""
    chosen: dict[str, list[str]] = {}
    active = any(st.query_params.get_all(name) for name in ROWS)
    with (
        st.expander("Filter rows", expanded=active),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        for name, label in ROWS.items():
            options = sorted({facts[name] for facts in rows})
            chosen[name] = st.multiselect(
                label, options, key=name, bind="query-params", placeholder="all", width=250
            )
    return chosen


def listed(facts: Facts, chosen: Mapping[str, Sequence[str]]) -> bool:
    """Whether a row has one of the chosen values in every filter that is set."""
    return all(not values or facts[name] in values for name, values in chosen.items())
