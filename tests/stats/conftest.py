"""A results folder of a test's own, and the board that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.board_records import Ranker, ranker


@pytest.fixture
def ranked(tmp_path: Path) -> Ranker:
    return ranker(tmp_path)
