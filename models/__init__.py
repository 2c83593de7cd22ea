"""The networks that can be named in a model card: shapes and initial weights, nothing else.

An architecture is a function of its name in a file of this folder; `bench.catalogue` lists them.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from models.normalized import Normalized

__all__ = ["Normalized", "architecture", "build"]


@functools.cache
def architecture(name: str) -> Callable[..., nn.Module]:
    """The function that builds an architecture. Raises ValueError where no file has it."""
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        found = getattr(importlib.import_module(file.name), name, None)
        if found is not None:
            return found
    raise ValueError(f"no file of models/ has a function {name!r}")


def build(
    arch: str,
    arch_args: Mapping[str, bool | int | float | str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Normalized:
    """A freshly initialised network, in training mode, behind its normalisation.

    Initial weights come from torch's global generator: seed it, or load weights afterwards. Raises
    ValueError for a normalisation or a shape that cannot be built; `bench.catalogue.build` refuses
    wrong names and arguments with a sentence.
    """
    net = architecture(arch)(**{key: int(value) for key, value in arch_args.items()})
    return Normalized(net, mean, std)
