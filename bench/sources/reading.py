"""A reading of a model: short texts for its parts, each under the way to it from the model.

A text is the same in every process: no addresses, no order of sets, no places of tensors.
"""

from __future__ import annotations

import hashlib
import re
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Place = tuple[str, ...]  # ("layers", "[2]", "sigma"): the way to a part from the model
DEEPEST, MOST = 80, 200_000  # parts inside one another, and in all; what goes beyond is not read
_DEVICE = re.compile(r"(cpu|mps|cuda(:\d+)?)")
# Equal ones may be one object or several, as Python pleases.
_WITHOUT_IDENTITY = (tuple, frozenset, types.CodeType, types.MethodType, weakref.ref)


@dataclass
class Reading:
    """The parts of a model as short texts, and those that could not be read."""

    take_apart: Callable[[Reading, Any, Place], None]  # reads what is neither plain nor a tensor
    parts: dict[Place, str] = field(default_factory=dict)
    unread: dict[Place, str] = field(default_factory=dict)  # what is there
    tensors: dict[int, tuple[int, str]] = field(default_factory=dict)  # id -> version and hash
    alive: list[Any] = field(default_factory=list)  # so that an id means one object
    seen: dict[int, Place] = field(default_factory=dict)

    def value(self, value: Any, place: Place) -> None:
        """Reads whatever stands at a place."""
        text = plain(value)
        if text is not None:
            self.parts[place] = text
        elif isinstance(value, Tensor):
            self._tensor(value, place)
        elif len(place) > DEEPEST or len(self.parts) > MOST:
            self.unread[place] = "too deep or too much"
        elif id(value) in self.seen:
            self.parts[place] = f"as {self.seen[id(value)]!r}"
        else:
            self.alive.append(value)
            if not isinstance(value, _WITHOUT_IDENTITY):
                self.seen[id(value)] = place
            self.take_apart(self, value, place)

    def values(self, values: Iterable[Any], place: Place) -> None:
        """Reads each value under its number; plain ones together, for a list may hold thousands."""
        values = list(values)
        texts = [plain(v) for v in values]
        if values and None not in texts:
            whole = "\n".join(map(str, texts)).encode(errors="surrogatepass")
            self.parts[*place, "[]"] = hashlib.sha256(whole).hexdigest()
            return
        for number, value in enumerate(values):
            self.value(value, (*place, f"[{number}]"))

    def named(self, attributes: Mapping[str, Any], place: Place) -> None:
        """Reads what stands under names whose order means nothing."""
        for name in sorted(attributes, key=str):
            self.value(attributes[name], (*place, str(name)))

    def _tensor(self, value: Tensor, place: Place) -> None:
        version = -1 if value.is_inference() else value._version
        known = self.tensors.get(id(value))
        if known is None or known[0] != version or version < 0:
            try:
                flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
                raw = flat.view(torch.uint8).numpy().tobytes()
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                self.parts[place] = f"tensor {value.dtype}"
                self.unread[place] = f"a tensor, {value.layout}, on {value.device.type}"
                return
            known = version, hashlib.sha256(raw).hexdigest()
            self.tensors[id(value)] = known
            self.alive.append(value)
        self.parts[place] = f"tensor {value.dtype} {tuple(value.shape)} {known[1]}"


def plain(value: Any) -> str | None:
    """A number, a text and the like; None for everything else."""
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented or kind is bool:
        return repr(value)
    if kind is int:
        return f"int {value:x}"
    if kind is float:
        return f"float {value.hex()}"
    if kind is complex:
        return f"complex {value.real.hex()} {value.imag.hex()}"
    if kind is torch.device or (kind is str and _DEVICE.fullmatch(value)):
        return "a device"
    if kind in (str, bytes, bytearray):
        raw = value.encode(errors="surrogatepass") if kind is str else bytes(value)
        return f"{kind.__name__} {len(raw)} {hashlib.sha256(raw).hexdigest()}"
    if kind in (torch.dtype, torch.layout, torch.memory_format, range, slice):
        return f"{kind.__name__} {value!r}"
    if isinstance(value, np.dtype):
        return f"numpy {value}"
    if isinstance(value, np.generic):
        return f"numpy {value.dtype} {value.tobytes().hex()}"
    if kind.__module__ in ("fractions", "decimal", "datetime", "uuid"):
        return repr(value)
    return None
