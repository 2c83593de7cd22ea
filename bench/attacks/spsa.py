"""SPSA: gradient ascent without gradients (Uesato et al. 2018, arXiv 1802.05666, algorithm 1).

The slope is estimated from the loss at pairs of points around the iterate, so that a network whose
gradients are hidden or useless is climbed all the same. D = C * H * W, S samples, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.attacks.geometry import Ball
from bench.attacks.losses import margin
from bench.attacks.problem import Problem
from bench.streams import Streams

BLOCK = 64  # directions that share a draw: bounds memory, and is part of the outcome
BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8  # Adam's usual constants; the paper names no others


def spsa(
    problem: Problem,
    *,
    steps: int = 100,
    lr: float = 0.01,
    delta: float = 0.001,
    samples: int = 256,
) -> Tensor:
    """Adam on the margin with slopes from `samples` random directions, projected after each step.

    lr and delta are lengths in the pixel range [0, 1], not fractions of eps. Each direction is asked
    at both ends, so an iteration costs 2 * samples forward passes. The image itself is the start; the
    first iterate that fools the model is returned, else the last. Returns (B, C, H, W), detached.
    Raises InvalidInput under l1.

    Recalled, not read: the start, Adam, and 100 iterations of 256 samples, which are the AWP paper's.
    Differs from the paper: probes are clipped to [0, 1], which halves the slope of a pixel at its end
    (Adam rescales it), and the iterate that fools is looked for after every step.
    """
    ball = Ball.around(problem.x, problem.threat)
    x_adv = ball.x.clone()
    # One image at a time: its probes fill the batch, and no pass depends on its neighbours.
    with torch.no_grad():
        for place in torch.arange(len(x_adv), device=x_adv.device).split(1):
            x_adv[place] = _climb(problem.at(place), ball[place], steps, lr, delta, samples)
    return x_adv


def _climb(
    problem: Problem, ball: Ball, steps: int, lr: float, delta: float, samples: int
) -> Tensor:
    """The search for one image (1, C, H, W)."""
    z = ball.x
    first, second = torch.zeros_like(z), torch.zeros_like(z)  # Adam's moments
    for step in range(steps):
        problem.search.tick()
        slope = _slope(problem, z, _directions(problem.streams, samples, z, step), delta)
        first = BETA_1 * first + (1 - BETA_1) * slope
        second = BETA_2 * second + (1 - BETA_2) * slope.square()
        mean = first / (1 - BETA_1 ** (step + 1))
        spread = (second / (1 - BETA_2 ** (step + 1))).sqrt()
        z = ball.project(z + lr * mean / (spread + TINY))
        if bool(
            problem.search.verdict(z, problem.y, problem.model(z), torch.zeros_like(problem.y))
        ):
            break
    return z


def _directions(streams: Streams, samples: int, like: Tensor, step: int) -> Tensor:
    """(S, C, H, W) of -1 and 1, fair and independent; a random word gives 32 of them."""
    size, device = like[0].numel(), like.device
    bit = torch.arange(32, device=device)
    blocks = []
    for number, first in enumerate(range(0, samples, BLOCK)):
        count = min(BLOCK, samples - first) * size
        draw = step * math.ceil(samples / BLOCK) + number
        words = streams.words(math.ceil(count / 32), draw)[0]
        blocks.append(((words[:, None] >> bit) & 1).flatten()[:count].to(like.dtype))
    return (2 * torch.cat(blocks) - 1).view(samples, *like.shape[1:])


def _slope(problem: Problem, z: Tensor, directions: Tensor, delta: float) -> Tensor:
    """The estimated gradient of the margin at z (1, C, H, W)."""

    def value(probes: Tensor) -> Tensor:
        logits = problem.model(probes.clamp(0, 1))
        return margin(logits, problem.y.expand(len(probes))).to(probes.dtype)

    gains = torch.cat([
        value(z + delta * part) - value(z - delta * part)
        for part in directions.split(problem.search.rows)
    ])  # fmt: skip
    gains = gains.nan_to_num(0, 0, 0)  # a probe without an answer says nothing about the slope
    return torch.tensordot(gains, directions, dims=1)[None] / (2 * delta * len(directions))
