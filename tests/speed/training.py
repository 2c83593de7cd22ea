"""The rows of training: one step of AT and of AT-AWP, against the recipe written out plainly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from awp_train.faster import running_of
from awp_train.step import build
from awp_train.step import step as our_step
from bench.attacks.geometry import Ball
from bench.schema import AwpConfig, ThreatModel, TrainConfig
from bench.streams import Streams
from tests.speed.plain_awp import plain_step
from tests.speed.report import versus
from tests.speed.timing import Contest, Row, Settings, Side

BATCH, QUICK_BATCH = 48, 2
# Forward passes an image and step; a backward pass to the image alone counts as one, to the weights
# too as two. The recipe: 10 * 3 + 1 to craft, 3 to update, 1 for the log, and 3 for AWP.
PASSES = {"our AT": 23, "plain AT": 35, "our AT-AWP": 26, "plain AT-AWP": 38}


def configuration(*, awp: bool, half: bool = False) -> TrainConfig:
    """AT on CIFAR-10 as in the AWP paper, crafting in train mode as its code does."""
    return TrainConfig(
        dataset="cifar10",
        arch="preact_resnet18",
        threat=ThreatModel.parse("linf:8/255"),
        awp=AwpConfig(gamma=0.01) if awp else None,
        craft_mode="train",
        precision="bf16" if half else "float32",
    )


def our_side(config: TrainConfig, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """A function that makes one step of ours, of the network it keeps."""
    optimiser = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum,
        weight_decay=config.weight_decay,
    )  # fmt: skip
    running = running_of(model, config, x[:2])
    return partial(our_step, model, optimiser, config, x, y, epoch=0, batch=0, running=running)


def plain_side(
    config: TrainConfig, model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None
) -> Callable[[], object]:
    """The same for the recipe."""
    assert config.threat is not None
    eps = config.threat.epsilon
    step = plain_step(
        model, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, eps=eps,
        step=config.attack_relative_step * eps, steps=config.attack_steps,
        gamma=config.awp.gamma if config.awp else None,
    )  # fmt: skip
    return partial(step, x, y, start)


def update_cosine(config: TrainConfig, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Cosine between our update of the weights and the recipe's, from the same weights and start.

    In float64: whether both compute the same is asked here, and in float32 the step amplifies
    rounding a thousandfold where BatchNorm normalises a network that has not been trained.
    """
    assert config.threat is not None
    model, x = copy.deepcopy(model).double(), x.double()
    streams = Streams.for_batch(len(y), "craft", config.seed, 0, 0)
    start = Ball.around(x, config.threat).random_start(streams.at("start", 0)) - x
    ours, plain = copy.deepcopy(model), copy.deepcopy(model)
    our_side(config, ours, x, y)()
    plain_side(config, plain, x, y, start=start)()
    before, first, second = (
        torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (model, ours, plain)
    )
    return nn.functional.cosine_similarity(first - before, second - before, 0, 1e-30).item()


def _training(settings: Settings, *, half: bool, target: float) -> Contest:
    size = QUICK_BATCH if settings.quick else BATCH
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(size, 3, 32, 32, generator=generator)
    y = torch.randint(10, (size,), generator=generator)
    model = build(configuration(awp=False, half=half))
    sides = []
    for name, passes in PASSES.items():
        makes = our_side if name.startswith("our") else plain_side
        config = configuration(awp=name.endswith("AWP"), half=half)
        run = makes(config, copy.deepcopy(model), x, y)
        sides.append(Side(name, run, float(passes * size), note="one step"))
    comparisons = [
        versus("plain AT", "our AT"),
        versus("plain AT-AWP", "our AT-AWP", target),
        versus("our AT-AWP", "our AT", 1.14, bound="<="),  # the overhead of AWP
        versus("plain AT-AWP", "plain AT"),
    ]

    def facts() -> dict[str, float | str]:
        # One step of crafting: over ten, signs of near-zero gradients part in any two programs.
        config = configuration(awp=True).model_copy(update={"attack_steps": 1})
        name = (
            "cosine of our AT-AWP update and the recipe's (float64, crafted in 1 step, same start)"
        )
        return {name: round(update_cosine(config, model, x, y), 7)}

    return Contest(model, x, sides, comparisons, facts=facts)


_STEP = "one training step, PreActResNet-18, PGD-10"
ROWS = {
    "awp-step": Row(
        f"{_STEP}, float32, random images", 5, partial(_training, half=False, target=1.5)
    ),
    "awp-step-bf16": Row(
        f"{_STEP}, ours with passes in bfloat16", 5, partial(_training, half=True, target=4)
    ),
}
