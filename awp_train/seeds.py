"""Seeds of what is random in a run, keyed by purpose, epoch and batch: no draw shifts another."""

from __future__ import annotations

import hashlib
import json

import torch

from bench.schema import TrainConfig


def seed_of(config: TrainConfig, *path: int | str) -> int:
    """A seed below 2**56 for a purpose such as ("order", epoch) of the run with this seed."""
    digest = hashlib.sha256(json.dumps([config.seed, *path]).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator(
    config: TrainConfig, *path: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that starts from that seed."""
    return torch.Generator(device).manual_seed(seed_of(config, *path))
