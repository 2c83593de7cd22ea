"""RobustBench's benchmark() and ours, on one network and the same images: the numbers agree."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import evaluate
from bench.sources.robustbench_repairs import AutoAttack, import_robustbench

N, EPS, BATCH = 9, "2/255", 5
TOLERANCE = 1  # image: random numbers differ between the engines, and an image can hang on them


@pytest.mark.slow
def test_benchmark_and_ours_agree_on_the_same_network(tmp_path, monkeypatch, capsys):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 10)
    ).eval()
    images = torch.randint(0, 256, (N, 3, 32, 32), dtype=torch.uint8)
    x = images.float() / 255
    with torch.no_grad():
        y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 10

    import_robustbench()
    benchmark = import_module("robustbench.eval")
    cifar10 = import_module("robustbench.model_zoo.enums").BenchmarkDataset.cifar_10
    loaders = import_module("robustbench.data")._clean_dataset_loaders
    monkeypatch.setitem(loaders, cifar10, lambda n, folder, prepare: (x[:n], y[:n]))
    found = []

    class Seeded(AutoAttack):
        """With the seed of ours, where benchmark() leaves it to the clock; and keeps the images."""

        def __init__(self, *args, **options):
            super().__init__(*args, seed=0, **options)

        def run_standard_evaluation(self, *args, **options):
            found.append(super().run_standard_evaluation(*args, **options))
            return found[-1]

    monkeypatch.setattr(benchmark, "AutoAttack", Seeded)
    monkeypatch.chdir(tmp_path)  # to_disk writes ./model_info
    clean, robust = benchmark.benchmark(
        net, n_examples=N, dataset="cifar10", threat_model="Linf", eps=2 / 255,
        batch_size=BATCH, to_disk=True, model_name="tiny",
    )  # fmt: skip
    with torch.no_grad():
        standing = (net(found[0]).argmax(1) == y).tolist()
    assert 0 < sum(standing) < N - 1  # neither engine has an easy answer

    said = {"threat": f"linf:{EPS}", "protocol": "autoattack", "batch": BATCH}
    reference = evaluate(net, images, y, engine="reference", **said)
    assert reference.standing("autoattack").tolist() == standing
    assert reference.clean_accuracy == clean == (N - 1) / N
    assert reference.robust_accuracy["autoattack"] == robust
    written = json.loads(Path("model_info/cifar10/Linf/tiny.json").read_text())
    assert float(written["clean_acc"]) == round(100 * reference.clean_accuracy, 2)
    assert float(written["autoattack_acc"]) == round(
        100 * reference.robust_accuracy["autoattack"], 2
    )

    ours = evaluate(net, images, y, engine="ours", **said)
    assert ours.clean_accuracy == clean
    assert abs(int(ours.standing("autoattack").sum()) - sum(standing)) <= TOLERANCE
