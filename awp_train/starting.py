"""The checkpoint that fine-tuning starts from: all its weights but those of the last layer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bench import checkpoint
from bench.schema import InvalidInput, TrainConfig


def load_start(model: nn.Module, folder: Path, config: TrainConfig) -> None:
    """Copies the weights of a checkpoint into the model, whose last layer keeps its fresh ones.

    Raises InvalidInput where the checkpoint is not the one config.start names or has another shape.
    """
    source, card = checkpoint.load(folder)
    if config.start is None or card.weights_sha256 != config.start.weights_sha256:
        raise InvalidInput(f"{folder} is not the checkpoint this run starts from (sha256 differs)")
    if card.arch != config.arch:
        raise InvalidInput(f"{folder} is a {card.arch}, but the run trains a {config.arch}")
    ours, theirs = model.state_dict(), source.state_dict()
    last = list(ours)[-1].rpartition(".")[0] + "."
    for name, value in ours.items():
        if name.startswith(last):
            continue
        if name not in theirs or theirs[name].shape != value.shape:
            raise InvalidInput(f"{folder}: {name} does not fit this run's network")
        with torch.no_grad():
            value.copy_(theirs[name])
