"""The networks and images that speed is measured on; each is absent with a reason, or ready.

N images, K classes. Networks are in eval mode and map (N, C, H, W) in [0, 1] to logits (N, K).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import models
from bench import datasets
from bench.schema import BenchError, ThreatModel
from bench.sources import checkpoint
from bench.sources.robustbench_repairs import import_robustbench

# Exceptions, besides InvalidInput for a wrong call:
#   BenchError
#   └── Unavailable   a network, a library or a feature is not here; the rows that need it say so


class Unavailable(BenchError, RuntimeError):
    """What a row needs is not here; the text says what, and where it would come from."""


DIGITS = Path(__file__).parents[2] / "results/digits/linf-0.15/digits-at-awp-s0-last"
# Of the SDP-FO networks, part of the model (arXiv 2010.11645).
CNN_A_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CNN_A_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


@dataclass(frozen=True)
class Subject:
    """A network with the images it is attacked on."""

    model: nn.Module
    x: Tensor  # (N, C, H, W) float32 in [0, 1]
    y: Tensor  # (N,) int64
    threat: ThreatModel

    def __len__(self) -> int:
        return len(self.y)

    def first(self, n: int) -> Subject:
        """The first n images; Unavailable where there are fewer."""
        if len(self) < n:
            raise Unavailable(f"expected {n} images, there are {len(self)}")
        return Subject(self.model, self.x[:n], self.y[:n], self.threat)

    def correct(self) -> Subject:
        """The images that the network gets right unattacked."""
        with torch.no_grad():
            right = torch.cat([self.model(x).argmax(1) for x in self.x.split(256)]) == self.y
        return Subject(self.model, self.x[right], self.y[right], self.threat)


def resnet18(networks: Path) -> Subject:
    """CIFAR ResNet-18 trained for one short pass: some images stay robust. Never a published number."""
    import_robustbench()
    architecture = importlib.import_module("robustbench.model_zoo.architectures.resnet")
    model = architecture.ResNet18()
    weights = checkpoint.read_state_dict(_present(networks / "external/resnet18_speed.pt"))
    checkpoint.load_weights(model, weights, "resnet18_speed.pt")
    return _cifar10(networks, model.eval(), "linf:8/255", 128)


def cnn_a(networks: Path) -> Subject:
    """CNN-A, PGD-trained, with the 200 images on which verifiers report it."""
    folder = _present(networks / "external")
    x = torch.from_numpy(np.load(_present(folder / "images.npy"))).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(np.load(_present(folder / "labels.npy"))).long()
    return Subject(_cnn_a(folder), x, y, ThreatModel.parse("linf:2/255"))


def cnn_a_on_cifar10(networks: Path) -> Subject:
    """The same network with more images: the first 512 of CIFAR-10, two shards of an evaluation."""
    return _cifar10(networks, _cnn_a(_present(networks / "external")), "linf:2/255", 512)


def digits(networks: Path) -> Subject:
    """The small network of a committed record, with scikit-learn's digits."""
    model, _ = checkpoint.load(_present(DIGITS))
    data = datasets.load("digits", "test", n=200)
    return Subject(model, data.x, data.labels, ThreatModel.parse("linf:0.15"))


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "resnet18": resnet18,
    "cnn-a": cnn_a,
    "cnn-a-cifar10": cnn_a_on_cifar10,
    "digits": digits,
}


def _cnn_a(folder: Path) -> nn.Module:
    model = models.build("cnn_a", {}, mean=CNN_A_MEAN, std=CNN_A_STD)
    weights = checkpoint.read_state_dict(_present(folder / "cnn_a_adv.pt"))
    checkpoint.load_weights(model.net, weights, "cnn_a_adv.pt")
    return model.eval()


def _cifar10(networks: Path, model: nn.Module, threat: str, n: int) -> Subject:
    folder = _present(networks / "data/cifar10-first1017")
    data = datasets.load(f"parquet:{folder}", "test", n=n, name="cifar10")
    return Subject(model, data.x, data.labels, ThreatModel.parse(threat))


def _present(path: Path) -> Path:
    if not path.exists():
        raise Unavailable(f"{path} is not here; --networks names the folder that holds it")
    return path
