"""CORPUS: every member there is, each under a name of its own."""

from __future__ import annotations

from tests.hostile import archives, pickles

CORPUS = (*pickles.MEMBERS, *archives.MEMBERS)
