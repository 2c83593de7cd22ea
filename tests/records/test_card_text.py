"""What is said of the images that a network learnt from: never a whole where it was a part."""

from __future__ import annotations

import pytest

from awp_train.presets import find
from bench.records.card_text import images_text, trained_on
from bench.schema import ModelCard

FIVE = "0:1017,10000:11017,20000:21017,30000:31017,40000:41017"


@pytest.mark.parametrize(
    ("preset", "changed", "images", "data"),
    [
        ("cifar10-at", {}, "all training images", "cifar10"),
        ("fashion_mnist-at", {}, "all training images", "fashion_mnist"),
        ("digits-at", {}, "200 training images", "200 training images of digits"),
        ("cifar10-first5085-at", {}, "5,085 of cifar10's training images",
         f"5,085 of cifar10's training images ({FIVE})"),
        ("cifar10-first5085-prn18w16-at-awp", {"n_train": 2000}, "2,000 training images",
         f"2,000 training images of cifar10, drawn from {FIVE}"),
        ("cifar10-first5085-at", {"train_indices": "5:6,90:190"}, "101 of cifar10's training images",
         "101 of cifar10's training images (5:6,90:190)"),
    ],
)  # fmt: skip
def test_a_card_says_how_many_images_of_the_data_set(preset, changed, images, data):
    train = find(preset).config.model_copy(update=changed)
    card = ModelCard(
        name="a", dataset=train.dataset, class_count=10, weights_sha256="0" * 64, n_parameters=1,
        train=train,
    )  # fmt: skip
    assert (images_text(train), trained_on(card)) == (images, data)
    assert trained_on(card.model_copy(update={"train": None})) == train.dataset
