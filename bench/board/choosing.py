"""Which table a page shows: data set, threat model, protocol and images, chosen by the address."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st

from bench.board import article
from bench.published import Published, PublishedRow, beside
from bench.schema import ThreatModel
from bench.table import Group

TABLE_FILTERS = ("dataset", "threat", "protocol", "images")  # also their names in the address

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


def choose(found: Sequence[Place]) -> tuple[Place, Group | None]:
    """The place and the table asked for by the filters; no table where nothing is measured here."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        left = _narrowed("dataset", "Data set", found, lambda place: place.dataset)
        place = _narrowed("threat", "Threat model", left, lambda place: str(place.threat))[0]
        if not place.groups:
            return place, None
        groups = _narrowed("protocol", "Protocol", place.groups, lambda g: g.protocol_label)
        labels = article.image_labels(groups)
        if len(groups) > 1:
            groups = _narrowed("images", "Images", groups, lambda g: labels[g.key])
    return place, groups[0]


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
    remembered = st.session_state.get(f"last {key}")
    if remembered in options and key not in st.session_state and key not in st.query_params:
        st.session_state[key] = remembered  # the table of the page that the visitor comes from
    value = st.selectbox(label, options, key=key, bind="query-params", width=220)
    st.session_state[f"last {key}"] = value
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
