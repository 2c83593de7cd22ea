"""How long a run will take on this machine, from a few timed training steps on random images."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from awp_train.faster import running_of
from awp_train.passes import images_of_an_epoch, step_passes
from awp_train.step import build, optimiser_of, step
from awp_train.train import is_logged
from bench.catalogue import dataset_info
from bench.schema import TrainConfig

_SLOW = 0.2  # seconds of the trial step of 8 images above which no whole batch is timed
_TIMED = 0.4  # seconds of timed steps


def estimated_seconds(config: TrainConfig) -> float:
    """Seconds of a run from its start, with the threads and device that training would use.

    A few times too long or short on a loaded machine; no data is read.
    """
    info = dataset_info(config.dataset)
    n_train = config.n_train or info.n_train - config.n_validation
    logged = min(n_train, config.log_images) + min(config.n_validation, config.log_images)
    logged += min(info.n_test, config.log_test_images)
    logs = sum(is_logged(config, epoch) for epoch in range(config.epochs))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config).to(device)
    optimiser = optimiser_of(model, config)
    last = config.epochs - 1  # past any warm-up

    def images(size: int) -> Tensor:
        return torch.rand(size, info.channels, info.image_size, info.image_size, device=device)

    # As in training, but never compiled: that alone takes longer than the estimate.
    running = running_of(model, config.model_copy(update={"compiled": False}), images(2))

    def timed(size: int) -> float:
        x, y = images(size), torch.arange(size, device=device) % info.class_count
        started = time.monotonic()
        float(step(model, optimiser, config, x, y, epoch=last, batch=0, running=running).loss)
        return time.monotonic() - started

    timed(8)
    size = 8 if timed(8) > _SLOW else config.batch
    timed(size)
    times = [timed(size)]
    while sum(times) < _TIMED:
        times.append(timed(size))
    per_image = sorted(times)[len(times) // 2] / size
    in_training = images_of_an_epoch(config) * config.epochs
    in_validation = (
        logged * logs * (2 * config.log_attack_steps + 2) / step_passes(config, perturbed=True)
    )
    return per_image * (in_training + in_validation)


def described(seconds: float) -> str:
    """`13 s`, `25 min` or `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
