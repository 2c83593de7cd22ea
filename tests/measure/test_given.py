"""Images and labels as people hand them in: what is measured, or the sentence that names the value."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench import AutoAttack, evaluate
from bench.measure.given import given
from bench.schema import InvalidInput
from tests.measure.short_protocols import QUICK

N = 6
PIXELS = (np.arange(N * 64, dtype=np.int64).reshape(N, 1, 8, 8) * 7) % 256
X = torch.from_numpy(PIXELS).to(torch.uint8).float() / 255
Y = torch.tensor([0, 1, 2, 3, 4, 5])


def inference_made() -> torch.Tensor:
    with torch.inference_mode():
        return X.clone()


def read_only() -> np.ndarray:
    array = X.numpy().copy()
    array.setflags(write=False)
    return array


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; files of them are still about
        return torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)


def rounded(value: float) -> torch.Tensor:
    x = X.clone()
    x[2, 0, 3, 4] = value
    return x


IMAGES = {
    "as they are": X,
    "requires grad": X.clone().requires_grad_(True),
    "a result of a graph": X.clone().requires_grad_(True) * 1,
    "made in inference mode": inference_made(),
    "float64": X.double(),
    "array": X.numpy(),
    "negative strides": np.ascontiguousarray(X.numpy()[::-1])[::-1],
    "other byte order": X.numpy().astype(">f4"),
    "Fortran order": np.asfortranarray(X.numpy()),
    "read-only": read_only(),
    "long double": X.numpy().astype(np.longdouble),
    "every second": torch.stack([X, X], 1).flatten(0, 1)[::2],
    "channels last in memory": X.contiguous(memory_format=torch.channels_last),
    "list of tensors": list(X),
    "tuple of arrays": tuple(X.numpy()),
    "nested lists": X.tolist(),
    "generator": (image for image in X),
    "parameter": nn.Parameter(X.clone()),
    "pixels": torch.from_numpy(PIXELS).to(torch.uint8),
    "int64 pixels": PIXELS,
    "uint16 pixels": PIXELS.astype(np.uint16),
    "int32 pixels": torch.from_numpy(PIXELS).int(),
}
LABELS = {
    "int64": Y,
    "list": Y.tolist(),
    "uint8": Y.to(torch.uint8),
    "uint64": Y.numpy().astype(np.uint64),
    "whole floats": Y.double(),
    "a column": Y[:, None],
    "Series": pd.Series(Y.numpy(), index=range(10, 10 + N)),
    "list of scalars": [*Y],
    "array": Y.numpy()[::-1][::-1],
}


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_images_are_what_they_mean(images):
    found = given(images, Y)
    assert torch.equal(found.x, X)
    assert found.x.is_leaf
    assert not found.x.requires_grad and not found.x.is_inference()
    assert ("8-bit" in found.note) == (
        getattr(images, "dtype", None) in (np.int64, np.uint16, torch.int32)
    )


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_are_what_they_mean(labels):
    assert given(X, labels).y.tolist() == Y.tolist()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(kind):
    assert torch.equal(given(X.to(kind), Y).x, X.to(kind).float())


def test_pixels_and_the_same_floats_have_the_ids_they_always_had():
    pixels, floats = given(PIXELS, Y).sha256, given(X, Y).sha256
    assert pixels[:12] == given(torch.from_numpy(PIXELS).to(torch.uint8), Y).sha256[:12]
    assert floats == given(X.double(), Y.tolist()).sha256 != pixels


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        DataLoader([(image, int(label)) for image, label in zip(X, Y, strict=True)], batch_size=5),
    ],
    ids=["data set", "loader", "loader of pairs"],
)
def test_a_data_set_brings_its_labels(data):
    found = given(data)
    assert torch.equal(found.x, X)
    assert torch.equal(found.y, Y)


@pytest.mark.parametrize("value", [1.0000001, 1 + 1e-6, -1e-7])
def test_rounding_is_clipped_and_said(value):
    found = given(rounded(value), Y)
    assert float(found.x[2, 0, 3, 4]) == min(max(value, 0), 1)
    assert "1 pixel values" in found.note and "were clipped" in found.note


PLACE = "image 2, channel 0, row 3, column 4 is "
WRONG_IMAGES = {
    "none": (None, "got None"),
    "a word": ("images.npy", "got str"),
    "words": (["a.png", "b.png"], "entry 0 is 'a.png'"),
    "a dict": ({"x": X}, "got dict"),
    "no images": (X[:0], "got none"),
    "an empty list": ([], "the list is empty"),
    "sparse": (X.to_sparse(), "to_dense"),
    "quantised": (quantised(), "dequantize"),
    "meta": (X.to("meta"), "holds no values"),
    "complex": (X.to(torch.complex64), "complex64"),
    "boolean": (X > 0.5, "torch.bool"),
    "objects": (np.array([None] * N, dtype=object), "object, such as None"),
    "masked": (np.ma.masked_greater(X.numpy(), 0.9), "masked"),
    "one image": (X[0], "x[None]"),
    "grey images": (X[:, 0], "x[:, None]"),
    "flat": (X.flatten(1), "reshape"),
    "channels last": (torch.rand(N, 8, 8, 3), "permute(0, 3, 1, 2)"),
    "two sizes": ([X[0], X[1], torch.rand(1, 9, 9)], "number 2 is (1, 9, 9)"),
    "two types": ([X[0], (X[1] * 255).to(torch.uint8)], "number 1 torch.uint8"),
    "not a number": (rounded(torch.nan), PLACE + "nan"),
    "infinite": (rounded(-torch.inf), PLACE + "-inf"),
    "a pixel too bright": (rounded(1.00001), PLACE + "1.00001"),
    "a pixel too dark": (rounded(-0.5), PLACE + "-0.5"),
    "of 16": (torch.from_numpy(PIXELS % 17).float(), "Divide by 16"),
    "of 255": (X * 255, "Divide by 255"),
    "of 255, rounded away": (X * 254.5, "divide by 255"),
    "from -1": (X * 2 - 1, "(x + 1) / 2"),
    "normalised": ((X - 0.13) / 0.31, "normalisation inside the model"),
    "integers beyond a byte": (PIXELS + 1, "is 256"),
    "negative integers": (PIXELS - 1, "is -1"),
    "integers of 16": (PIXELS % 17, "x / 16"),
    "zeros and ones": (PIXELS % 2, "integers 0 and 1"),
    "bytes of zeros and ones": ((PIXELS % 2).astype(np.uint8), "integers 0 and 1"),
}
WRONG_LABELS = {
    "none": (None, "no labels"),
    "a word": ("cat", "got str"),
    "words": (["cat"] * N, "entry 0 is 'cat'"),
    "an array of words": (np.array(["cat"] * N), "such as np.str_('cat')"),
    "a share": ([0, 1, 2, 1.7, 4, 5], "label 3 is 1.7"),
    "not a number": (torch.tensor([0, 1, torch.nan, 3, 4, 5]), "label 2 is nan"),
    "infinite": ([0, 1, 2, 3, float("inf"), 5], "label 4 is inf"),
    "negative": ([0, 1, 2, 3, 4, -1], "label 5 is -1"),
    "one missing": ([0, 1, 2, 3, 4, None], "entry 5 is None"),
    "one-hot": (torch.eye(10)[Y], "y.argmax(1)"),
    "one number": (3, "class numbers (N,), got ()"),
    "too few": (Y[:5], "got 6 and 5 labels"),
    "empty": ([], "the list is empty"),
    "complex": (Y.to(torch.complex64), "complex64"),
    "huge": ([0, 1, 2, 3, 4, 10**30], "is too large"),
}


@pytest.mark.parametrize(("images", "words"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_images_are_told_apart(images, words):
    with pytest.raises(InvalidInput) as told:
        given(images, Y)
    assert words in str(told.value)
    assert len(str(told.value)) < 250


@pytest.mark.parametrize(("labels", "words"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels_are_told_apart(labels, words):
    with pytest.raises(InvalidInput) as told:
        given(X, labels)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(TensorDataset(X), batch_size=2), "gives pairs"),
        (DataLoader([]), "no batch"),
        (X, "no labels"),
    ],
)
def test_data_without_labels_is_told(data, words):
    with pytest.raises(InvalidInput, match=words):
        given(data)


def test_pictures_in_a_list():
    pictures = [Image.fromarray(image[0].astype(np.uint8)) for image in PIXELS]
    assert "x[:, None]" in refused(pictures)
    assert torch.equal(given([np.asarray(p)[None] for p in pictures], Y).x, X)


def refused(images) -> str:
    with pytest.raises(InvalidInput) as told:
        given(images, Y)
    return str(told.value)


# ---------------------------------------------------------------- through the entrances


def network(channels: int = 1, size: int = 8) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * size * size, 10)).eval()


def by_evaluate(model, x, y):
    return evaluate(model, x, y, threat="linf:0.02", protocol=QUICK)


def by_autoattack(model, x, y):
    attack = AutoAttack(
        model, eps=0.02, version="custom", attacks_to_run=["apgd-ce"], verbose=False
    )
    attack.apgd.n_iter = 2
    attack.run_standard_evaluation(x, y, bs=4)
    return attack.record


ENTRANCES = pytest.mark.parametrize("entrance", [by_evaluate, by_autoattack])


@ENTRANCES
def test_what_is_handed_in_is_left_as_it_was_and_measured(entrance):
    model = network()
    y = model(X).argmax(1)
    plain = entrance(model, X, y)
    x = X.clone().requires_grad_(True)
    array = np.ascontiguousarray(X.numpy()[::-1])[::-1]
    for images in (x, inference_made(), array, [*X], rounded(float(X[2, 0, 3, 4]))):
        again = entrance(model, images, [int(label) for label in y])
        assert again.id == plain.id
        assert again.worst_case == plain.worst_case
    assert x.requires_grad and x.grad is None
    assert torch.equal(x.detach(), X)
    assert (array == X.numpy()).all()


@ENTRANCES
@pytest.mark.parametrize(
    ("channels", "size", "words"),
    [
        (3, 8, "images of (1, 8, 8)"),
        (1, 28, "it answers images (1, 28, 28)"),
        (3, 32, "it answers images (3, 32, 32)"),
    ],
)
def test_images_of_another_shape_than_the_models_are_named(entrance, channels, size, words):
    with pytest.raises(InvalidInput) as told:
        entrance(network(channels, size), X, Y)
    assert words in str(told.value)


@ENTRANCES
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 10], [0, 1, 2, 3, 4, 10**9]])
def test_a_label_one_past_the_end_is_named(entrance, labels):
    with pytest.raises(InvalidInput, match=f"10 classes, 0 to 9: label 5 is {labels[-1]}"):
        entrance(network(), X, labels)


def test_what_was_clipped_stands_in_the_record(capsys):
    assert "were clipped" in by_evaluate(network(), rounded(1.0000001), Y).environment["images"]
    AutoAttack(network(), eps=0.02).clean_accuracy(rounded(1.0000001), Y)
    assert "were clipped" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, -1, 2.5, "8", True, None])
def test_counts_are_whole_numbers(count):
    with pytest.raises(InvalidInput, match="must be an int of at least 1"):
        evaluate(network(), X, Y, threat="linf:0.1", protocol=QUICK, workers=count)
    if count is not None:
        with pytest.raises(InvalidInput, match="must be an int of at least 1"):
            AutoAttack(network()).run_standard_evaluation(X, Y, bs=count)
        with pytest.raises(InvalidInput, match="must be an int of at least 1"):
            evaluate(network(), X, Y, threat="linf:0.1", protocol=QUICK, batch=count)


def test_counts_may_be_of_numpy():
    model = network()
    record = evaluate(
        model, X, Y, threat="linf:0.02", protocol=QUICK, batch=np.int64(4), seed=np.int32(0)
    )
    assert record.environment["batch"] == "4"
