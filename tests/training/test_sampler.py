"""Batches of an epoch: one pass over the labelled images, extra ones beside them, keyed by seed."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from awp_train.batches import epoch_batches, extra_share
from bench.schema import ExtraData, InvalidInput, TrainConfig


def mixed(batch: int, fraction: float, n: int = 50, seed: int = 0) -> TrainConfig:
    extra = ExtraData(file="extra.npz", sha256="0" * 64, n=n, fraction=fraction)
    return TrainConfig(dataset="digits", batch=batch, seed=seed, extra=extra)


def plain_order(seed: int, n: int, epoch: int) -> torch.Tensor:
    """The order that committed runs were trained in, written out."""
    digest = hashlib.sha256(json.dumps([seed, "order", epoch]).encode()).digest()
    key = int.from_bytes(digest[:7], "little")
    return torch.randperm(n, generator=torch.Generator().manual_seed(key))


@given(st.integers(1, 70), st.integers(2, 25), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_without_extra_data_the_order_is_that_of_committed_runs(n, batch, seed, epoch):
    config = TrainConfig(dataset="digits", batch=batch, seed=seed)
    order = plain_order(seed, n, epoch)
    slices = [slice(i, i + batch) for i in range(0, n, batch) if n - i > 1]
    batches = epoch_batches(config, n, 0, epoch)
    assert len(batches) == len(slices)
    assert all(torch.equal(b, order[s]) for b, s in zip(batches, slices, strict=True))


def test_an_order_as_a_literal():
    """A change of torch's permutation or of the keys would change every committed run."""
    batches = epoch_batches(TrainConfig(dataset="digits", batch=4, seed=3), 9, 0, 7)
    assert [b.tolist() for b in batches] == [[3, 4, 7, 1], [5, 6, 2, 8]]


@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(2, 25), st.floats(0.01, 0.99),
    st.integers(0, 2),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_mixed_batches_are_one_pass_of_full_batches(n, n_extra, batch, fraction, epoch):
    config = mixed(batch, fraction, n_extra)
    share = extra_share(config)
    assert 1 <= share <= batch - 1
    assert abs(share - batch * fraction) <= 0.5 or share in (1, batch - 1)
    batches = epoch_batches(config, n, n_extra, epoch)
    assert len(batches) == -(-n // (batch - share))
    assert all(len(b) == batch and b.max() < n + n_extra and b.min() >= 0 for b in batches)
    assert all((b < n).sum() == batch - share for b in batches[:-1])
    labelled = torch.cat([b[b < n] for b in batches])
    assert sorted(labelled.tolist()) == list(range(n))
    order = plain_order(0, n, epoch)  # each batch holds the labelled images of its turn
    for b, turn in zip(batches, order.split(batch - share), strict=True):
        assert set(b[b < n].tolist()) == set(turn.tolist())


def test_extra_images_are_drawn_with_replacement_and_evenly():
    config = mixed(100, 0.9, n=5)
    drawn = torch.cat([b[b >= 200] for b in epoch_batches(config, 200, 5, 0)]) - 200
    counts = torch.bincount(drawn, minlength=5).float()
    assert len(drawn) == 20 * 90
    assert ((counts - 360).abs() < 5 * 17).all()  # five deviations of a binomial share of 1/5


def test_batches_are_shuffled_together():
    """Else the first half of every batch would be labelled, and one device would see that alone."""
    batches = torch.stack(epoch_batches(mixed(20, 0.5), 400, 50, 0))
    first = (batches[:, :10] < 400).float().mean()
    assert abs(first - 0.5) < 5 * 0.5 / 400**0.5


def test_batches_depend_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    one = torch.stack(epoch_batches(mixed(20, 0.5), 40, 50, 0))
    torch.manual_seed(2)
    torch.rand(3)
    assert torch.equal(one, torch.stack(epoch_batches(mixed(20, 0.5), 40, 50, 0)))
    assert not torch.equal(one, torch.stack(epoch_batches(mixed(20, 0.5), 40, 50, 1)))
    assert not torch.equal(one, torch.stack(epoch_batches(mixed(20, 0.5, seed=1), 40, 50, 0)))


def test_extra_data_without_images_is_refused():
    with pytest.raises(InvalidInput, match="no images"):
        epoch_batches(mixed(20, 0.5), 40, 0, 0)
