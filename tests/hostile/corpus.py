"""CORPUS: every member there is, each under a name of its own."""

from __future__ import annotations

from tests.hostile import archives, calls, cards, challenges, images, pickles, results

CORPUS = (
    *pickles.MEMBERS,
    *archives.MEMBERS,
    *results.MEMBERS,
    *cards.MEMBERS,
    *images.MEMBERS,
    *challenges.MEMBERS,
    *calls.MEMBERS,
)
