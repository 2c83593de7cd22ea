"""Adversarial weight perturbation (AWP, arXiv 2004.05884): train at w + v, keep and update w.

v lies in ||v_u|| <= gamma * ||w_u|| for every unit u: a whole tensor as in the paper, a filter, or all
weights together. L tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from bench.landscape.weights import (
    Norms,
    kept_buffers,
    movable,
    of_all,
    of_filters,
    of_tensors,
    projected,
    scaled,
    wide,
)
from bench.schema import AwpConfig, InvalidInput


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
    with movable(weights) as (saved, place):
        radii = [config.gamma * norm for norm in norms(wide(saved))]
        v: list[Tensor] = []

        def perturb(new: list[Tensor]) -> None:
            v[:] = new
            place(v)

        if config.direction == "random":
            z = [torch.randn(w.shape, generator=generator, device=w.device) for w in weights]
            perturb(scaled(z, radii, norms))
        # Projected ascent from v = 0, each step as long as the radius (eta_2 = 1). The released code
        # moves a copy of the model by one SGD step and rescales the difference. That is this
        # direction, except where the difference of nearly equal weights has lost it to rounding.
        for round_ in range(config.alternations if config.direction == "adversarial" else 0):
            if round_ and recraft is not None:
                with kept_buffers(model):
                    recraft()
            with kept_buffers(model):
                for _ in range(config.steps):
                    grads = torch.autograd.grad(
                        loss(), weights, allow_unused=True, materialize_grads=True
                    )
                    if reduce is not None:
                        reduce(grads)
                    ascent = scaled(grads, radii, norms)
                    if v:
                        ascent = projected(list(torch._foreach_add(v, ascent)), radii, norms)
                    perturb(ascent)
        yield dict(zip(named, v, strict=True))


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


# What one radius covers.
UNITS: dict[str, Norms] = {"tensor": of_tensors, "filter": of_filters, "global": of_all}
