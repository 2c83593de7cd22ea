"""One update of the weights: augment, craft, perturb the weights, loss, step; rates and averages.

B images a batch, K classes. Every random number is keyed by (seed, epoch, batch, purpose), so that
the extra pass of AWP shifts nothing: its vanilla twin sees the same crops, starts and mixtures, and as
many BatchNorm updates.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from awp_train.awp import adversarial_weights, perturbable
from awp_train.batches import batches_of, generator, seed_of, varied
from awp_train.distributed import Ranks
from awp_train.faster import Running
from awp_train.objectives import OBJECTIVES, of_easy_examples
from bench import catalogue
from bench.datasets import as_float
from bench.models import Normalized
from bench.schema import TrainConfig
from bench.streams import Streams


class Stepped(NamedTuple):
    """The loss of a step, and the images that gave it."""

    loss: Tensor  # scalar, detached, of the whole batch; under AWP that at w + v
    x: Tensor  # (B, C, H, W), augmented, of this rank's part
    y: Tensor  # (B,), or (B, K) where labels were mixed
    x_adv: Tensor


def build(config: TrainConfig) -> Normalized:
    """The network with the initial weights of this seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config, "initial weights"))
        return catalogue.build(config.arch, config.arch_args, mean=config.mean, std=config.std)


def optimiser_of(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with the rate of the start."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,  # on every parameter, biases and BatchNorm too, as in AWP
    )


def step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    x: Tensor,
    y: Tensor,
    *,
    epoch: int,
    batch: int,
    running: Running | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> Stepped:
    """One update of the weights from images x (B, C, H, W) in [0, 1] and labels y (B,).

    Of several ranks each is given the whole batch and sees its part of it.
    """
    objective = OBJECTIVES[config.objective]
    running = running or Running(model, lambda: model)
    x, y = varied(x, y, config, epoch=epoch, batch=batch)
    streams = Streams.for_batch(len(y), "craft", config.seed, epoch, batch, device=x.device)
    share = ranks.share(len(y))  # of the mean over the batch; 1 where there is one rank
    x, y, streams = ranks.part(x), ranks.part(y), ranks.part(streams)
    x_adv = x

    def craft() -> None:
        nonlocal x_adv
        if objective.craft is not None and config.threat is not None:
            # In train mode the attack's passes move the BatchNorm statistics, as in the AWP code.
            # That makes one more clean pass for its log, and from its 2nd epoch on crafts the first
            # batch of an epoch in eval mode by oversight; neither is imitated.
            model.train(config.craft_mode == "train")
            steps, relative_step = config.attack_steps, config.attack_relative_step
            net = running.crafting()
            x_adv = objective.craft(net, x, y, config.threat, streams, steps, relative_step)
        model.train()

    def loss_of_batch() -> Tensor:
        return share * objective.loss(running.training, x, x_adv, y, config.beta)

    def climbed() -> Tensor:
        """What the weights' adversary maximises."""
        if config.awp is None or config.awp.threshold is None:
            return loss_of_batch()
        net, below = running.training, config.awp.threshold
        return share * of_easy_examples(objective.loss, net, x, x_adv, y, config.beta, below)

    craft()
    optimiser.zero_grad(set_to_none=True)
    place: AbstractContextManager = nullcontext()
    if config.awp is not None and epoch >= config.awp.warm_up:
        drawn = generator(config, "weights", epoch, batch, device=x.device)
        # Crafting anew starts from the same random points, so gamma 0 stays vanilla to the bit.
        place = adversarial_weights(
            model, climbed, config=config.awp, generator=drawn, recraft=craft,
            reduce=ranks.sum_,
        )  # fmt: skip
    with place:
        loss = loss_of_batch()  # moves the BatchNorm statistics at w + v, as every known AWP does
        loss.backward()
    loss = loss.detach()
    ranks.sum_([p.grad for p in model.parameters() if p.grad is not None])
    ranks.sum_([loss])
    ranks.average_buffers(model)
    if config.l1:
        # The subgradient of l1 * sum |w| at w, over kernels and matrices (arXiv 2002.11569). It joins
        # the gradient here, as weight decay does in the optimiser: the loss that is logged and that
        # AWP maximises is without it.
        for weight in perturbable(model).values():
            if weight.grad is not None:
                weight.grad.add_(weight.detach().sign(), alpha=config.l1)
    optimiser.step()
    return Stepped(loss, x, y, x_adv)


# ---------------------------------------------------------------- learning rate

# t is the time in epochs since the start. Piecewise rates hold for whole epochs; the others change
# from step to step, and a step has the rate of its middle, so that none has the rate 0.

_PEAK = 0.4  # of the run, where the cyclic rate is highest


def learning_rate(config: TrainConfig, epoch: int, batch: int, batches: int) -> float:
    """The rate of one step: a 0-based batch among the batches of a 0-based epoch."""
    return SCHEDULES[config.schedule](config, epoch + (batch + 0.5) / batches)


def piecewise(config: TrainConfig, t: float) -> float:
    """lr / 10 ** (milestones passed), constant within an epoch.

    A milestone m is passed by the epochs from m * epochs on. The AWP code decays a batch at a time
    with t = epoch + (i + 1) / n, so there the last batch before a milestone has the lower rate
    already: 2 of 78,200 batches on CIFAR-10.
    """
    epoch = math.floor(t)
    # 1e-9: 0.07 * 100 is 7.000000000000001 in floating point.
    passed = sum(epoch >= m * config.epochs - 1e-9 for m in config.milestones)
    return float(config.lr / 10**passed)


def cosine(config: TrainConfig, t: float) -> float:
    """Half a cosine from lr to 0.

    The released RST changes the rate once an epoch; the released pre-training ends at 1e-6.
    """
    return config.lr * (1 + math.cos(math.pi * t / config.epochs)) / 2


def linear(config: TrainConfig, t: float) -> float:
    """A straight line from lr to 0."""
    return config.lr * (1 - t / config.epochs)


def cyclic(config: TrainConfig, t: float) -> float:
    """From 0 straight up to lr at 2/5 of the run, then straight down to 0 (arXiv 2002.11569).

    Their code takes the rate at the end of a step, half a step later than here.
    """
    done = t / config.epochs
    return config.lr * (done / _PEAK if done < _PEAK else (1 - done) / (1 - _PEAK))


# (config, t) -> rate
SCHEDULES: dict[str, Callable[[TrainConfig, float], float]] = {
    "piecewise": piecewise,
    "cosine": cosine,
    "cyclic": cyclic,
    "linear": linear,
}


# ---------------------------------------------------------------- averages of the weights

# Exponential (EMA) a step, or equal (SWA) an epoch. Once an average has begun it is what is validated
# and kept, while training goes on from the weights themselves. EMA averages the BatchNorm statistics
# too; those of SWA (arXiv 1803.05407) are measured anew by one pass over the unattacked, unaugmented
# training images.


def averaged_from(config: TrainConfig) -> int:
    """The first 0-based epoch whose weights enter the average; the last one's always do."""
    first = math.ceil(config.averaging_from * config.epochs - 1e-9)
    return min(first, config.epochs - 1)


def decay_of(config: TrainConfig, batches: int) -> float:
    """What an exponential average keeps of itself at each of the batches of an epoch.

    With a horizon of h epochs, weights of h epochs ago count exp(-1) times those of now.
    """
    if config.averaging_horizon is None:
        return config.averaging_decay
    return math.exp(-1 / (config.averaging_horizon * batches))


def mix_in(average: dict[str, Tensor], model: nn.Module, share: float) -> None:
    """average += share * (weights - average), in place; an empty average becomes the weights.

    Floating buffers count as weights; whole numbers, such as BatchNorm's counters, are copied.
    """
    for name, value in model.state_dict().items():
        if name not in average or not value.is_floating_point():
            average[name] = value.clone()
        else:
            average[name].lerp_(value, share)


def averaged(
    model: nn.Module, average: dict[str, Tensor], config: TrainConfig, images: Tensor
) -> nn.Module:
    """The network that is validated and kept: a copy with the averaged weights, or the model itself.

    images: (N, C, H, W), the labelled training images on the model's device.
    """
    if not average:
        return model
    copied = copy.deepcopy(model)
    copied.load_state_dict(average)
    if config.averaging == "swa":
        parts = batches_of(len(images), config.batch)
        update_bn((as_float(images[part]) for part in parts), copied)
    return copied
