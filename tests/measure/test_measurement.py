"""The measurement: records that hold, and evidence for every broken bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench import evaluate, evidence
from bench.attacks import Attack
from bench.attacks.geometry import admissible
from bench.judge import Judge
from bench.measure import shards
from bench.measure.evaluate import measure
from bench.protocols import protocol
from bench.records import store
from bench.schema.packing import unpack_floats
from bench.stats.curve import standing_at
from tests.measure.short_protocols import QUICK, run, shortened


def test_record_round_trip_and_properties(whole, tmp_path):
    record = whole.record
    assert 0 < record.worst_case <= record.robust_accuracy["mixed"] < record.clean_accuracy
    assert record.clean_accuracy == 70 / 80
    assert record.worst_case_standing.sum() == record.worst_case_count
    path = store.write(record, tmp_path)
    again = store.read(path)
    assert again == record
    assert store.same_answer(again, record)
    assert store.write(record, tmp_path) == path  # the identical record again: nothing happens
    assert list(again.robust_accuracy) == ["fgsm", "mixed"]


def test_every_broken_bit_is_in_the_evidence(whole, net, images):
    y = torch.from_numpy(whole.record.label_array)
    for name, proof in evidence.from_bytes(whole.evidence).items():
        broken = whole.record.clean_correct & ~whole.record.standing(name)
        assert sorted(proof.index) == np.flatnonzero(broken).tolist()
        index = torch.from_numpy(proof.index).long()
        adversarial = proof.decode(images)
        verdict = Judge(net)(adversarial, y[index])
        assert verdict.broken.all()
        assert admissible(images[index], adversarial, whole.record.threat, QUICK).all()
        predicted = whole.record.adversarial_predictions(name)[proof.index]
        assert predicted.tolist() == verdict.predictions.tolist()


def test_the_answer_does_not_depend_on_how_many_rows_are_in_the_model(whole, net, images):
    few, many = run(net, images, batch=16).record, whole.record
    for name in few.columns:
        assert few.standing(name).tolist() == many.standing(name).tolist()
    assert few.id == many.id


def test_mixed_precision_is_offered_or_refused_with_the_reason(whole, net, images, monkeypatch):
    exact = whole.record
    monkeypatch.setattr("bench.measure.search._unsupported", lambda device: "this is a test")
    refused = run(net, images, precision="mixed").record
    assert "float32: this is a test" in refused.environment["searched"]
    assert refused.standing("mixed").tolist() == exact.standing("mixed").tolist()
    assert refused.id != exact.id
    monkeypatch.setattr("bench.measure.search._unsupported", lambda device: None)
    for scale in (0.01, 100):  # thresholds are relative to the model's own logits
        mixed = run(nn.Sequential(net, Scaled(scale)).eval(), images, precision="mixed").record
        assert "bfloat16 search, float32 verdicts" in mixed.environment["searched"]
        assert mixed.worst_case <= exact.worst_case + 0.002


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, logits):
        return logits * self.scale


def test_uint8_survivors_are_counted(net):
    """Steps of 8/255 on 8-bit images stay on the grid, so every broken image survives rounding."""
    x = (torch.rand(60, 1, 8, 8) * 255).round() / 255
    y = net(x).argmax(1)
    record = measure(net, x, y, threat="linf:20/255", protocol=QUICK).record
    (fgsm,) = record.columns["fgsm"].outcomes
    assert fgsm.broken == fgsm.uint8_survivors > 5
    for outcome in record.columns["mixed"].outcomes:
        assert 0 <= outcome.uint8_survivors <= outcome.broken


def test_clipping_is_never_done_by_the_runner(net, images, monkeypatch):
    """An attack that leaves the ball gains nothing: its examples are rejected, and that is said."""

    monkeypatch.setitem(shards.ATTACKS, "fgsm", Attack(lambda problem, **_: 1 - problem.x))
    outcome = run(net, images).record.columns["fgsm"].outcomes[0]
    assert outcome.broken == 0
    assert outcome.rejected > 60


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes(classes, make_net):
    """pyautoattack's own driver raises below ten classes; every attack runs here."""
    net = make_net(1, 8, classes)
    x = torch.rand(8, 1, 8, 8)
    short = shortened(protocol("autoattack", classes=classes))
    record = evaluate(net, x, net(x).argmax(1), threat="linf:0.05", protocol=short)
    assert record.failure is None
    assert record.worst_case < 1
    assert ("few-classes" in {f.name for f in record.flags}) == (classes < 4)
    assert record.adversarial_predictions("autoattack").max() < classes


def test_security_curve_lies_at_or_below_autoattack_at_its_radius(net, images):
    """The nearest points of FMN and of all evidence: at eps no image stands again."""
    x = images[:30]
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 10
    short = shortened(protocol("curve"))
    record = measure(net, x, y, threat="linf:0.02", protocol=short).record
    assert record.failure is None
    far = unpack_floats(record.columns["curve"].distances, record.n)
    assert record.columns["autoattack"].distances is None
    assert (far[~record.clean_correct] == 0).all()
    assert np.isfinite(far).all()  # a box this large hides no class from FMN
    grid = [0.0, 0.005, 0.02, 0.1, 1.0]
    standing = standing_at(far, grid, norm="linf", protocol=short)
    assert standing[0] == record.clean_correct.sum()
    assert standing[2] <= record.standing("autoattack").sum()
    assert standing[2] == record.worst_case_standing.sum()
    assert sorted(standing, reverse=True) == standing.tolist()
    assert standing[-1] == 0
