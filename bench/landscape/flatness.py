"""Flatness of the loss around w, as rises of the loss: on average, at worst, and adaptively.

average and worst: Stutz et al. 2021, arXiv 2104.04448 (||v_l||_2 <= radius ||w_l||_2 for every tensor,
biases too, but for norm layers). sharpness: Andriushchenko et al. 2023, arXiv 2302.07011
(|v_i| <= radius |w_i| for every weight). B images, L tensors.

The attack ascends the margin of normalised logits: a factor on the logits changes neither what it finds
nor the normalised losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.as_found import exact_float32, left_as_found
from bench.attacks import ENGINE_VERSION, Problem, Search
from bench.attacks.apgd import MOMENTUM, RISES, checkpoints
from bench.attacks.geometry import Ball
from bench.attacks.losses import (
    Loss,
    cross_entropy,
    fooled,
    normalised,
    normalised_margin,
)
from bench.attacks.pgd import pgd
from bench.judge import guarded
from bench.landscape.rises import PUBLISHED, Heights, Rise, Settings
from bench.landscape.weights import (
    Place,
    every,
    movable,
    of_tensors,
    outside_norm_layers,
    projected,
    scaled,
    wide,
)
from bench.schema import InvalidInput, MeasurementFailed, ThreatModel
from bench.streams import Streams

VERSION = f"{ENGINE_VERSION}.1"  # raised where a rise may come out differently
_STEP = 0.25  # of eps, in the attack
_WEIGHT_STEP = 1 / 3  # of the radius, as 0.001 at 0.003


def normalised_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) cross-entropy of normalised logits."""
    return cross_entropy(normalised(logits), y)


def error(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) 1 where misclassified."""
    return fooled(logits, y).to(torch.float32)


# What is told of every measure.
TOLD: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "normalised_cross_entropy": normalised_cross_entropy,
    "error": error,
}


@dataclass(frozen=True)
class Batch:
    """Images that share a perturbation of the weights, the network, and how it is looked at."""

    model: nn.Module
    x: Tensor  # (B, C, H, W) in [0, 1]
    y: Tensor
    place: int
    threat: ThreatModel | None  # None: clean images
    settings: Settings
    told: Mapping[str, Loss] = field(default_factory=lambda: TOLD)
    tick: Callable[[], None] = lambda: None  # called at every look

    def logits(self, x: Tensor) -> Tensor:
        """(B, K)."""
        self.tick()
        answer: Tensor = guarded(lambda: self.model(x))
        return answer

    @property
    def streams(self) -> Streams:
        """One an image, whatever the weights."""
        return Streams.for_images(self.x, self.settings.seed, "flatness")

    def crafted(self) -> Tensor:
        """(B, C, H, W) examples for the weights as they are now; the images where nothing attacks."""
        if self.threat is None:
            return self.x
        s = self.settings
        search = Search(rows=len(self.x), tick=self.tick)
        problem = Problem(self.model, self.x, self.y, self.threat, self.streams, search)
        return guarded(
            lambda: pgd(
                problem, steps=s.attack_steps, relative_step=_STEP, restarts=s.restarts,
                iterate="last", loss="normalised_margin",
            )
        )  # fmt: skip

    def heights(self, x: Tensor) -> Heights:
        """Means of what is told, at images x (B, C, H, W). Raises MeasurementFailed for no number."""
        with torch.no_grad():
            logits = self.logits(x)
            found = {
                name: float(loss(logits, self.y).double().mean())
                for name, loss in self.told.items()
            }
        for name, value in found.items():
            if not math.isfinite(value):
                raise MeasurementFailed(f"the {name} of batch {self.place} is not finite beside w")
        return found

    def normal(self, weights: Sequence[Tensor], draw: int) -> list[Tensor]:
        """L Gaussian tensors, the same for networks of one shape."""
        seed, drawn = self.settings.seed, []
        for at, w in enumerate(weights):
            stream = Streams.for_batch(1, seed, "flatness", self.place, draw, at)
            drawn.append(stream.normal(tuple(w.shape))[0].to(w.device))
        return drawn


# ---------------------------------------------------------------- the four measures


def average(batch: Batch) -> list[Rise]:
    """A rise a random v on the sphere of the radius, examples made anew at w + v."""
    with _moving(outside_norm_layers(batch.model)) as (_, saved, place):
        radii = [batch.settings.radius * norm for norm in of_tensors(wide(saved))]
        at_w, found = batch.heights(batch.crafted()), []
        for draw in range(batch.settings.draws):
            place(scaled(batch.normal(saved, draw), radii, of_tensors))
            found.append(_rise(batch, at_w, batch.heights(batch.crafted())))
    return found


def worst(batch: Batch) -> list[Rise]:
    """The rise at the end of an ascent over v and the examples together; the highest of all starts.

    w itself lies in the ball, so that no loss rises by less than 0.
    """
    with _moving(outside_norm_layers(batch.model)) as (weights, saved, place):
        at_w = batch.heights(batch.crafted())
        highest = dict(at_w)
        for start in range(batch.settings.draws):
            reached = batch.heights(_joint(batch, weights, saved, place, start))
            highest = {name: max(height, reached[name]) for name, height in highest.items()}
    return [_rise(batch, at_w, highest)]


def _joint(
    batch: Batch, weights: list[nn.Parameter], saved: list[Tensor], place: Place, start: int
) -> Tensor:
    """(B, C, H, W) examples where an ascent over both ends; the weights are left there."""
    s = batch.settings
    norms = of_tensors(wide(saved))
    radii, steps = ([share * s.radius * n for n in norms] for share in (1.0, _WEIGHT_STEP))
    # Uniform in length, as published.
    length = Streams.for_batch(1, s.seed, "length", batch.place, start).uniform((1,)).item()
    v = scaled(batch.normal(saved, start), [length * r for r in radii], of_tensors)
    x_adv, step = _walk(batch, start)
    for _ in range(s.steps):
        place(v)
        _, grad_x, grads = _height_and_gradients(batch, weights, x_adv, normalised_margin)
        v = projected(
            list(torch._foreach_add(v, scaled(grads, steps, of_tensors))), radii, of_tensors
        )
        x_adv = step(x_adv, grad_x)
    place(v)
    return x_adv


def sharpness(batch: Batch, objective: Loss = normalised_cross_entropy) -> list[Rise]:
    """The rise at the highest point that APGD finds with |v_i| <= radius |w_i|, from w.

    Under a threat the examples follow by a step at every look, and are made anew at w and at the point
    that is found. w itself lies in the box, so that no loss rises by less than 0.
    """
    with _moving(every(batch.model)) as (weights, saved, place):
        x_adv, step = batch.x, None
        if batch.threat is not None:
            _, step = _walk(batch, 0)
            x_adv = batch.crafted()
        at_w = batch.heights(x_adv)

        def look(v: list[Tensor]) -> tuple[float, list[Tensor]]:
            nonlocal x_adv
            place(v)
            loss, grad_x, grads = _height_and_gradients(batch, weights, x_adv, objective)
            if step is not None:
                x_adv = step(x_adv, grad_x)
            return loss, grads

        place(climbed(look, [batch.settings.radius * w.abs() for w in saved], batch.settings.steps))
        beside = batch.heights(batch.crafted())
    return [_rise(batch, at_w, {name: max(at_w[name], beside[name]) for name in at_w})]


def climbed(
    look: Callable[[list[Tensor]], tuple[float, list[Tensor]]], bounds: list[Tensor], steps: int
) -> list[Tensor]:
    """The v of highest loss that APGD meets in the box |v| <= bounds, L tensors, from v = 0.

    look(v) -> loss and gradients. As the attack of that name (arXiv 2003.01690, algorithm 1), each
    component in units of its bound.
    """
    windows = checkpoints(steps).tolist()
    v = before = best = [torch.zeros_like(b) for b in bounds]
    value, grads = look(v)
    best_value, best_grads = value, grads
    step, rises, checked, halved = 2.0, 0, value, True

    def inside(v: list[Tensor]) -> list[Tensor]:
        return [torch.minimum(torch.maximum(t, -b), b) for t, b in zip(v, bounds, strict=True)]

    for k in range(steps):
        if windows[k]:
            halve = rises <= RISES * windows[k] or (not halved and checked >= best_value)
            checked, rises, halved = best_value, 0, halve
            if halve:
                step, v, grads = step / 2, best, best_grads
        ahead = inside([t + step * b * g.sign() for t, b, g in zip(v, bounds, grads, strict=True)])
        mix = MOMENTUM if k else 0.0
        moved = [
            t + (a - t) * (1 - mix) + (t - o) * mix
            for t, a, o in zip(v, ahead, before, strict=True)
        ]
        before, v = v, inside(moved)
        last, (value, grads) = value, look(v)
        rises += value > last
        if value > best_value:
            best, best_value, best_grads = v, value, grads
    return best


# ---------------------------------------------------------------- parts of them


@contextmanager
def _moving(
    named: Mapping[str, nn.Parameter],
) -> Iterator[tuple[list[nn.Parameter], list[Tensor], Place]]:
    """Yields the L weights, able to take gradients, copies of them, and place(v)."""
    weights = list(named.values())
    for w in weights:
        w.requires_grad_(True)  # left_as_found puts it back
    with movable(weights) as (saved, place):
        yield weights, saved, place


def _walk(batch: Batch, start: int) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Examples at a random start, and the step (x_adv, gradient) -> x_adv of a projected ascent."""
    if batch.threat is None:
        return batch.x, lambda x_adv, grad: x_adv
    ball = Ball.around(batch.x, batch.threat)

    def step(x_adv: Tensor, grad: Tensor) -> Tensor:
        return ball.project(x_adv + _STEP * ball.eps * ball.ascent(grad))

    return ball.random_start(batch.streams.at("start", start)), step


def _height_and_gradients(
    batch: Batch, weights: list[nn.Parameter], x: Tensor, objective: Loss
) -> tuple[float, Tensor, list[Tensor]]:
    """The mean of an objective, its gradients with respect to images and to L weights."""
    z = x.detach().requires_grad_(True)
    with torch.enable_grad():
        height = objective(batch.logits(z), batch.y).mean()
        grads = torch.autograd.grad(
            height, [z, *weights], allow_unused=True, materialize_grads=True
        )
    if not math.isfinite(height.item()):
        raise MeasurementFailed(f"the loss of batch {batch.place} is not finite beside w")
    return height.item(), grads[0], [g.nan_to_num() for g in grads[1:]]


def _rise(batch: Batch, at_w: Heights, beside: Heights) -> Rise:
    return Rise(batch=batch.place, n=len(batch.y), at_w=at_w, beside=beside)


# ---------------------------------------------------------------- of a whole set of images


_TAKEN: dict[str, Callable[[Batch], list[Rise]]] = {
    "average": average, "worst": worst, "sharpness": sharpness, "adversarial-sharpness": sharpness,
}  # fmt: skip


def measure(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str,
    *,
    threat: str | ThreatModel | None = None,
    settings: Settings | None = None,
    tick: Callable[[float], None] = lambda share: None,
) -> list[Rise]:
    """The rises of a measure of a model (B, C, H, W) in [0, 1] -> logits; it is left as it was.

    name: average, worst, sharpness (of clean images) or adversarial-sharpness. Settings are the
    published ones. Without a threat all but adversarial-sharpness are of clean images. tick is told
    the share of the batches done. Raises InvalidInput for a name or threat that is none, and where the
    model has no weights; MeasurementFailed where it raises or a loss is no number.
    """
    if name not in _TAKEN:
        raise InvalidInput(f"no measure named {name!r}; there are {', '.join(_TAKEN)}")
    asked = None if threat is None or name == "sharpness" else ThreatModel.asked(threat)
    if asked is None and name == "adversarial-sharpness":
        raise InvalidInput("adversarial-sharpness needs a threat model, such as linf:8/255")
    if not len(y):
        raise InvalidInput("flatness needs at least one image")
    chosen = settings or PUBLISHED[name]
    count = math.ceil(len(y) / chosen.batch)
    found: list[Rise] = []
    with left_as_found(model), exact_float32():
        model.eval()
        for p in model.parameters():
            p.requires_grad_(False)
        pairs = zip(x.tensor_split(count), y.tensor_split(count), strict=True)
        for place, (some_x, some_y) in enumerate(pairs):
            found += _TAKEN[name](Batch(model, some_x, some_y, place, asked, chosen))
            tick((place + 1) / count)
    return found
