"""The networks that can be named in a model card: shapes and initial weights, nothing else.

An architecture is a function of its name in a file of this folder; `bench.catalogue` lists them. The
files name each other relatively: installed, this folder lies inside `bench`, beside nobody's `models`.
"""

from .building import architecture, build
from .normalized import Normalized

__all__ = ["Normalized", "architecture", "build"]
