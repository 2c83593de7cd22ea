"""Adversarial weight perturbation (AWP, arXiv 2004.05884): train at w + v, keep and update w.

v lies in ||v_u|| <= gamma * ||w_u|| for every unit u: a whole tensor as in the paper, a filter, or all
weights together. L tensors, U units. Norms are Frobenius norms, taken in float32 or wider: half
precision would underflow and divide zero by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from bench.schema import AwpConfig, InvalidInput

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
    The direction "random" costs no pass; it draws from `generator`, on the weights' device.
    """
    named = perturbable(model, include=config.include, exclude=config.exclude)
    weights: list[Tensor] = list(named.values())
    units = UNITS[config.norm]
    saved = [w.detach().clone() for w in weights]
    radii = config.gamma * units.norms(saved)
    try:
        if config.direction == "random":
            z = [torch.randn(w.shape, generator=generator, device=w.device) for w in weights]
            v = _scaled(z, radii, units)
        else:
            with _kept_buffers(model):
                v = _worst_case(loss, weights, saved, radii, config, recraft)
        _set(weights, saved, v)
        yield dict(zip(named, v, strict=True))
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)


def _worst_case(
    loss: Callable[[], Tensor],
    weights: list[Tensor],
    saved: list[Tensor],
    radii: Tensor,
    config: AwpConfig,
    recraft: Callable[[], None] | None,
) -> list[Tensor]:
    """Projected ascent from v = 0, each step as long as the radius (eta_2 = 1).

    The released code moves a copy of the model by one SGD step and rescales the difference. That is
    this direction, except where the difference of nearly equal weights has lost it to rounding.
    """
    units = UNITS[config.norm]
    v = [torch.zeros_like(w) for w in saved]
    for step in range(config.alternations * config.steps):
        if step:
            _set(weights, saved, v)
            if step % config.steps == 0:
                if recraft is None:
                    raise InvalidInput("alternations above 1 need a way to craft the images anew")
                recraft()
        grads = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
        ascent = _scaled(list(grads), radii, units)
        v = _projected(list(torch._foreach_add(v, ascent)), radii, units) if step else ascent
    return v


def _set(weights: list[Tensor], saved: list[Tensor], v: list[Tensor]) -> None:
    """w + v, in place on the live parameters, added in float32 and rounded once."""
    with torch.no_grad():
        torch._foreach_copy_(weights, torch._foreach_add(v, saved))


# ---------------------------------------------------------------- what is perturbed


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
    for pattern in (*include, *exclude):
        if not any(_matches(name, pattern) for name in weights):
            known = ", ".join(name.removeprefix("net.") for name in weights)
            raise InvalidInput(f"AWP: no weight is named like {pattern!r}; there are {known}")
    chosen = {
        name: p
        for name, p in weights.items()
        if any(_matches(name, pattern) for pattern in include or ("*",))
        and not any(_matches(name, pattern) for pattern in exclude)
    }
    if not chosen:
        raise InvalidInput(f"{type(model).__name__} has no weight that AWP could perturb")
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name.removeprefix("net."), pattern)


# ---------------------------------------------------------------- norms


@dataclass(frozen=True)
class Units:
    """What one radius covers."""

    norms: Callable[[list[Tensor]], Tensor]  # tensors -> (U,)
    # (U,) and the tensors -> L factors that broadcast over them
    spread: Callable[[Tensor, list[Tensor]], list[Tensor]]


def _tensor_norms(tensors: list[Tensor]) -> Tensor:
    """(L,), in float32 for half precision."""
    return torch.stack(torch._foreach_norm(_wide(tensors)))


def _over_tensors(values: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return list(values)


def _filter_norms(tensors: list[Tensor]) -> Tensor:
    """Of the slices along the first axis: filters of a kernel, rows of a matrix."""
    return torch.cat([t.flatten(1).norm(dim=1) for t in _wide(tensors)])


def _over_filters(values: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    parts = values.split([len(t) for t in tensors])
    return [part.view(-1, *[1] * (t.dim() - 1)) for part, t in zip(parts, tensors, strict=True)]


def _global_norm(tensors: list[Tensor]) -> Tensor:
    """(1,): of all tensors as one vector."""
    return _tensor_norms(tensors).norm()[None]


def _over_all(values: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return [values[0]] * len(tensors)


UNITS: dict[str, Units] = {
    "tensor": Units(_tensor_norms, _over_tensors),
    "filter": Units(_filter_norms, _over_filters),
    "global": Units(_global_norm, _over_all),
}


def _wide(tensors: list[Tensor]) -> list[Tensor]:
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def _scaled(directions: list[Tensor], radii: Tensor, units: Units) -> list[Tensor]:
    """Directions brought to the length of the radii (U,); a zero direction stays zero."""
    wide = _wide(directions)
    norms = units.norms(wide)
    factors = torch.where(norms > _SMALLEST_NORM, radii / norms, torch.zeros_like(norms))
    return list(torch._foreach_mul(wide, units.spread(factors, wide)))


def _projected(v: list[Tensor], radii: Tensor, units: Units) -> list[Tensor]:
    """The nearest points of the balls of these radii (U,)."""
    norms = units.norms(v)
    factors = torch.where(norms > radii, radii / norms, torch.ones_like(norms))
    return list(torch._foreach_mul(v, units.spread(factors, v)))


# ---------------------------------------------------------------- buffers


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
