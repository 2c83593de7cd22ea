"""Adversarial images that others handed in for a model: who, what they broke, and whether it counts."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from bench.board import article, records
from bench.board.article import link, paragraph, shown, small
from bench.notation import percent, plain
from bench.records.challenges import Filed
from bench.table import Group, Row


def show(group: Group, row: Row) -> None:
    """Credit, best known, and the history of challenges of these weights, images and ball."""
    record = row.record
    key = (record.weights_sha256, group.examples_sha256, str(group.threat))
    found = [each for each in records.leaderboard().challenges if each.challenge.key == key]
    if not found:
        return
    st.header("Challenges", anchor=False)
    if row.challenges:
        known = percent(row.best_known_rate.estimate, group.n)
        paragraph(
            Markup(
                "Best known: <strong>{} %</strong>, thanks to {}. No rank changes by it."
            ).format(known, _thanked(row))
        )
    headings = ("date", "by", "newly broken", "images", "state")
    article.lines(headings, _lines(found), labels=True)
    small("Judged by the untouched model; proven again by bench verify.")


def _thanked(row: Row) -> Markup:
    """Every challenger once, as a link where an address was given."""
    named = {plain(each.by, 60): each.link for each in row.challenges}
    return Markup(", ").join(_credit(by, address) for by, address in named.items())


def _credit(by: str, address: str) -> Markup:
    return link(address, by) if address else shown(by, 60)


def _lines(found: Sequence[Filed]) -> list[tuple[object, ...]]:
    """Newest first."""
    return [
        (
            plain(each.challenge.created[:10]),
            _credit(plain(each.challenge.by, 60), each.challenge.link),
            f"{each.challenge.counts['newly broken']:,}",
            f"{sum(each.challenge.counts.values()):,}",
            each.state,
        )
        for each in reversed(found)
    ]
