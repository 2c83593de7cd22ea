"""Adversarial weight perturbation (AWP, arXiv 2004.05884): train at w + v, keep and update w.

v lies in ||v_u|| <= gamma * ||w_u|| for every unit u: a whole tensor as in the paper, a filter, or all
weights together. L tensors. Norms are Frobenius norms, taken in float32 or wider: half precision would
underflow and divide zero by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from bench.schema import AwpConfig, InvalidInput

# L tensors -> L norms that broadcast over them
Norms = Callable[[list[Tensor]], list[Tensor]]

# A gradient whose norm is below this counts as zero: its direction is rounding noise, and
# radius / norm could overflow float32.
_SMALLEST_NORM = 1e-30


@contextmanager
def adversarial_weights(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    config: AwpConfig,
    generator: torch.Generator | None = None,
    recraft: Callable[[], None] | None = None,
    reduce: Callable[[Sequence[Tensor]], None] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Inside the `with`, the weights are w + v; it yields v by parameter name.

    Run the forward and backward pass inside, the optimiser step outside: on exit, also after an
    exception, w comes back bit for bit from a saved copy, so the step is taken at w with the
    gradient at w + v. (The released code steps before it restores, so weight decay also acts on v:
    a relative 5e-7 of the weights a step.)

    `loss` is a closure over the batch and is maximised over v: one extra forward and backward pass
    for each of config.steps, without touching .grad or any buffer, BatchNorm statistics included.
    More than one of config.alternations calls `recraft` between rounds, at w + v: it crafts the images
    of `loss` anew, and v goes on from where it is. What that does to buffers is undone as well.
    `reduce` sums gradients over several processes in place, so that v is the same on each.
    The direction "random" costs no pass; it draws from `generator`, on the weights' device.
    """
    if recraft is None and config.alternations > 1:
        raise InvalidInput("alternations above 1 need a way to craft the images anew")
    named = perturbable(model, include=config.include, exclude=config.exclude)
    weights: list[Tensor] = list(named.values())
    norms = UNITS[config.norm]
    saved = [w.detach().clone() for w in weights]
    radii = [config.gamma * norm for norm in norms(_wide(saved))]
    v: list[Tensor] = []

    def perturb(new: list[Tensor]) -> None:
        v[:] = new
        with torch.no_grad():  # in place, added in float32 and rounded once
            torch._foreach_copy_(weights, torch._foreach_add(v, saved))

    try:
        if config.direction == "random":
            z = [torch.randn(w.shape, generator=generator, device=w.device) for w in weights]
            perturb(_scaled(z, radii, norms))
        # Projected ascent from v = 0, each step as long as the radius (eta_2 = 1). The released code
        # moves a copy of the model by one SGD step and rescales the difference. That is this
        # direction, except where the difference of nearly equal weights has lost it to rounding.
        for round_ in range(config.alternations if config.direction == "adversarial" else 0):
            if round_ and recraft is not None:
                with _kept_buffers(model):
                    recraft()
            with _kept_buffers(model):
                for _ in range(config.steps):
                    grads = torch.autograd.grad(
                        loss(), weights, allow_unused=True, materialize_grads=True
                    )
                    if reduce is not None:
                        reduce(grads)
                    ascent = _scaled(grads, radii, norms)
                    if v:
                        ascent = _projected(list(torch._foreach_add(v, ascent)), radii, norms)
                    perturb(ascent)
        yield dict(zip(named, v, strict=True))
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)


def perturbable(
    model: nn.Module, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> dict[str, nn.Parameter]:
    """Kernels and matrices by name: trainable, of more than one dimension, hence no BatchNorm.

    include, exclude: patterns such as layer1.* of names as they stand in a checkpoint (without the
    `net.` of Normalized); no include means every weight. Raises InvalidInput for a pattern that
    matches no weight, and where none is left. The released code also asks for `weight` in the name,
    which leaves out plain matrices such as the position embedding of a transformer. No architecture
    here has one: both choose the same.
    """
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1 and p.requires_grad}

    def named_like(pattern: str) -> set[str]:
        return {name for name in weights if fnmatchcase(name.removeprefix("net."), pattern)}

    for pattern in (*include, *exclude):
        if not named_like(pattern):
            known = ", ".join(name.removeprefix("net.") for name in weights)
            raise InvalidInput(f"AWP: no weight is named like {pattern!r}; there are {known}")
    chosen = set().union(*map(named_like, include or ("*",))).difference(*map(named_like, exclude))
    if not chosen:
        raise InvalidInput(f"{type(model).__name__} has no weight that AWP could perturb")
    return {name: p for name, p in weights.items() if name in chosen}


# ---------------------------------------------------------------- norms


def _of_tensors(tensors: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(tensors))


def _of_filters(tensors: list[Tensor]) -> list[Tensor]:
    """Of the slices along the first axis: filters of a kernel, rows of a matrix."""
    return [t.flatten(1).norm(dim=1).view(-1, *[1] * (t.dim() - 1)) for t in tensors]


def _of_all(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.stack(torch._foreach_norm(tensors)).norm()] * len(tensors)


# What one radius covers.
UNITS: dict[str, Norms] = {"tensor": _of_tensors, "filter": _of_filters, "global": _of_all}


def _wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def _scaled(directions: Sequence[Tensor], radii: list[Tensor], norms: Norms) -> list[Tensor]:
    """Directions brought to the length of the radii; a zero direction stays zero."""
    wide = _wide(directions)
    pairs = zip(norms(wide), radii, strict=True)
    factors = [torch.where(norm > _SMALLEST_NORM, radius / norm, 0.0) for norm, radius in pairs]
    return list(torch._foreach_mul(wide, factors))


def _projected(v: list[Tensor], radii: list[Tensor], norms: Norms) -> list[Tensor]:
    """The nearest points of the balls of these radii."""
    pairs = zip(norms(v), radii, strict=True)
    factors = [torch.where(norm > radius, radius / norm, 1.0) for norm, radius in pairs]
    return list(torch._foreach_mul(v, factors))


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
