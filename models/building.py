"""From the name of an architecture to a network."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from .normalized import Normalized


@functools.cache
def architecture(name: str) -> Callable[..., nn.Module]:
    """The function that builds an architecture. Raises ValueError where no file has it."""
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        found = getattr(importlib.import_module(f".{file.name}", __package__), name, None)
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
