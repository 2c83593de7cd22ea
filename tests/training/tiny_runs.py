"""Training runs of a second or less on digits, and what tests ask of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from awp_train.train import train
from bench.schema import AwpConfig, ThreatModel, TrainConfig
from bench.sources import checkpoint

TINY = TrainConfig(
    dataset="digits",
    n_train=61,  # the last image is a batch of its own, which is left out
    n_validation=40,
    arch_args={"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2},
    threat=ThreatModel.parse("linf:0.1"),
    attack_steps=2,
    log_attack_steps=2,
    epochs=5,
    batch=20,
    awp=AwpConfig(gamma=0.01, warm_up=1),
    augment="crop-flip",
)


def quiet(config: TrainConfig, folder: Path, name: str = "run", **named) -> list[Path]:
    """Trains under a folder without a word."""
    return train(
        config, name=name, out=folder / "out", runs=folder / "runs", progress=False, **named
    )


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(folder)[0].state_dict()


def lines(folder: Path) -> list[dict]:
    """The curves without the times."""
    read = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read]


def equal_runs(one: list[Path], other: list[Path]) -> bool:
    """Bit for bit, curves too."""
    return len(one) == len(other) and all(
        lines(a) == lines(b) and bits(weights(a)) == bits(weights(b))
        for a, b in zip(one, other, strict=True)
    )


def bits(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Equal where the tensors are bit for bit, also where the sign of a zero differs."""
    return {name: t.detach().numpy().tobytes() for name, t in tensors.items()}


# ---------------------------------------------------------------- single steps


def settings(objective: str = "at", **fields) -> TrainConfig:
    """Of one step, without AWP and augmentation."""
    changed = {"objective": objective, "awp": None, "augment": "none", **fields}
    return TINY.model_copy(update=changed)


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 1, 8, 8), torch.arange(size) % 10
