"""The loss under attack along random directions of weights: g(alpha) = rho(w + alpha d).

d is Gaussian and filter-normalised (Li et al. 2018, arXiv 1712.09913): each filter of a kernel, each
row of a matrix is as long as that of w; tensors of one dimension do not move. Adversarial examples are
made for the network at w + alpha d (Wu et al. 2020, arXiv 2004.05884, section 3): examples made once
for w attack a network that is no longer there, and show a landscape that is too flat. B images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.as_found import exact_float32, left_as_found
from bench.attacks import ATTACKS, ENGINE_VERSION, Problem, Search
from bench.attacks.losses import Loss, cross_entropy, fooled
from bench.judge import guarded
from bench.landscape.record import Part, Point, Seen, attack_named, checked_alphas
from bench.landscape.weights import kept_buffers, matrices, movable, of_filters, scaled, wide
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from bench.streams import Streams

VERSION = f"{ENGINE_VERSION}.1"  # raised where a point may come out differently
BATCH = 250  # images

Labelled = tuple[Tensor, Tensor]  # images (N, C, H, W) in [0, 1], labels (N,)
Craft = Callable[[Problem], Tensor]


def crafted(spec: AttackSpec) -> Craft:
    """The attack of a specification."""
    return lambda problem: ATTACKS[spec.name].function(problem, **spec.params)


# ---------------------------------------------------------------- directions


def directions(weights: Iterable[Tensor], seed: int, index: int) -> list[Tensor]:
    """The d of a number: Gaussian, each filter as long as that of the weights; a zero filter stays.

    Drawn tensor after tensor from (seed, index), before they are brought to length: networks of one
    shape go the same way.
    """
    found = []
    for place, w in enumerate(weights):
        stream = Streams.for_batch(1, seed, "direction", index, place)
        z = stream.normal(tuple(w.shape))[0].to(w.device)
        found += scaled([z], of_filters(wide([w.detach()])), of_filters)
    return found


@contextmanager
def at(model: nn.Module, d: list[Tensor], alpha: float) -> Iterator[None]:
    """Inside, the kernels and matrices of the model are w + alpha d; afterwards w, bit for bit."""
    with movable(list(matrices(model).values())) as (_, place):
        place(torch._foreach_mul(d, alpha))
        yield


def batchnorms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers with running statistics. Raises InvalidInput where there is none."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    layers = [m for m in layers if m.track_running_stats]
    if not layers:
        raise InvalidInput(
            f"{type(model).__name__} has no BatchNorm whose statistics could be estimated anew"
        )
    return layers


@contextmanager
def estimated_anew(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside, BatchNorm's running statistics are those of images x (N, C, H, W) at these weights.

    They are means over batches of what a pass in train mode sees. Raises InvalidInput where there are
    none.
    """
    layers = batchnorms(model)
    momenta = [m.momentum for m in layers]
    with kept_buffers(model):
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # a mean over all batches
                layer.train()
            with torch.no_grad():
                for some in x.split(BATCH):
                    guarded(partial(model, some))
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()
        yield


# ---------------------------------------------------------------- points


@dataclass(frozen=True)
class Look:
    """How a point is looked at."""

    threat: ThreatModel
    attack: Craft
    loss: Loss = cross_entropy
    fixed: bool = False  # examples made once, for the network at w
    anew: bool = False  # BatchNorm's statistics estimated at w + alpha d, on the training images
    seed: int = 0

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) what the attack makes; starts depend on the images and the seed alone."""
        streams = Streams.for_images(x, self.seed, "landscape")
        problem = Problem(model, x, y, self.threat, streams, Search(rows=BATCH))
        return guarded(lambda: self.attack(problem))


def fixed_examples(
    model: nn.Module, parts: Mapping[Part, Labelled], look: Look
) -> dict[Part, Tensor]:
    """The adversarial images (N, C, H, W) of each part for the network as it is."""
    with left_as_found(model), exact_float32():
        model.eval()
        return {
            part: torch.cat(
                [
                    look.examples(model, *some)
                    for some in zip(x.split(BATCH), y.split(BATCH), strict=True)
                ]
            )
            for part, (x, y) in parts.items()
        }


def look_at(
    model: nn.Module,
    parts: Mapping[Part, Labelled],
    look: Look,
    *,
    direction: int,
    alpha: float,
    made: Mapping[Part, Tensor] | None = None,
    tick: Callable[[float], None] = lambda share: None,
) -> Point:
    """What is seen at w + alpha d; the model is left as it was, to the bit.

    made: the examples where `look` says that they are fixed. tick is told the share done. Raises
    InvalidInput where nothing can move, MeasurementFailed where the model raises.
    """
    with left_as_found(model), exact_float32(), ExitStack() as inside:
        model.eval()
        weights = list(matrices(model).values())
        if alpha:
            inside.enter_context(at(model, directions(weights, look.seed, direction), alpha))
        if look.anew:
            seen_first: Part = "train" if "train" in parts else "test"
            inside.enter_context(estimated_anew(model, parts[seen_first][0]))
        total = sum(len(y) for _, y in parts.values())
        seen, done = {}, 0
        for part, (x, y) in parts.items():
            sums = torch.zeros(4, dtype=torch.float64)
            for first in range(0, len(y), BATCH):
                some = slice(first, first + BATCH)
                x_adv = made[part][some] if made else look.examples(model, x[some], y[some])
                sums += _counted(model, x[some], y[some], x_adv, look.loss)
                done += len(y[some])
                tick(done / total)
            if not bool(torch.isfinite(sums).all()):
                why = f"the loss on {part} images is not finite"
                return Point(direction=direction if alpha else 0, alpha=alpha, gap=why)
            clean, robust, clean_loss, robust_loss = sums.tolist()
            seen[part] = Seen(
                clean_correct=int(clean), robust_correct=int(robust),
                clean_loss=clean_loss / len(y), robust_loss=robust_loss / len(y),
            )  # fmt: skip
    return Point(direction=direction if alpha else 0, alpha=alpha, seen=seen)


def _counted(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, loss: Loss) -> Tensor:
    """(4,) float64 sums over a batch: right, right under attack too, loss, loss under attack."""
    with torch.no_grad():
        clean, attacked = (guarded(partial(model, z)) for z in (x, x_adv))
    right = ~fooled(clean, y)
    values = (right, right & ~fooled(attacked, y), loss(clean, y), loss(attacked, y))
    return torch.stack([v.double().sum().cpu() for v in values])


def curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: str | ThreatModel,
    alphas: Iterable[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    directions: int = 1,
    attack: str | Craft = "pgd10",
    loss: Loss = cross_entropy,
    fixed: bool = False,
    seed: int = 0,
) -> list[Point]:
    """The points of a model (B, C, H, W) in [0, 1] -> logits on images x and labels y (B,).

    attack: pgd and its steps, or any (problem) -> x_adv under the contract of bench.attacks. fixed:
    examples are made once, for the model as it is. Every direction has every alpha but 0, which is
    looked at once. Raises InvalidInput where alphas lack 0 or hold nothing else, and where the model
    has no weights to move.
    """
    asked = ThreatModel.asked(threat)
    if directions < 1:
        raise InvalidInput(f"directions must be at least 1, got {directions}")
    craft = crafted(attack_named(attack, asked)) if isinstance(attack, str) else attack
    look = Look(asked, craft, loss, fixed=fixed, seed=seed)
    matrices(model)
    parts: dict[Part, Labelled] = {"test": (x, y)}
    made = fixed_examples(model, parts, look) if fixed else None
    return [
        look_at(model, parts, look, direction=direction, alpha=alpha, made=made)
        for direction, alpha in places(checked_alphas(alphas), directions)
    ]


def places(alphas: Iterable[float], directions: int) -> list[tuple[int, float]]:
    """Direction and alpha of every point: w first, then direction after direction."""
    return [(0, 0.0), *((d, a) for d in range(directions) for a in alphas if a)]
