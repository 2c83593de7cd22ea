"""The card of a checkpoint folder, read without torch."""

from __future__ import annotations

import os
from pathlib import Path

from bench.records import json_files
from bench.schema import InvalidInput, ModelCard
from bench.schema.errors import visible

CARD = "card.json"
LARGEST = 2**18  # bytes; ours have 2,400


def read_card(folder: Path) -> ModelCard:
    """The card of a checkpoint folder. Raises InvalidInput naming the file."""
    path = folder / CARD
    if not folder.exists():
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


def folders(root: Path) -> list[Path]:
    """The folders right below one that hold a card, by name; no link, no draft of a checkpoint."""
    try:
        with os.scandir(root) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    found = (root / name for name in sorted(names) if name[0] != "." and visible(name) == name)
    return [folder for folder in found if os.path.lexists(folder / CARD)]
