"""What a landscape is of: a checkpoint, its training and test images, and the threat."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bench import datasets
from bench.catalogue import DATASETS
from bench.datasets import Examples
from bench.landscape.curves import Labelled
from bench.landscape.record import Images, Part
from bench.measure import sweep
from bench.measure.gap import at_most
from bench.schema import InvalidInput, ModelCard, ThreatModel
from bench.sources import checkpoint

IMAGES = 1000  # of each part, where no other number is asked for


@dataclass(frozen=True)
class Subject:
    """A checkpoint folder and what is asked of it."""

    folder: Path
    threat: str | None = None  # None: that it was trained against, or the data set's
    n: int = IMAGES  # at most so many images of each part
    split: str = "test"  # which test images
    source: str | None = None  # where images of one's own lie
    device: str = "cpu"


@dataclass(frozen=True)
class Opened:
    """A network (eval mode) with its images; without training settings only test images are known."""

    model: nn.Module
    card: ModelCard
    parts: dict[Part, Examples]
    threat: ThreatModel

    def tensors(self, device: str) -> dict[Part, Labelled]:
        """Images (N, C, H, W) in [0, 1] and labels (N,) of each part."""
        return {part: (e.x.to(device), e.labels.to(device)) for part, e in self.parts.items()}

    def images(self) -> dict[Part, Images]:
        """The parts as records name them."""
        return {
            part: Images(split=e.split, examples_sha256=e.sha256, n=len(e))
            for part, e in self.parts.items()
        }


@functools.lru_cache(maxsize=1)  # a process looks at one network after another
def opened(subject: Subject) -> Opened:
    """Reads it. Raises InvalidInput for other images than those that the card names."""
    model, card = checkpoint.load(subject.folder, device=subject.device)
    if subject.n < 1:
        raise InvalidInput(f"n must be at least 1, got {subject.n}")
    own = card.train is not None and card.train.own is not None
    if subject.source not in (None, card.dataset) and (subject.source in DATASETS or not own):
        raise InvalidInput(
            f"{subject.folder} was trained on {card.dataset}, and its landscape is that of these "
            f"images; leave --dataset {subject.source} out"
        )
    if card.train is None:
        job = sweep.make_job(
            subject.folder, dataset=subject.source, threat=subject.threat, split=subject.split,
            device=subject.device,
        )  # fmt: skip
        test = datasets.load(job.dataset, job.split, name=job.dataset_name)
        return Opened(model, card, {"test": at_most(test, subject.n)}, job.threat)
    training, _ = datasets.training_split(card.train, source=subject.source)
    test = datasets.of_run(card.train, subject.split, source=subject.source)
    threat = ThreatModel.asked(subject.threat) if subject.threat else card.train.threat
    if threat is None:
        raise InvalidInput(
            f"{subject.folder}: the run names no threat model; give --threat linf:8/255"
        )
    parts: dict[Part, Examples] = {
        "train": at_most(training, subject.n), "test": at_most(test, subject.n),
    }  # fmt: skip
    return Opened(model, card, parts, threat)
