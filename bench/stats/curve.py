"""The security curve: how many images stand at every radius, from the distances of what broke them.

n images, G radii. A distance is that of a verified misclassified point in the box, float64 or as a
record stores it, float32; 0 for a clean error, infinity where no such point was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from bench.schema import InvalidInput, Protocol
from bench.schema.threat import Norm

Radius = TypeVar("Radius", float, np.ndarray)


def smallest_distances(clean_correct: np.ndarray, *found: np.ndarray) -> np.ndarray:
    """(n,) float64: the elementwise minimum of several sets of distances (n,).

    0 where the clean image is misclassified, whatever was found. Raises InvalidInput on sets of
    another length, and on negative or missing numbers.
    """
    correct = np.asarray(clean_correct, dtype=bool)
    smallest = np.where(correct, np.inf, 0.0)
    for distances in found:
        distances = np.asarray(distances, dtype=np.float64)
        if distances.shape != correct.shape:
            raise InvalidInput(
                f"expected distances of {len(correct)} images, got {distances.shape}"
            )
        if not (distances >= 0).all():
            raise InvalidInput("distances must be at least 0, infinity where nothing was found")
        smallest = np.minimum(smallest, distances)
    return smallest


def largest_admissible(eps: Radius, *, norm: Norm, protocol: Protocol) -> Radius:
    """The largest distance that the judge accepts at a radius: eps and the protocol's tolerance."""
    if norm == "linf":
        return eps + protocol.linf_tolerance
    return eps * (1 + protocol.lp_tolerance)


def standing_at(
    distances: np.ndarray, eps_grid: Sequence[float], *, norm: Norm, protocol: Protocol
) -> np.ndarray:
    """(G,) int64: images standing at each radius, in units of the [0, 1] pixel range.

    An upper bound of the images that are robust at that radius: a better attack may find nearer
    points. An image stands at eps while its distance is larger than what the judge accepts there,
    tolerance included; at 0 the clean images stand that are right. Both sides are compared in float32,
    in which records keep distances: rounding keeps the order, so an image broken in a record, its
    distance among these, never stands again at the record's own eps.
    """
    grid = np.asarray(eps_grid, dtype=np.float64)
    if not (np.isfinite(grid).all() and (grid >= 0).all()):
        raise InvalidInput(f"radii must be finite and at least 0, got {grid.tolist()}")
    limits = np.where(grid > 0, largest_admissible(grid, norm=norm, protocol=protocol), 0)
    kept = np.asarray(distances, dtype=np.float32)
    return (kept > limits.astype(np.float32)[:, None]).sum(axis=1)
