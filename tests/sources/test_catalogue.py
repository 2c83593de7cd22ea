"""A data set is one function and one line, an architecture too: nothing else must be told of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.__main__ import main
from bench.catalogue import (
    ARCHITECTURES,
    DATASETS,
    ArchitectureInfo,
    Argument,
    DatasetInfo,
    fitted_arguments,
)
from bench.datasets import training_split
from bench.models import small_cnn
from bench.schema import TrainConfig


def read_bands(name: str, root: Path, part: str, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images of 2 channels and 10 x 10 pixels, bright in one of three bands."""
    labels = np.arange(60 if part == "train" else 30) % 3
    images = np.zeros((len(labels), 2, 10, 10), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 3] = 200
    return images, labels


def one_layer(in_channels: int = 1, image_size: int = 8, num_classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))


def test_a_new_data_set_and_architecture_are_read_built_and_measured(tmp_path, monkeypatch, capsys):
    reader = f"{__name__}:read_bands"
    line = DatasetInfo(2, 10, ("top", "middle", "bottom"), "linf:0.1", 60, 30, reader)
    monkeypatch.setitem(DATASETS, "bands", line)
    names = ("in_channels", "image_size", "num_classes")
    entry = ArchitectureInfo({n: Argument(8, n) for n in names}, "this test")
    monkeypatch.setitem(ARCHITECTURES, "one_layer", entry)
    monkeypatch.setattr(small_cnn, "one_layer", one_layer, raising=False)
    training, validation = training_split(TrainConfig(dataset="bands", n_validation=20))
    assert (training.images.shape, len(validation)) == ((40, 2, 10, 10), 20)
    monkeypatch.chdir(tmp_path)
    net = one_layer(**fitted_arguments("one_layer", "bands"))
    with torch.no_grad():  # each class looks at its band
        bands, _ = read_bands("", tmp_path, "test", False)
        net[1].weight.copy_(torch.from_numpy(bands[:3]).flatten(1) / 200)
        net[1].bias.zero_()
    torch.save(net.state_dict(), "net.pt")
    call = ["import", "net.pt", "--arch", "one_layer", "--dataset", "bands", "--name", "a"]
    assert main([*call, "--checkpoints", "c"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "c/a", "--protocol", "quick", "--out", "r", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["dataset"], answer["threat"], answer["n"]) == ("bands", "linf:0.1", 30)
    assert answer["clean"] == 1.0
    assert main(["list"]) == 0
    assert "bands" in capsys.readouterr().out
    assert main(["table", "--results", "r"]) == 0
