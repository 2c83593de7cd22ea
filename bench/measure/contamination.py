"""Measures the losses of training, test and second images: the check of contamination.

The attack is the board's FGSM: the check holds whatever the attack finds, since every part meets the
same one, and one step tells training images from others about as well as twenty. B images, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench import datasets, protocols
from bench.as_found import exact_float32
from bench.attacks import ATTACKS, Problem, Search
from bench.attacks.losses import cross_entropy, fooled
from bench.catalogue import DATASETS
from bench.contamination import LEAST, Contamination, Loss, Orders, Part
from bench.datasets import Examples, as_float
from bench.judge import Watched
from bench.readers import folders
from bench.schema import (
    Column,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    ThreatModel,
    TrainConfig,
)
from bench.sources import checkpoint
from bench.stats.rank_sum import Stratum, strata
from bench.streams import Streams

IMAGES = 10_000  # at most so many test and second images
TRAINING = 2000  # at most so many training images: they only say what could be seen
COLUMN = "fgsm"
REPEATED = 0.01  # share of second images that may be training or test images: data sets repeat some
# Data sets whose test images were not divided from the training images at random, and why.
APART = {"mnist": "its test images were written by other people"}
_BATCH = 500  # images


@dataclass(frozen=True)
class Parts:
    """Which images are compared."""

    training: Examples | None  # that the network learnt from; None: not known
    test: Examples
    second: Examples  # kept from the network, of the distribution of the test images


def check(
    model: nn.Module,
    parts: Parts,
    card: ModelCard,
    *,
    threat: ThreatModel | None,
    trained_on: Literal["run", "declared"] = "run",
    n: int = IMAGES,
) -> Contamination:
    """The check of a model (B, C, H, W) in [0, 1] -> logits, which stays as it is.

    The first n of each part count. trained_on: "run" or "declared", who says which images these are.
    Without a threat nothing is attacked, nor under l1, for which FGSM has no form. Raises InvalidInput
    where a part is too small or second images are among the others, MeasurementFailed where a loss is
    not finite.
    """
    if threat is not None and threat.norm == "l1":
        threat = None
    test, second = _first(parts.test, n, "test"), _first(parts.second, n, "second")
    _refuse_unfit(replace(parts, second=second), card)
    training = parts.training and _first(parts.training, min(n, TRAINING), "training")
    column = None
    if threat is not None:
        column = protocols.COLUMNS[COLUMN](threat.norm, test.class_count)
    mode = model.training
    model.eval()
    try:
        with exact_float32():
            beside = _looked(model, second, threat, column)
            tested = _looked(model, test, threat, column)
            trained = training and _looked(model, training, threat, column)
    finally:
        model.train(mode)
    return Contamination(
        weights_sha256=card.weights_sha256,
        dataset=test.name,
        epoch=card.epoch_kept,
        threat=threat,
        attack=column.attacks[0] if column else None,
        trained_on=trained_on,
        training=trained.part if trained else None,
        test=tested.part,
        second=beside.part,
        losses={
            loss: Orders(
                test=tested.strata(beside, loss),
                training=trained.strata(beside, loss) if trained else (),
            )
            for loss in tested.losses
        },
    )


def check_checkpoint(
    folder: Path,
    *,
    n: int | None = None,
    split: str = "test",
    second: str | None = None,
    trained_on: str | None = None,
    source: str | None = None,
    threat: ThreatModel | None = None,
    device: str = "cpu",
) -> tuple[Contamination, ModelCard]:
    """The check of a checkpoint folder; its training images are drawn again as its card says.

    trained_on: what its submitter declares instead, such as "train[0:50000]" of `source`, a data set
    (default: the card's). second: a split of it, or the form and folder of images of one's own; by
    default the training images that the run never learnt from. threat: by default what it was trained
    against. At most n of each part count, of training images TRAINING. Raises InvalidInput where it is
    not known what the network was trained on or kept from.
    """
    model, card = checkpoint.load(folder, device=device)
    parts = _parts(card, folder, split, second, trained_on, source)
    found = check(
        model, parts, card, threat=threat or card.threat, n=IMAGES if n is None else n,
        trained_on="run" if trained_on is None else "declared",
    )  # fmt: skip
    return found, card


def _parts(
    card: ModelCard,
    folder: Path,
    split: str,
    second: str | None,
    trained_on: str | None,
    source: str | None,
) -> Parts:
    if trained_on is None and card.train is not None:
        if source not in (None, card.train.dataset) and card.train.own is None:
            raise InvalidInput(
                f"{folder} was trained on {card.train.dataset}; leave --dataset {source} out, or say "
                "with --trained-on which of its images are stated"
            )
        training, kept = _drawn(card.train, source)
        test = datasets.of_run(card.train, split, source=source)
        where = source or card.train.dataset
    else:
        if trained_on is None or second is None:
            raise InvalidInput(
                f"{folder}: not checked. The card holds no training settings: say with --trained-on "
                '"train[0:50000]" what it is stated to be trained on, and with --second '
                '"train[50000:60000]" what it was kept from'
            )
        where = source or card.dataset
        training, kept = datasets.load(where, trained_on), None
        test = datasets.load(where, split)
    whole = DATASETS[where].whole or where if where in DATASETS else where
    if second is None and whole in APART:
        raise InvalidInput(
            f"{folder}: not checked. {where} has no second set: {APART[whole]}, so that test images "
            "may be easier without having been trained on"
        )
    if second is not None:
        of_folder = second.partition(":")[0] in folders.FORMS
        kept = datasets.load(second) if of_folder else datasets.load(where, second)
    if kept is None or len(kept) < LEAST:
        raise InvalidInput(
            f"{folder}: not checked. Of the training images of {where} the run left {len(kept or ())}, "
            f"and {LEAST} are needed; say with --second which others it never saw"
        )
    return Parts(training, test, kept)


def _drawn(config: TrainConfig, source: str | None) -> tuple[Examples, Examples]:
    """Training images of a run, and those of the training part that it never learnt from.

    The images that chose its best epoch come last. Which images a file of extra ones holds the card
    does not say, so that only these are left where there is one.
    """
    training, validation, unused = datasets.drawn_parts(config, source=source)
    if config.extra is not None:
        return training, validation
    images = torch.cat([unused.images, validation.images])
    labels = torch.cat([unused.labels, validation.labels])
    return training, replace(
        unused, images=images, labels=labels, split=f"{unused.split}, {validation.split}"
    )


def _first(part: Examples, n: int, name: str) -> Examples:
    if min(n, len(part)) < LEAST:
        raise InvalidInput(
            f"expected at least {LEAST} {name} images, got {min(n, len(part))} ({part.split})"
        )
    return part if len(part) <= n else replace(part[:n], split=f"first {n} of {part.split}")


def _refuse_unfit(parts: Parts, card: ModelCard) -> None:
    """Refuses images of another shape or of classes that the network lacks, and shared ones.

    A second set that holds training or test images hides a sign.
    """
    second = parts.second
    for part, what in ((second, "second"), (parts.test, "test"), (parts.training, "training")):
        if part is None:
            continue
        if int(part.labels.max()) >= card.class_count:
            raise InvalidInput(
                f"{what} images have labels up to {int(part.labels.max())}, the network has "
                f"{card.class_count} classes"
            )
        if part.images.shape[1:] != second.images.shape[1:]:
            raise InvalidInput(
                f"second images are (C, H, W) = {tuple(second.images.shape[1:])}, {what} images "
                f"{tuple(part.images.shape[1:])}"
            )
        known = set() if what == "second" else set(_digests(part))
        shared = sum(each in known for each in _digests(second))
        if shared > REPEATED * len(second):
            raise InvalidInput(
                f"{shared} of the {len(second)} second images ({second.split}) are {what} images too; "
                "name with --second images that the network was kept from"
            )


def _digests(part: Examples) -> Iterator[bytes]:
    for image in (255 * part.x).round().to(torch.uint8).numpy():  # however they are stored
        yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()


# ---------------------------------------------------------------- one part


@dataclass(frozen=True)
class _Looked:
    """What a network makes of a part: how many are right, and the loss of every image."""

    part: Part
    labels: np.ndarray  # (N,)
    losses: dict[Loss, np.ndarray]  # (N,) nats each

    def strata(self, other: _Looked, loss: Loss) -> tuple[Stratum, ...]:
        found = strata(self.losses[loss], self.labels, other.losses[loss], other.labels)
        if not found:
            raise InvalidInput(f"{self.part.split} and {other.part.split} have no class in common")
        return found


def _looked(
    model: nn.Module, part: Examples, threat: ThreatModel | None, column: Column | None
) -> _Looked:
    watched, device = Watched(model), next(model.parameters()).device
    losses: dict[Loss, list[Tensor]] = {"clean": []}
    clean = attacked = 0
    for first in range(0, len(part), _BATCH):
        some = part[slice(first, first + _BATCH)]
        x, y = as_float(some.images.to(device)), some.labels.to(device)
        right, loss = _answered(watched, x, y)
        clean += int(right.sum())
        losses["clean"].append(loss)
        if threat is not None and column is not None:
            (spec,) = column.attacks
            streams = Streams.for_images(x, 0, column.column_id).at(spec.name)
            problem = Problem(watched, x, y, threat, streams, Search(rows=_BATCH))
            still, loss = _answered(watched, ATTACKS[spec.name].function(problem, **spec.params), y)
            attacked += int((right & still).sum())
            losses.setdefault("attacked", []).append(loss)
    found = {loss: torch.cat(values).cpu().numpy() for loss, values in losses.items()}
    if not all(np.isfinite(values).all() for values in found.values()):
        raise MeasurementFailed(f"a loss on {part.split} is not finite")
    counted = Part(
        split=part.split,
        examples_sha256=part.sha256,
        n=len(part),
        clean_correct=clean,
        attacked_correct=None if threat is None else attacked,
    )
    return _Looked(counted, part.labels.numpy(), found)


def _answered(watched: Watched, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) whether the untouched model is right, and the cross-entropy in float64.

    In float32 the losses of what a network is sure of would be tied at zero.
    """
    with torch.no_grad():
        logits = watched(x)
    return ~fooled(logits, y), cross_entropy(logits.double(), y)
