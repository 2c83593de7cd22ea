"""Adversarial weight perturbation (AWP, arXiv 2004.05884): train at w + v, keep and update w.

v lies in the layer-wise ball ||v_l|| <= gamma * ||w_l||, with Frobenius norms of whole tensors l,
taken in float32 or wider: half precision would underflow and divide zero by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.schema import AwpConfig, InvalidInput

# A gradient whose norm is below this counts as zero: its direction is rounding noise, and
# radius / norm could overflow float32.
_SMALLEST_NORM = 1e-30


def every_weight(name: str, parameter: Tensor) -> bool:
    """Kernels and matrices: trainable parameters of more than one dimension, hence no BatchNorm.

    The released code also asks for `weight` in the name, which leaves out plain matrices such as
    the position embedding of a transformer. No architecture here has one: both choose the same.
    """
    return parameter.dim() > 1 and parameter.requires_grad


@contextmanager
def adversarial_weights(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    config: AwpConfig,
    generator: torch.Generator | None = None,
    include: Callable[[str, Tensor], bool] = every_weight,
) -> Iterator[dict[str, Tensor]]:
    """Inside the `with`, the weights are w + v; it yields v by parameter name.

    Run the forward and backward pass inside, the optimiser step outside: on exit, also after an
    exception, w comes back bit for bit from a saved copy, so the step is taken at w with the
    gradient at w + v. (The released code steps before it restores, so weight decay also acts on v:
    a relative 5e-7 of the weights a step.)

    `loss` is a closure over the batch and is maximised over v: one extra forward and backward pass
    for each of config.steps, without touching .grad or any buffer, BatchNorm statistics included.
    The direction "random" costs no pass; it draws from `generator`, on the weights' device.
    """
    named = {name: p for name, p in model.named_parameters() if include(name, p)}
    if not named:
        raise InvalidInput(f"{type(model).__name__} has no weight that AWP could perturb")
    weights: list[Tensor] = list(named.values())
    saved = [w.detach().clone() for w in weights]
    radii = config.gamma * _norms(saved)
    try:
        if config.direction == "random":
            z = [torch.randn(w.shape, generator=generator, device=w.device) for w in weights]
            v = _scaled(z, radii)
        else:
            v = _worst_case(model, loss, weights, saved, radii, config.steps)
        _set(weights, saved, v)
        yield dict(zip(named, v, strict=True))
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)


def _worst_case(
    model: nn.Module,
    loss: Callable[[], Tensor],
    weights: list[Tensor],
    saved: list[Tensor],
    radii: Tensor,
    steps: int,
) -> list[Tensor]:
    """Projected ascent from v = 0, each step as long as the radius (eta_2 = 1).

    The released code moves a copy of the model by one SGD step and rescales the difference. That is
    this direction, except where the difference of nearly equal weights has lost it to rounding.
    """
    v = [torch.zeros_like(w) for w in saved]
    with _kept_buffers(model):
        for step in range(steps):
            if step:
                _set(weights, saved, v)
            grads = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
            ascent = _scaled(list(grads), radii)
            v = _projected(list(torch._foreach_add(v, ascent)), radii) if step else ascent
    return v


def _norms(tensors: list[Tensor]) -> Tensor:
    """Frobenius norms (L,), in float32 for half precision."""
    return torch.stack(torch._foreach_norm(_wide(tensors)))


def _wide(tensors: list[Tensor]) -> list[Tensor]:
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def _scaled(directions: list[Tensor], radii: Tensor) -> list[Tensor]:
    """Directions brought to the length of the radii (L,); a zero direction stays zero."""
    wide = _wide(directions)
    norms = _norms(wide)
    factors = torch.where(norms > _SMALLEST_NORM, radii / norms, torch.zeros_like(norms))
    return list(torch._foreach_mul(wide, list(factors)))


def _projected(v: list[Tensor], radii: Tensor) -> list[Tensor]:
    """The nearest points of the balls of these radii (L,)."""
    norms = _norms(v)
    factors = torch.where(norms > radii, radii / norms, torch.ones_like(norms))
    return list(torch._foreach_mul(v, list(factors)))


def _set(weights: list[Tensor], saved: list[Tensor], v: list[Tensor]) -> None:
    """w + v, in place on the live parameters, added in float32 and rounded once."""
    with torch.no_grad():
        torch._foreach_copy_(weights, torch._foreach_add(v, saved))


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers, above all BatchNorm statistics and their counters, leave as they came."""
    buffers = list(model.buffers())
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
