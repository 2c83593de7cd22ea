"""Answers that are known: the published driver's mask, and networks with proven bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import evaluate
from bench.protocols import protocol
from bench.records import store
from tests.measure.short_protocols import shortened

KNOWN = (
    Path(__file__).parents[2] / "results/cifar10-sdp200/linf-2_255/cnn_a_adv/fded66626d55decb.json"
)


def test_same_mask_as_the_published_driver(make_net):
    """autoattack, attack by attack, equals pyautoattack's own run: same batches, same seed."""
    from pyautoattack import AutoAttack

    net = make_net(3, 8, 10, seed=3)
    x = torch.rand(20, 3, 8, 8)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    short = shortened(protocol("autoattack", norm="l2"))
    record = evaluate(
        net, x, y, threat="l2:0.3", protocol=short, seed=5, engine="reference", batch=256
    )

    driver = AutoAttack(net, norm="L2", eps=0.3, seed=5)
    for attack in (driver.apgd, driver.apgd_targeted, driver.fab):
        attack.n_iter = attack.n_iter_orig = 20
    for attack in (driver.apgd, driver.apgd_targeted):
        attack.n_iter_2, attack.n_iter_min, attack.size_decr = 4, 1, 1
    driver.square.n_queries = 200
    x_adv, _ = driver.run_standard_evaluation(x, y, batch_size=256)
    with torch.no_grad():
        mask = (net(x).argmax(1) == y) & (net(x_adv).argmax(1) == y)
    assert 0 < int(mask.sum()) < 19
    assert record.standing("autoattack").tolist() == mask.tolist()


def test_cnn_a_lies_between_its_proven_and_its_published_bound(shared):
    """The quick protocol on a network with verified bounds; `standard` runs in the slow tests."""
    model, data = _cnn_a(shared, "adv")
    record = evaluate(model, data.images, data.labels, threat="linf:2/255", protocol="gradient")
    assert record.clean_accuracy == 0.70
    assert 0.485 <= record.worst_case < 0.70


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_autoattack_on_cnn_a(shared):
    """On the first 60 of the 200 images that results/ has whole: 101 stand, published 101."""
    model, data = _cnn_a(shared, "adv")
    known = store.read(KNOWN).standing("autoattack")
    assert int(known.sum()) == 101
    record = evaluate(
        model, data.images[:60], data.labels[:60], threat="linf:2/255", protocol="autoattack"
    )
    assert int((record.standing("autoattack") != known[:60]).sum()) <= 1


def _cnn_a(shared, name):
    from bench import models
    from bench.datasets import load
    from bench.sources.checkpoint import load_weights, read_state_dict

    arguments = {"in_channels": 3, "image_size": 32, "num_classes": 10}
    mean, std = (125.3 / 255, 123 / 255, 113.9 / 255), (63 / 255, 62.1 / 255, 66.7 / 255)
    model = models.build("cnn_a", arguments, mean=mean, std=std)
    path = shared / "external" / f"cnn_a_{name}.pt"
    load_weights(model.net, read_state_dict(path), str(path))
    return model.eval(), load(f"arrays:{shared}/external", name="cifar10-sdp200")
