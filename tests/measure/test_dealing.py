"""Dealing: every shard has as many of the hard images, and its parts are known by its images."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.attacks.losses import margin
from bench.measure import evaluate
from bench.measure.evaluate import measure
from bench.measure.shards import boundary_distance, deal, in_order, shard_count
from bench.records import store
from bench.reliability import doubts
from bench.schema import AttackSpec, Column, Protocol
from tests.measure.short_protocols import interrupted_at

FGSM = Column(name="fgsm", attacks=(AttackSpec(name="fgsm", params={"relative_step": 1.0}),))
PGD = Column(name="pgd", attacks=(AttackSpec(name="pgd", params={"steps": 5}),))
SHORT = Protocol(name="short", version=1, columns=(FGSM, PGD))


@pytest.mark.parametrize("n", [1, 15, 16, 200, 256, 257, 1000, 10_000])
def test_shards_hold_every_image_once_and_at_most_256(n):
    hardness = np.random.default_rng(0).random(n)
    for layout in (deal(hardness, shard_count(n)), in_order(n, shard_count(n))):
        assert sorted(np.concatenate(layout).tolist()) == list(range(n))
        assert max(map(len, layout)) <= 256
        assert max(map(len, layout)) - min(map(len, layout)) <= 1
        assert len(layout) == 1 if n < 16 else len(layout) >= 2


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40), st.integers(1, 5))
def test_the_hardest_are_shared_out_evenly(values, count):
    """However many images count as hard, no shard has two more of them than another; ties too."""
    hardness = np.array(values)
    layout = deal(hardness, count)
    for shard in layout:
        assert (np.diff(shard) > 0).all()
    ranked = np.argsort(-hardness, kind="stable")
    for hard in range(len(values) + 1):
        held = [len(np.intersect1d(shard, ranked[:hard])) for shard in layout]
        assert max(held) - min(held) <= 1


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_distance_is_exact_on_a_linear_model(norm, dual):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.rand(30, 3, 2, 2, dtype=torch.float64)
    y = torch.arange(30) % 2
    w = model[1].weight.detach()
    expected = (-margin(model(x).detach(), y)).clamp_min(0) / (w[0] - w[1]).norm(p=dual)
    found = boundary_distance(model, x, y, norm)
    assert np.allclose(found, expected, rtol=1e-5)
    assert 0 < (found == 0).sum() < 30
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_without_gradients_is_ranked_by_its_margin(net):
    x = torch.rand(6, 1, 8, 8)
    y = net(x).argmax(1)
    found = boundary_distance(lambda z: net(z).detach(), x, y, "linf")
    assert np.allclose(found, -margin(net(x).detach(), y))
    nothing = boundary_distance(lambda z: torch.full((len(z), 10), torch.nan), x, y, "linf")
    assert np.isfinite(nothing).all()


@pytest.fixture
def interrupted(net, tmp_path, monkeypatch):
    """A measurement stopped before its last part; (call that goes on, folder of its parts)."""
    x = torch.rand(40, 1, 8, 8)
    y = net(x).argmax(1)

    def go_on(**more):
        return measure(net, x, y, threat="linf:0.02", protocol=SHORT, work=tmp_path, **more)

    with monkeypatch.context() as patched:
        interrupted_at(4, patched)
        with pytest.raises(KeyboardInterrupt):
            measure(net, x, y, threat="linf:0.02", protocol=SHORT, work=tmp_path)
    whole = measure(net, x, y, threat="linf:0.02", protocol=SHORT)
    monkeypatch.setattr(evaluate.shutil, "rmtree", lambda *a, **k: None)
    return go_on, next(tmp_path.iterdir()), whole


def test_parts_of_another_layout_are_another_job(interrupted):
    """Parts under other names, or of other images, are neither read nor counted."""
    go_on, folder, whole = interrupted
    parts = sorted(folder.glob("*.npz"))
    assert len(parts) == 3
    parts[0].rename(folder / "0000000-20-abcdef012345-0.npz")  # as an earlier version named them
    (folder / "hardness.npy").unlink()  # and the images are dealt again, to the same shards
    again = go_on()
    assert store.same_answer(again.record, whole.record)
    assert again.evidence == whole.evidence
    assert len(list(folder.glob("*.npz"))) == 1 + 4


def test_a_damaged_layout_is_dealt_again_and_said(interrupted, caplog):
    go_on, folder, whole = interrupted
    (folder / "hardness.npy").write_bytes(b"not an array")
    with caplog.at_level(logging.WARNING):
        assert store.same_answer(go_on().record, whole.record)
    assert "hardness.npy is damaged" in caplog.text


@pytest.mark.parametrize("damage", [None, b"[{", b'[{"name": "randomised", "raised": 3}]'])
def test_doubts_are_kept_like_a_part(damage, interrupted, monkeypatch, caplog):
    go_on, folder, whole = interrupted
    go_on()
    kept = folder / "doubts.json"
    looked = []
    real = doubts.model_findings
    monkeypatch.setattr(doubts, "model_findings", lambda *a: looked.append(1) or real(*a))
    if damage is not None:
        kept.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        again = go_on()
    assert store.same_answer(again.record, whole.record)
    assert len(looked) == (damage is not None)
    assert ("doubts.json is damaged" in caplog.text) == (damage is not None)
