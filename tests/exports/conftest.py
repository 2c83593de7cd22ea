"""Records that a test ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.board_records import Ranker, ranker


@pytest.fixture
def ranked(tmp_path: Path) -> Ranker:
    return ranker(tmp_path)
