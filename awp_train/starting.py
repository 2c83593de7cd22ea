"""The checkpoint that fine-tuning starts from (Hendrycks et al. 2019, arXiv 1901.09960)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bench.catalogue import architecture_arguments
from bench.records.store import sha256_of
from bench.schema import InvalidInput, StartingPoint, TrainConfig
from bench.sources import checkpoint
from models import Normalized


def describe_start(folder: Path) -> StartingPoint:
    """The entry of a configuration for this checkpoint.

    Raises InvalidInput where it is not complete or its weights are not those of its card.
    """
    card = checkpoint.read_card(folder)
    weights = folder / checkpoint.WEIGHTS
    if not weights.is_file():
        raise InvalidInput(f"{folder} is not complete: {checkpoint.WEIGHTS} is missing")
    if sha256_of(weights) != card.weights_sha256:
        raise InvalidInput(f"{weights} is not the file its card names (sha256 differs)")
    return StartingPoint(name=card.name, weights_sha256=card.weights_sha256)


def load_start(model: Normalized, folder: Path, config: TrainConfig) -> None:
    """Copies a checkpoint's weights and BatchNorm statistics into a freshly built model.

    The last layer keeps its fresh weights, which the run's seed drew, whatever the classes were: as
    in Hendrycks et al., the new task has a new head. Raises InvalidInput where the checkpoint is not
    the one that the configuration names, or is another network: architecture, arguments besides the
    class count, input normalisation.
    """
    if config.start is None:
        raise InvalidInput(f"the configuration names no starting point, so {folder} cannot be used")
    with torch.random.fork_rng(devices=[]):  # its network is built, with weights drawn, then filled
        start, card = checkpoint.load(folder)
    if card.weights_sha256 != config.start.weights_sha256:
        raise InvalidInput(
            f"{folder} is not the checkpoint {config.start.name} that this run starts from: its "
            f"weights are {card.weights_sha256[:12]}…, expected "
            f"{config.start.weights_sha256[:12]}…"
        )
    if card.arch != config.arch:
        raise InvalidInput(f"{folder} is a {card.arch}, but this run trains a {config.arch}")
    theirs = architecture_arguments(config.arch, dict(card.arch_args))
    ours = architecture_arguments(config.arch, dict(config.arch_args))
    other = {k: (theirs[k], ours[k]) for k in ours if k != "num_classes" and theirs[k] != ours[k]}
    other |= {
        k: (getattr(card, k), getattr(config, k))
        for k in ("mean", "std")
        if getattr(card, k) != getattr(config, k)
    }
    if other:
        told = ", ".join(f"{k} {a}, this run {b}" for k, (a, b) in other.items())
        raise InvalidInput(f"{folder} is another {config.arch}: it has {told}")
    head = head_name(model.net)
    kept = {k: v for k, v in model.net.state_dict().items() if k.startswith(head)}
    model.net.load_state_dict(start.net.state_dict() | kept)


def head_name(net: nn.Module) -> str:
    """The prefix of the last layer's parameters, "linear." or "12.": the last linear layer."""
    linear = [name for name, part in net.named_modules() if isinstance(part, nn.Linear)]
    assert linear, "every architecture of the registry ends in a linear layer"
    return f"{linear[-1]}."
