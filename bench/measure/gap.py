"""Measures the robust generalisation gap: the same attack on training and on test images.

The attack is the board's PGD-20 column with its streams, so that the test count is that of a record of
these weights and images under that column, up to images whose margin rounding decides. B images.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bench import datasets, protocols
from bench.as_found import exact_float32
from bench.attacks import ATTACKS, Problem, Search
from bench.attacks.losses import cross_entropy
from bench.datasets import Examples, as_float
from bench.gap import GapPart, RobustGap
from bench.judge import Judge
from bench.schema import (
    Column,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    ThreatModel,
    TrainConfig,
)
from bench.sources import checkpoint
from bench.streams import Streams

IMAGES = 1000  # at most so many of each part
COLUMN = "pgd20"  # steps of eps / 4, one start; an image is broken that any iterate breaks
SEED = 0  # of the attack
_BATCH = 500  # images


def measure_gap(
    model: nn.Module,
    training: Examples,
    test: Examples,
    config: TrainConfig,
    *,
    weights_sha256: str,
    epoch: int | None = None,
    n: int | None = None,
) -> RobustGap:
    """The gap of a model (B, C, H, W) in [0, 1] -> logits at its weights, which stay as they are.

    training are the images a run was trained on, in the order drawn by its seed, without extra ones;
    test are those of the test part. The first n of each count, by default IMAGES. Raises InvalidInput
    where the run names no threat, MeasurementFailed where a loss is not finite.
    """
    if config.threat is None:
        raise InvalidInput("the run names no threat model, so there is nothing to attack with")
    most = IMAGES if n is None else n
    if most < 1:
        raise InvalidInput(f"n must be at least 1, got {most}")
    column = protocols.COLUMNS[COLUMN](config.threat.norm, training.class_count)
    mode = model.training
    model.eval()
    try:
        with exact_float32():
            parts = [
                _measured(model, at_most(part, most), config.threat, column)
                for part in (training, test)
            ]
    finally:
        model.train(mode)
    return RobustGap(
        weights_sha256=weights_sha256,
        dataset=config.dataset,
        epoch=epoch,
        threat=config.threat,
        attack=column.attacks[0],
        seed=SEED,
        training=parts[0],
        test=parts[1],
    )


def gap_of_checkpoint(
    folder: Path,
    *,
    n: int | None = None,
    split: str = "test",
    source: str | None = None,
    device: str = "cpu",
) -> tuple[RobustGap, ModelCard]:
    """The gap of a checkpoint folder; its training images are drawn again as its card says.

    split: which test images, such as "test[1000:2000]"; of them at most n. source: where images of
    one's own lie. Raises InvalidInput where the card holds no training settings, or names other images.
    """
    model, card = checkpoint.load(folder, device=device)
    if card.train is None:
        raise InvalidInput(
            f"{folder}: the card holds no training settings, so its training images are not known"
        )
    if source not in (None, card.train.dataset) and card.train.own is None:
        raise InvalidInput(
            f"{folder} was trained on {card.train.dataset}, and its gap is that of these images; "
            f"leave --dataset {source} out"
        )
    training, _ = datasets.training_split(card.train, source=source)
    test = datasets.of_run(card.train, split, source=source)
    found = measure_gap(
        model, training, test.first(min(n or IMAGES, len(test))), card.train,
        weights_sha256=card.weights_sha256, epoch=card.epoch_kept, n=n,
    )  # fmt: skip
    return found, card


def at_most(part: Examples, n: int) -> Examples:
    """The first n images, or all of fewer; the split says so."""
    return part if len(part) <= n else replace(part[:n], split=f"first {n} of {part.split}")


def _measured(model: nn.Module, part: Examples, threat: ThreatModel, column: Column) -> GapPart:
    (spec,) = column.attacks
    attack, judge, search = ATTACKS[spec.name].function, Judge(model), Search(rows=_BATCH)
    device = next(model.parameters()).device
    clean_correct = robust_correct = 0
    loss = 0.0
    for first in range(0, len(part), _BATCH):
        some = part[slice(first, first + _BATCH)]
        x, y = as_float(some.images.to(device)), some.labels.to(device)
        streams = Streams.for_images(x, SEED, column.column_id).at(spec.name)
        x_adv = attack(Problem(model, x, y, threat, streams, search), **spec.params)
        broken = judge(x_adv, y).broken
        right = ~judge(x, y).broken
        clean_correct += int(right.sum())
        robust_correct += int((right & ~broken).sum())
        if bool(broken.any()):  # the same walk to its end; the attack left these where they broke
            to_the_end = spec.params | {"iterate": "last"}
            rest = Problem(model, x[broken], y[broken], threat, streams[broken], search)
            x_adv[broken] = attack(rest, **to_the_end)
        with torch.no_grad():
            loss += float(cross_entropy(model(x_adv), y).double().sum())
    if not math.isfinite(loss):
        raise MeasurementFailed(f"the loss on {part.split} under attack is not finite")
    return GapPart(
        split=part.split,
        examples_sha256=part.sha256,
        n=len(part),
        clean_correct=clean_correct,
        robust_correct=robust_correct,
        robust_loss=loss / len(part),
    )
