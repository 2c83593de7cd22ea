"""A door with settings of its own, and children that find a network in everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.intake import admission
from bench.intake.admission import Admitted
from bench.intake.callers import REWRITES
from bench.intake.door import Door
from bench.intake.settings import Settings
from bench.intake.spool import Limits
from tests.intake.forms import SEEN

TOKEN = "a token of twenty."


@pytest.fixture
def looked(monkeypatch) -> list[str]:
    """In the place of children: what was looked at, all of it a small_cnn."""
    seen: list[str] = []

    def admit(spool, kept, asked):
        seen.append(asked.file_name)
        return Admitted(SEEN, Path("none"), "0" * 64)

    monkeypatch.setattr(admission, "admit", admit)
    return seen


@pytest.fixture
def open_door(tmp_path, monkeypatch):
    """A door with settings of its own."""
    monkeypatch.setenv(REWRITES, "")

    def made(limits: Limits | None = None, **more) -> Door:
        limits = limits or Limits(reserve=0)
        settings = Settings(root=tmp_path / "intake", limits=limits, **more)
        return Door(settings, lambda: ["digits-at-s0"])

    return made
