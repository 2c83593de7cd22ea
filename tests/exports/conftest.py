"""Records that a test ranks, and a results folder that all of them read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.board_records import Ranker, ranker, write_example


@pytest.fixture
def ranked(tmp_path: Path) -> Ranker:
    return ranker(tmp_path)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder such as the project will have; no test writes to it."""
    root = tmp_path_factory.mktemp("example")
    write_example(root)
    return root
