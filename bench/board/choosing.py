"""Which table a page shows: data set, threat model, protocol and images, chosen by the address."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st
from streamlit.errors import StreamlitAPIException

from bench.board import article
from bench.published import Published, PublishedRow, beside
from bench.schema import ThreatModel
from bench.table import Group

TABLE_FILTERS = ("dataset", "threat", "protocol", "images")  # also their names in the address

_LAST_PAGE, _LAST_VIEW = "page of the filters", "view of the filters"  # in the session

Chosen = TypeVar("Chosen")


@dataclass(frozen=True, eq=False)
class Place:
    """A data set under a threat: our tables there, and the published rows beside them."""

    dataset: str
    threat: ThreatModel
    groups: tuple[Group, ...] = ()
    published: tuple[PublishedRow, ...] = ()

    @property
    def demo(self) -> bool:
        return bool(self.groups) and self.groups[0].demo


def places(groups: Sequence[Group], published: Published | None = None) -> list[Place]:
    """Every data set and threat of which there is something, the richest data set first.

    Demo data come last whatever there is of them: a page lands on the first.
    """
    ours = list(dict.fromkeys((group.dataset, group.threat) for group in groups))
    others = beside(published.rows if published else (), ours)
    found = [
        Place(
            dataset,
            threat,
            tuple(g for g in groups if (g.dataset, g.threat) == (dataset, threat)),
            tuple(others.get((dataset, threat), ())),
        )
        for dataset, threat in dict.fromkeys((*ours, *others))
    ]
    return sorted(
        found, key=lambda place: (place.demo, -_rows(place.dataset, found), -_size(place))
    )


def _size(place: Place) -> int:
    return sum(len(group.members) for group in place.groups) + len(place.published)


def _rows(dataset: str, found: Sequence[Place]) -> int:
    return sum(_size(place) for place in found if place.dataset == dataset)


def choose(found: Sequence[Place], page: str) -> tuple[Place, Group | None]:
    """The place and the table asked for by the filters; no table where nothing is measured here.

    page is the file of the page. A visitor who comes from another one, whose address says nothing, is
    led to the table that was chosen there, if this page has it.
    """
    came = st.session_state.get(_LAST_PAGE) not in (None, page)
    st.session_state[_LAST_PAGE] = page
    if came and not any(key in st.query_params for key in TABLE_FILTERS):
        carried = _carried(found, st.session_state.get(_LAST_VIEW, {}))
        if carried:
            _go(page, carried)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        left = _narrowed("dataset", "Data set", found, lambda place: place.dataset)
        place = _narrowed("threat", "Threat model", left, lambda place: str(place.threat))[0]
        groups: Sequence[Group] = place.groups
        if groups:
            groups = _narrowed("protocol", "Protocol", groups, lambda g: g.protocol_label)
        if len(groups) > 1:
            labels = article.image_labels(groups)
            groups = _narrowed("images", "Images", groups, lambda g: labels[g.key])
    group = groups[0] if groups else None
    st.session_state[_LAST_VIEW] = {k: v[0] for k, v in shown_values(place, group).items()}
    return place, group


def _go(page: str, view: Mapping[str, str]) -> None:
    """Starts a page again with an address; values set in place alone would be missing in it."""
    try:
        st.switch_page(page, query_params=dict(view))
    except StreamlitAPIException:  # widgets of the page before still hold these names
        for key, value in view.items():
            st.session_state[key] = value


def _carried(found: Sequence[Place], last: Mapping[str, str]) -> dict[str, str]:
    """As much of the view of another page as this one has, beginning with the data set."""
    for place in found:
        if (place.dataset, str(place.threat)) == (last.get("dataset"), last.get("threat")):
            here = {"dataset": place.dataset, "threat": str(place.threat)}
            if last.get("protocol") in {group.protocol_label for group in place.groups}:
                here["protocol"] = last["protocol"]
            return here
    return {}


def shown_values(place: Place, group: Group | None) -> dict[str, list[str]]:
    """What an address may say to get this view."""
    values = {"dataset": [place.dataset], "threat": [str(place.threat)]}
    if group is not None:
        values["protocol"] = [group.protocol_label]
        values["images"] = [article.image_labels([group])[group.key]]
    return values


def _narrowed(
    key: str, label: str, choices: Sequence[Chosen], of: Callable[[Chosen], str]
) -> list[Chosen]:
    options = list(dict.fromkeys(map(of, choices)))
    value = st.selectbox(label, options, key=key, bind="query-params", width=220)
    return [choice for choice in choices if of(choice) == value] or list(choices)


def asked_on_arrival(page: str, names: Collection[str]) -> dict[str, list[str]]:
    """What the address that opened a page asks for; later changes come from the widgets."""
    if st.session_state.get(f"arrived at {page}"):
        return {}
    st.session_state[f"arrived at {page}"] = True
    return {name: st.query_params.get_all(name) for name in names if name in st.query_params}


def note_what_is_missed(
    asked: Mapping[str, Sequence[str]], shown: Mapping[str, Collection[str]]
) -> None:
    """Says which wishes of an address no record here can fulfil; the page shows something else."""
    missed = [name for name, values in asked.items() if not set(values) <= set(shown.get(name, ()))]
    if missed:
        st.info(
            f"The address asks for a view that no record here has ({', '.join(missed)}). "
            "Showing another one."
        )
