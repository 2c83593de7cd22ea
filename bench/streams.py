"""Counter-based random numbers per image: Philox4x32-10 (Salmon et al. 2011), vectorised in torch.

A draw is a pure function of (seed, image bytes, column, attack, restart, target, draw, position). It
does not depend on batch size, order, sharding, neighbours or device, and no global state is read.

B images; words are 32-bit values held in int64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Any], key: Sequence[Any]) -> list[Tensor]:
    """Four pseudo-random words for a 4-word counter and a 2-word key; all broadcast together.

    Words are tensors or numbers, one tensor at least.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap, but bits 32..63 and 0..31 are those of the unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def _words(path: Sequence[int | str]) -> list[int]:
    digest = hashlib.sha256(repr(tuple(path)).encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u4").astype(np.int64).tolist()


@dataclass(frozen=True)
class Streams:
    """One independent stream an image; `keys` is (B, 2)."""

    keys: Tensor

    @classmethod
    def for_images(cls, x: Tensor, seed: int, column: str = "") -> Streams:
        """Streams keyed by the float32 bytes of each image of x (B, C, H, W)."""
        rows = np.ascontiguousarray(x.detach().cpu().to(torch.float32).numpy())
        head = repr((int(seed), column)).encode()
        digests = b"".join(hashlib.sha256(head + row.tobytes()).digest()[:8] for row in rows)
        keys = np.frombuffer(digests, dtype="<u4").astype(np.int64).reshape(len(rows), 2)
        return cls(torch.from_numpy(keys.copy()).to(x.device))

    @classmethod
    def for_batch(cls, size: int, *path: int | str, device: torch.device | str = "cpu") -> Streams:
        """Streams keyed by a path such as (seed, "craft", epoch, batch) and the place in the batch."""
        places = torch.arange(size, device=device)
        return cls(torch.stack(philox((places, 0, 0, 0), _words(path)[:2])[:2], dim=1))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Tensor | slice) -> Streams:
        return Streams(self.keys[index])

    def at(self, *path: int | str) -> Streams:
        """The sub-streams at a path such as ("apgd-t", restart, target)."""
        return Streams(torch.stack(philox(_words(path), self.keys.unbind(1))[:2], dim=1))

    def words(self, count: int, draw: int) -> Tensor:
        """(B, count) random words in [0, 2**32)."""
        places = torch.arange(math.ceil(count / 4), device=self.keys.device)[None]
        blocks = philox((places, draw, 0, 0), (self.keys[:, :1], self.keys[:, 1:]))
        return torch.stack(blocks, dim=-1).flatten(1)[:, :count]

    def uniform(self, shape: Sequence[int], draw: int = 0) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1) with 24 bits."""
        bits = self.words(math.prod(shape), draw) >> 8
        return (bits.to(torch.float32) * 2.0**-24).view(len(self), *shape)

    def normal(self, shape: Sequence[int], draw: int = 0) -> Tensor:
        """(B, *shape) float32, standard normal (Box-Muller in float64)."""
        count = math.prod(shape)
        words = self.words(2 * count, draw).to(torch.float64)
        radius = torch.sqrt(-2 * torch.log((words[:, :count] + 1) / 2.0**32))
        angle = words[:, count:] * (2 * math.pi / 2.0**32)
        return (radius * torch.cos(angle)).to(torch.float32).view(len(self), *shape)

    def integers(self, high: int, draw: int = 0) -> Tensor:
        """(B,) int64, uniform in [0, high)."""
        return (self.words(1, draw)[:, 0] * high) >> 32
