"""What a run costs wherever it runs, counted in passes through the network; no clock, no device.

The unit is one forward pass of one image. Going back to the input costs one more, going back to the
weights too costs two.
"""

from __future__ import annotations

import math

from bench.catalogue import OBJECTIVES, training_images
from bench.schema import TrainConfig

# Multiplications of one forward pass of a 3x32x32 image; a test counts them again.
FORWARD_MACS = {
    "preact_resnet18": 555_422_720,
    "wide_resnet28_10": 5_243_328_768,
    "wide_resnet34_10": 6_658_906_368,
    "vgg19_bn": 398_136_320,
}
# Operations a second that one GPU of the H100 or H200 kind is assumed to sustain on such images in
# bf16 with channels last: a cautious range, not measured. float32 takes several times as long.
SUSTAINED = (80e12, 40e12)


def crafting_passes(config: TrainConfig) -> int:
    """Passes of one image while its adversarial example is crafted once."""
    objective = OBJECTIVES[config.objective]
    return 2 * config.attack_steps + objective.craft_passes if objective.craft else 0


def step_passes(config: TrainConfig, *, perturbed: bool) -> int:
    """Passes of one image in one training step; perturbed: with the weights' adversary at work."""
    loss = 3 * OBJECTIVES[config.objective].loss_passes
    crafting, awp = crafting_passes(config), config.awp
    if awp is None or not perturbed or awp.direction == "random":
        return crafting + loss
    return awp.alternations * (crafting + awp.steps * loss) + loss


def learnt_images(config: TrainConfig) -> int:
    """Labelled images of the data set that a run learns from."""
    return config.n_train or training_images(config) - config.n_validation


def images_of_an_epoch(config: TrainConfig) -> int:
    """Images that pass in one epoch: the labelled ones, and what extra images each batch has."""
    fraction = config.extra.fraction if config.extra else OBJECTIVES[config.objective].unlabelled
    return round(learnt_images(config) / (1 - fraction))


def training_passes(config: TrainConfig) -> int:
    """Passes of all steps of a run."""
    warm_up = min(config.awp.warm_up, config.epochs) if config.awp else config.epochs
    plain = warm_up * step_passes(config, perturbed=False)
    perturbed = (config.epochs - warm_up) * step_passes(config, perturbed=True)
    return images_of_an_epoch(config) * (plain + perturbed)


def validation_passes(config: TrainConfig) -> int:
    """Passes of all measurements of a run: PGD on training and on validation images."""
    parts = (learnt_images(config), config.n_validation, config.log_test_images)
    images = sum(min(part, config.log_images) for part in parts)
    return images * math.ceil(config.epochs / config.log_every) * (2 * config.log_attack_steps + 2)


def of_a_run(config: TrainConfig) -> int:
    """Passes of a whole run, training and validation."""
    return training_passes(config) + validation_passes(config)


def gpu_hours(config: TrainConfig) -> tuple[float, float]:
    """The fewest and the most hours of one GPU under SUSTAINED; 2 operations a multiplication."""
    operations = of_a_run(config) * 2 * FORWARD_MACS[config.arch]
    fewest, most = (operations / rate / 3600 for rate in SUSTAINED)
    return fewest, most
