"""Measures adversarial robustness: `from bench import evaluate, load_model, landscape, flatness`.

Names are resolved on first use, so that the pages of the board never load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.autoattack import AutoAttack as AutoAttack
    from bench.measure.evaluate import evaluate as evaluate
    from bench.schema import EvaluationRecord as EvaluationRecord
    from bench.schema import ThreatModel as ThreatModel
    from bench.sources.checkpoint import load_model as load_model

_HOME = {
    "AutoAttack": "bench.autoattack",
    "evaluate": "bench.measure.evaluate",
    "load_model": "bench.sources.checkpoint",
    "EvaluationRecord": "bench.schema",
    "ThreatModel": "bench.schema",
}
__all__ = sorted(_HOME)
# Modules under another name: of a room, or as they were documented before there were rooms.
_MOVED = {
    "flatness": "bench.landscape.flatness",
    "results": "bench.records.store",
    "zoo": "bench.sources.zoo",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return importlib.import_module(_MOVED[name])
    if name not in _HOME:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
