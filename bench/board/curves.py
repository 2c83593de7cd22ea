"""Training curves beside a record: train.jsonl, one JSON object a logged epoch."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

LARGEST = 2**20  # bytes; longer files are not a curve of ours
_PARTS = {"train": "training images", "validation": "validation images"}


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Part -> (epochs, robust accuracy in percent); lines that say nothing are left out."""
    try:
        if path.stat().st_size > LARGEST:
            return {}
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    curves: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for line in lines:
        entry = _entry(line)
        for part, name in _PARTS.items():
            epoch = _number(entry, "epoch")
            right, n = _number(entry, f"{part}_robust_correct"), _number(entry, f"{part}_n")
            if epoch is None or right is None or not n or not 0 <= right <= n:
                continue
            curves[name][0].append(epoch)
            curves[name][1].append(100 * right / n)
    return dict(curves)


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _number(entry: dict[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
