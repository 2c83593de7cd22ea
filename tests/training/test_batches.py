"""The images of every step: one pass over the labelled ones, extra ones beside them, and changes."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from awp_train.batches import PADDING, crop_flip, cutout, epoch_batches, generator, seed_of
from bench.schema import ExtraData, TrainConfig
from bench.streams import Streams
from tests.training.tiny_runs import TINY


def mixed(batch: int, fraction: float, n: int = 50, seed: int = 0) -> TrainConfig:
    extra = ExtraData(file="extra.npz", sha256="0" * 64, n=n, fraction=fraction)
    return TrainConfig(dataset="digits", batch=batch, seed=seed, extra=extra)


def plain_order(seed: int, n: int, epoch: int) -> torch.Tensor:
    """The order that committed runs were trained in, written out."""
    digest = hashlib.sha256(json.dumps([seed, "order", epoch]).encode()).digest()
    key = int.from_bytes(digest[:7], "little")
    return torch.randperm(n, generator=torch.Generator().manual_seed(key))


@given(st.integers(1, 70), st.integers(2, 25), st.integers(0, 3), st.integers(0, 3))
@examples(max_examples=50, deadline=None)
def test_without_extra_data_the_order_is_that_of_committed_runs(n, batch, seed, epoch):
    """Without a last batch of one image."""
    config = TrainConfig(dataset="digits", batch=batch, seed=seed)
    expected = [part for part in plain_order(seed, n, epoch).split(batch) if len(part) > 1]
    batches = epoch_batches(config, n, 0, epoch)
    assert [b.tolist() for b in batches] == [b.tolist() for b in expected]


def test_an_order_as_a_literal():
    """A change of torch's permutation or of the keys would change every committed run."""
    batches = epoch_batches(TrainConfig(dataset="digits", batch=4, seed=3), 9, 0, 7)
    assert [b.tolist() for b in batches] == [[3, 4, 7, 1], [5, 6, 2, 8]]


@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(2, 25), st.floats(0.01, 0.99),
    st.integers(0, 2),
)  # fmt: skip
@examples(max_examples=80, deadline=None)
def test_mixed_batches_are_one_pass_of_full_batches(n, n_extra, batch, fraction, epoch):
    batches = epoch_batches(mixed(batch, fraction, n_extra), n, n_extra, epoch)
    labelled = [b[b < n] for b in batches]
    assert all(len(b) == batch and b.max() < n + n_extra and b.min() >= 0 for b in batches)
    assert sorted(torch.cat(labelled).tolist()) == list(range(n))
    share = batch - max(map(len, labelled)) if len(batches) > 1 else None
    if share is not None:
        assert 1 <= share <= batch - 1
        assert abs(share - batch * fraction) <= 0.5 or share in (1, batch - 1)
        # Each batch holds the labelled images of its turn.
        turns = plain_order(0, n, epoch).split(batch - share)
        assert [set(b.tolist()) for b in labelled] == [set(turn.tolist()) for turn in turns]


def test_extra_images_are_drawn_with_replacement_and_evenly():
    drawn = torch.cat([b[b >= 200] for b in epoch_batches(mixed(100, 0.9, n=5), 200, 5, 0)]) - 200
    counts = torch.bincount(drawn, minlength=5).float()
    assert len(drawn) == 20 * 90
    assert ((counts - 360).abs() < 5 * 17).all()  # five deviations of a binomial share of 1/5


def test_batches_are_shuffled_together():
    """Else the first half of every batch would be labelled, and one device would see that alone."""
    batches = torch.stack(epoch_batches(mixed(20, 0.5), 400, 50, 0))
    first = (batches[:, :10] < 400).float().mean()
    assert abs(first - 0.5) < 5 * 0.5 / 400**0.5


def test_batches_depend_on_seed_and_epoch_alone():
    calls = [(0, 0), (0, 0), (0, 1), (1, 0)]
    one, again, *others = (
        torch.stack(epoch_batches(mixed(20, 0.5, seed=s), 40, 50, e)) for s, e in calls
    )
    assert torch.equal(one, again)
    assert not any(torch.equal(one, other) for other in others)


def test_seeds_differ_by_run_and_purpose():
    paths = [("order", 0), ("order", 1), ("a", 0)]
    runs = (TINY, TINY.model_copy(update={"seed": 1}))
    assert len({seed_of(run, *path) for run in runs for path in paths}) == 6
    drawn = [torch.rand(3, generator=generator(TINY, "order", 0)) for _ in range(2)]
    assert torch.equal(*drawn)


# ---------------------------------------------------------------- changes


def streams(n: int, seed: int = 0) -> Streams:
    return Streams.for_batch(n, "change", seed)


def test_crops_come_from_the_padded_image_and_from_the_streams_alone():
    x = torch.rand(64, 3, 8, 8)
    out = crop_flip(x, streams(64))
    assert torch.equal(out, crop_flip(x, streams(64)))
    assert not torch.equal(out, crop_flip(x, streams(64, seed=1)))
    padded = torch.nn.functional.pad(x, (PADDING,) * 4, mode="reflect")
    places = set()
    for image, source in zip(out, padded, strict=True):
        crops = source.unfold(1, 8, 1).unfold(2, 8, 1)  # (C, top, left, 8, 8)
        for flipped in (False, True):
            wanted = image.flip(-1) if flipped else image
            same = (crops == wanted[:, None, None]).all(-1).all(-1).all(0)
            places |= {(flipped, *place) for place in map(tuple, same.nonzero().tolist())}
            crops_found = same.any()
            if crops_found:
                break
        assert crops_found
    assert [len({place[axis] for place in places}) for axis in range(3)] == [2, 9, 9]


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_cutout_blackens_one_square_cut_off_at_the_edges(side):
    x = torch.rand(400, 2, 8, 8) + 0.5
    out = cutout(x, streams(400), side=side)
    assert torch.equal(out, cutout(x, streams(400), side=side))
    assert not torch.equal(out, cutout(x, streams(400, seed=1), side=side))
    black = out == 0
    assert torch.equal(out[~black], x[~black])
    assert torch.equal(black[:, 0], black[:, 1])
    squares = set()
    for mask in black[:, 0]:
        reaches = [mask.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0)]
        assert torch.equal(mask, mask.any(1)[:, None] & mask.any(0)[None, :])
        for first, *_, last in ([*reach, reach[-1]] for reach in reaches):
            assert last - first + 1 == side or first == 0 or last == 7
            assert (side + 1) // 2 <= last - first + 1 <= side
        assert all(reach == list(range(reach[0], reach[-1] + 1)) for reach in reaches)  # no gap
        squares.add(tuple(map(tuple, reaches)))
    assert len(squares) == 64  # every pixel is the middle of some square
