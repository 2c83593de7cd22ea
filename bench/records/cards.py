"""The card of a checkpoint folder, read without torch."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from pathlib import Path

from bench.records import json_files
from bench.schema import InvalidInput, ModelCard
from bench.schema.errors import visible

CARD = "card.json"
OLD = ".old"  # what a folder is called for a moment before it is deleted
_BETWEEN = 0.5  # seconds, far more than a living process leaves between two renames
LARGEST = 2**18  # bytes; ours have 2,400


def read_card(folder: Path) -> ModelCard:
    """The card of a checkpoint folder. Raises InvalidInput naming the file."""
    path = folder / CARD
    if not folder.exists() and not restore(folder):
        raise InvalidInput(f"no checkpoint at {folder}")
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(
            f"{folder} is a file, not a checkpoint folder. "
            f"Bring it in with: python -m bench import {folder} --arch …"
        )
    if not path.exists() and not path.is_symlink():
        raise InvalidInput(
            f"{folder} is not a checkpoint folder: {CARD} is missing. "
            "A bare state dict is brought in with: python -m bench import FILE --arch …"
        )
    return json_files.read(path, ModelCard.model_validate_json, "card", largest=LARGEST)


def restore(folder: Path) -> bool:
    """Puts back the checkpoint that a process moved away and was killed before it put the new one.

    Where folders cannot be exchanged in one step this is the only trace of it. Returns whether the
    folder is there now.
    """
    left = [p for p in folder.parent.glob(f".{glob.escape(folder.name)}.*{OLD}") if p.is_dir()]
    if left and not folder.exists():
        time.sleep(_BETWEEN)
        with contextlib.suppress(OSError):
            if not folder.exists():
                os.rename(max(left, key=lambda p: p.lstat().st_mtime_ns), folder)
    return folder.exists()


def folders(root: Path) -> list[Path]:
    """The folders right below one that hold a card, by name; no link, no draft of a checkpoint."""
    try:
        with os.scandir(root) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    found = (root / name for name in sorted(names) if name[0] != "." and visible(name) == name)
    return [folder for folder in found if os.path.lexists(folder / CARD)]
