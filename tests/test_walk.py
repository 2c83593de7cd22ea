"""The page that follows one number leads through files that make it, in the order they are asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house import ROOT, lines, walk


def test_the_way_of_a_number_is_short_and_there():
    files = walk()
    assert 10 <= len(files) <= 14
    assert lines(files) <= 3500


@pytest.mark.slow
def test_every_file_on_the_way_runs_in_that_order(tmp_path):
    """Its own process: in this one, functions that keep their answers may have been called."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.walked", str(tmp_path / "results")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    called = [file for file in done.stdout.splitlines() if file in walk()]
    assert sorted(called) == sorted(walk())
    # Asked early where the logits are that belong to it; on the page it stands where it is written.
    early = "bench/evidence.py"
    assert [f for f in called if f != early] == [f for f in walk() if f != early]
