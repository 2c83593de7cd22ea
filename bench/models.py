"""The networks: the folder `models` of a checkout, and `bench/_models` where bench was installed.

Under this package's own name, so that a user's folder `models` is never taken for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

_INSTALLED = Path(__file__).with_name("_models")
__path__ = [str(_INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "models")]

if TYPE_CHECKING:
    from models import Normalized, architecture, build
else:
    from bench.models.building import architecture, build
    from bench.models.normalized import Normalized

__all__ = ["Normalized", "architecture", "build"]
