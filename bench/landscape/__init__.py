"""The loss of a network around its weights: curves along random directions, and flatness as numbers.

Names are resolved on first use, so that records of landscapes are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.landscape.curves import curve as curve
    from bench.landscape.curves import directions as directions

_HOME = {"curve": "bench.landscape.curves", "directions": "bench.landscape.curves"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
