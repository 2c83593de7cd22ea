"""Random changes of training images: crops, mirroring, cutout."""

from __future__ import annotations

import pytest
import torch

from awp_train.batches import PADDING, crop_flip, cutout
from bench.streams import Streams


def test_crops_come_from_the_padded_image_and_from_the_streams_alone():
    x = torch.rand(64, 3, 8, 8)
    out = crop_flip(x, Streams.for_batch(64, "augment", 0))
    assert torch.equal(out, crop_flip(x, Streams.for_batch(64, "augment", 0)))
    assert not torch.equal(out, crop_flip(x, Streams.for_batch(64, "augment", 1)))
    padded = torch.nn.functional.pad(x, (PADDING,) * 4, mode="reflect")
    places = set()
    for image, source in zip(out, padded, strict=True):
        found = [
            (top, left, flipped)
            for flipped in (False, True)
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
            if torch.equal(
                image.flip(-1) if flipped else image,
                source[:, top : top + 8, left : left + 8],
            )
        ]
        assert found
        places.update(found)
    assert {flipped for *_, flipped in places} == {False, True}
    assert len({top for top, *_ in places}) == len({left for _, left, _ in places}) == 9


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_cutout_blackens_one_square_cut_off_at_the_edges(side):
    x = torch.rand(400, 2, 8, 8) + 0.5
    out = cutout(x, Streams.for_batch(400, "cutout", 0), side=side)
    assert torch.equal(out, cutout(x, Streams.for_batch(400, "cutout", 0), side=side))
    assert not torch.equal(out, cutout(x, Streams.for_batch(400, "cutout", 1), side=side))
    black = out == 0
    assert torch.equal(out[~black], x[~black])
    assert torch.equal(black[:, 0], black[:, 1])
    middles = set()
    for mask in black[:, 0]:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert torch.equal(mask, mask.any(1)[:, None] & mask.any(0)[None, :])
        for reach in (rows, columns):
            assert len(reach) == int(reach[-1] - reach[0]) + 1  # no gap
            assert len(reach) == side or int(reach[0]) == 0 or int(reach[-1]) == 7
            assert (side + 1) // 2 <= len(reach) <= side
        middles.add((int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])))
    assert len(middles) == 64  # every pixel is the middle of some square
