"""Where the files of a run lie on this machine; they are no part of the run, which names hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Paths of what a configuration names by file name and sha256; None: not given."""

    extra: Path | None = None  # the file of TrainConfig.extra
    start: Path | None = None  # the checkpoint folder of TrainConfig.start
