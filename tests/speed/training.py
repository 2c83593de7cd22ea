"""The rows of training: one step of AT and of AT-AWP, against the recipe written out plainly.

The plain step is what the authors' recipe says (arXiv 2004.05884), in its order: gradients of all
weights while crafting, a proxy network that takes an SGD step for the weight adversary, and a clean
pass for the training log. B images, x (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from awp_train.faster import running_of
from awp_train.step import build
from awp_train.step import step as our_step
from bench.attacks.geometry import Ball
from bench.schema import AwpConfig, ThreatModel, TrainConfig
from bench.streams import Streams
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


# ---------------------------------------------------------------- the recipe, plainly


def craft(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None, config: TrainConfig
) -> Tensor:
    """PGD in the mode the network is in; of the one restart, the perturbation that raises the loss."""
    assert config.threat is not None
    eps = config.threat.epsilon
    best_loss, best = torch.zeros(len(y)), torch.zeros_like(x)
    delta = torch.empty_like(x).uniform_(-eps, eps) if start is None else start.clone()
    delta = torch.clamp(delta, -x, 1 - x).requires_grad_(True)
    for _ in range(config.attack_steps):
        F.cross_entropy(model(x + delta), y).backward()  # fills the gradients of all weights too
        assert delta.grad is not None
        moved = delta.detach() + config.attack_relative_step * eps * delta.grad.sign()
        delta.data = torch.clamp(torch.clamp(moved, -eps, eps), -x, 1 - x)
        delta.grad.zero_()
    loss = F.cross_entropy(model(x + delta), y, reduction="none")
    higher = loss >= best_loss
    best[higher] = delta.detach()[higher]
    return torch.clamp(x + best, 0, 1)


def weight_adversary(
    model: nn.Module, proxy: nn.Module, x_adv: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """By name, the proxy's ascent step on the loss, brought to the norm of each weight."""
    proxy.load_state_dict(model.state_dict())
    # Its learning rate cancels when the step is rescaled.
    ascent = torch.optim.SGD(proxy.train().parameters(), lr=0.01)
    (-F.cross_entropy(proxy(x_adv), y)).backward()
    ascent.step()
    ascent.zero_grad()
    moved, direction = proxy.state_dict(), {}
    for name, weight in model.state_dict().items():
        if weight.dim() > 1 and "weight" in name:
            difference = moved[name] - weight
            direction[name] = weight.norm() / (difference.norm() + 1e-20) * difference
    return direction


def shift(model: nn.Module, direction: dict[str, Tensor], coefficient: float) -> None:
    """Adds coefficient * direction to the weights, in place."""
    with torch.no_grad():
        for name, change in direction.items():
            model.get_parameter(name).add_(coefficient * change)


def plain_side(
    config: TrainConfig, model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None
) -> Callable[[], None]:
    """A function that makes one step of the recipe, of the network it keeps."""
    proxy, optimiser = copy.deepcopy(model), sgd(config, model)

    def step() -> None:
        model.train()
        x_adv, direction = craft(model, x, y, start, config), {}
        if config.awp:
            direction = weight_adversary(model, proxy, x_adv, y)
            shift(model, direction, config.awp.gamma)
        loss = F.cross_entropy(model(x_adv), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if config.awp:
            shift(model, direction, -config.awp.gamma)
        F.cross_entropy(model(x), y).item()  # for the log, in train mode and with its graph

    return step


# ---------------------------------------------------------------- ours beside it


def sgd(config: TrainConfig, model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum,
        weight_decay=config.weight_decay,
    )  # fmt: skip


def our_side(config: TrainConfig, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """The same for ours."""
    optimiser, running = sgd(config, model), running_of(model, config, x[:2])
    return partial(our_step, model, optimiser, config, x, y, epoch=0, batch=0, running=running)


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
