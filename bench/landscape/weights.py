"""Moves of a network's weights: which may move, how far, and w again bit for bit afterwards.

L tensors. Norms are Frobenius norms, taken in float32 or wider: half precision would underflow and
divide zero by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.schema import InvalidInput

# L tensors -> L norms that broadcast over them
Norms = Callable[[list[Tensor]], list[Tensor]]

# A gradient whose norm is below this counts as zero: its direction is rounding noise, and
# radius / norm could overflow float32.
_SMALLEST_NORM = 1e-30

# Their weights and biases scale and shift what was normalised: no part of any radius.
_NORM_LAYERS = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Kernels and matrices by name: parameters of more than one dimension.

    Raises InvalidInput where there is none.
    """
    return _chosen(model, lambda p: p.dim() > 1)


def outside_norm_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, biases too, but for those of normalisation layers.

    Raises InvalidInput where there is none.
    """
    inside: set[int] = set()
    if isinstance(model, nn.Module):
        layers = [m for m in model.modules() if isinstance(m, _NORM_LAYERS)]
        inside = {id(p) for m in layers for p in m.parameters()}
    return _chosen(model, lambda p: id(p) not in inside)


def every(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by name. Raises InvalidInput where there is none."""
    return _chosen(model, lambda p: True)


def _chosen(model: nn.Module, chosen: Callable[[Tensor], bool]) -> dict[str, nn.Parameter]:
    named = model.named_parameters() if isinstance(model, nn.Module) else ()
    found = {n: p for n, p in named if chosen(p) and p.is_floating_point() and p.numel()}
    if not found:
        raise InvalidInput(
            f"{type(model).__name__} has no weights that could be moved; a landscape needs a network "
            "with kernels or matrices among its parameters"
        )
    return found


# ---------------------------------------------------------------- norms


def of_tensors(tensors: list[Tensor]) -> list[Tensor]:
    """One norm a tensor."""
    return list(torch._foreach_norm(tensors))


def of_filters(tensors: list[Tensor]) -> list[Tensor]:
    """Of the slices along the first axis: filters of a kernel, rows of a matrix."""
    return [t.flatten(1).norm(dim=1).view(-1, *[1] * (t.dim() - 1)) for t in tensors]


def of_all(tensors: list[Tensor]) -> list[Tensor]:
    """One norm of all tensors together."""
    return [torch.stack(torch._foreach_norm(tensors)).norm()] * len(tensors)


def wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    """As float32 or wider."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def scaled(directions: Sequence[Tensor], radii: list[Tensor], norms: Norms) -> list[Tensor]:
    """Directions brought to the length of the radii; a zero direction stays zero."""
    found = wide(directions)
    pairs = zip(norms(found), radii, strict=True)
    factors = [torch.where(norm > _SMALLEST_NORM, radius / norm, 0.0) for norm, radius in pairs]
    return list(torch._foreach_mul(found, factors))


def projected(v: list[Tensor], radii: list[Tensor], norms: Norms) -> list[Tensor]:
    """The nearest points of the balls of these radii."""
    pairs = zip(norms(v), radii, strict=True)
    factors = [torch.where(norm > radius, radius / norm, 1.0) for norm, radius in pairs]
    return list(torch._foreach_mul(v, factors))


# ---------------------------------------------------------------- there and back

Place = Callable[[Sequence[Tensor]], None]  # L moves v -> the weights are w + v


@contextmanager
def movable(weights: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], Place]]:
    """Yields copies of the L weights w, and place(v), which sets them to w + v.

    On exit, also after an exception, w comes back bit for bit from the copies.
    """
    targets = list(weights)
    saved = [w.detach().clone() for w in targets]

    def place(v: Sequence[Tensor]) -> None:
        with torch.no_grad():  # in place, added in float32 and rounded once
            torch._foreach_copy_(targets, torch._foreach_add(list(v), saved))

    try:
        yield saved, place
    finally:
        with torch.no_grad():
            torch._foreach_copy_(targets, saved)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers, above all BatchNorm statistics and their counters, leave as they came."""
    buffers = list(model.buffers())
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
