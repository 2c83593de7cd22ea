"""Images and labels of any form: the same measurement, or a sentence that names the value."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bench import AutoAttack, evaluate
from bench.datasets import Examples, examples_sha256
from bench.measure.given import given
from bench.schema import AttackSpec, Column, InvalidInput, ModelCard, Protocol
from bench.until_sure import compare_until_sure
from tests.conftest import small_net

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.tensor([1, 0, 3, 2, 1, 5, 4, 9])
BYTES = (X * 255).round().byte()
FGSM = AttackSpec(name="fgsm", params={"relative_step": 1.0})
CHEAP = Protocol(name="cheap", version=1, columns=(Column(name="fgsm", attacks=(FGSM,)),))


class Untransformed(Dataset):
    """As torchvision's data sets are without a transform: (PIL image, int)."""

    def __len__(self):
        return len(Y)

    def __getitem__(self, k):
        return Image.fromarray(BYTES[k, 0].numpy()), int(Y[k])


def inferred():
    with torch.inference_mode():
        return X.clone(), Y.clone()


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


SAME = {
    "tensors": lambda: (X, Y),
    "requires grad": lambda: (X.clone().requires_grad_(), Y),
    "a parameter": lambda: (nn.Parameter(X.clone()), Y),
    "inference mode": inferred,
    "negative strides": lambda: (X.numpy()[..., ::-1].copy()[..., ::-1], Y.numpy()[::-1].copy()[::-1]),
    "fortran order": lambda: (np.asfortranarray(X.numpy()), Y.numpy()),
    "channels-last memory": lambda: (X.contiguous(memory_format=torch.channels_last), Y),
    "big-endian": lambda: (X.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "memory": lambda: (memoryview(X.numpy()), memoryview(Y.numpy())),
    "read-only": lambda: (read_only(X.numpy()), read_only(Y.numpy())),
    "float64, float labels": lambda: (X.double(), Y.float()),
    "unsigned labels": lambda: (X.numpy(), Y.numpy().astype(np.uint64)),
    "lists of tensors": lambda: (list(X), list(Y)),
    "lists of arrays": lambda: (list(X.numpy()), list(Y.numpy())),
    "lists of batches": lambda: ([X[:3], X[3:]], [Y[:3], Y[3:]]),
    "lists of numbers": lambda: (X.tolist(), Y.tolist()),
    "mixed labels": lambda: (X, [1, 0.0, np.int32(3), torch.tensor(2), 1, 5, 4, 9]),
    "an iterator": lambda: (iter(X), iter(Y)),
    "a column of labels": lambda: (X, Y[:, None]),
    "a series": lambda: (X, pd.Series(Y.numpy(), index=range(8, 0, -1))),
    "a nullable series": lambda: (X, pd.Series(Y.tolist(), dtype="Int64")),
    "a frame": lambda: (X, pd.DataFrame({"class": Y.numpy()})),
    "objects": lambda: (X, np.array(Y.tolist(), dtype=object)),
    "nothing masked": lambda: (np.ma.masked_array(X.numpy()), Y),
    "a loader": lambda: (DataLoader(TensorDataset(X, Y), batch_size=3), None),
    "a data set": lambda: (TensorDataset(X, Y), None),
    "a generator of pairs": lambda: (zip(X, Y, strict=True), None),
    "one batch": lambda: ([X, Y], None),
    "examples": lambda: (Examples("toy", "test[0:8]", X, Y, 10), None),
}  # fmt: skip


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_the_same_images_in_another_form_are_the_same_question(make):
    taken = given(*make())
    assert torch.equal(taken.x, X)
    assert torch.equal(taken.y, Y)
    assert (taken.x.dtype, taken.y.dtype, taken.note) == (torch.float32, torch.int64, "")
    assert not taken.x.is_inference()
    assert not taken.x.requires_grad
    assert taken.sha256 == examples_sha256(X, Y)


@pytest.mark.parametrize(
    ("x", "y", "note"),
    [
        (BYTES, Y, ""),
        (BYTES.long(), Y, "int64 images in "),
        (BYTES.numpy().astype(np.uint16), Y, "int64 images in "),
        ([Image.fromarray(image[0].numpy()) for image in BYTES], Y, ""),
        (Untransformed(), None, ""),
    ],
    ids=["uint8", "int64", "uint16", "PIL", "untransformed"],
)
def test_integers_that_are_pixel_values_are_read_as_uint8(x, y, note):
    taken = given(x, y)
    assert torch.equal(taken.x, BYTES.float() / 255)
    assert taken.note.startswith(note)
    assert taken.sha256 == examples_sha256(BYTES, Y)


@pytest.mark.parametrize(
    ("dtype", "rounded"), [(torch.float16, X.half()), (torch.bfloat16, X.bfloat16())]
)
def test_short_floats_are_what_they_say(dtype, rounded):
    assert torch.equal(given(X.to(dtype), Y).x, rounded.float())


def test_a_shuffled_loader_keeps_labels_with_their_images():
    taken = given(DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True))
    order = [next(k for k in range(8) if torch.equal(X[k], image)) for image in taken.x]
    assert sorted(order) == list(range(8))
    assert torch.equal(taken.y, Y[order])


def at(value, dtype=torch.float32):
    x = X.to(dtype, copy=True)
    x[3, 0, 1, 2] = value
    return x


@pytest.mark.parametrize(
    ("value", "becomes", "said"),
    [(1.0000001, 1, "1.0000001 to 1"), (-1e-7, 0, "-1e-07 to 0"), (1.0000009, 1, "1.000001 to 1")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pixel_within_rounding_is_clipped_and_that_is_said(value, becomes, said, dtype):
    taken = given(at(value, dtype), Y)
    assert torch.equal(taken.x, at(becomes))
    assert said in taken.note
    assert taken.note.startswith("1 pixels")


def labels(value):
    y = Y.double()
    y[5] = value
    return y


WRONG = {
    "no images": (None, Y, "got None"),
    "no labels": (X, None, "expected labels.*got None"),
    "text": ("digits", Y, "'digits'"),
    "words": (X, list("abcdefgh"), "number 0 is 'a'"),
    "an array of words": (X, np.array(list("abcdefgh")), "'a'"),
    "a class missing": (X, [1, None, 3, 2, 1, 5, 4, 9], "number 1 is None"),
    "dates": (X, np.array(["2020-01-01"] * 8, dtype="M8[D]"), "datetime64"),
    "sparse": (X.to_sparse(), Y, "sparse_coo.*to_dense"),
    "meta": (X.to("meta"), Y, "meta device"),
    "complex": (X + 0j, Y, "complex64"),
    "bool images": (X > 0.5, Y, "torch.bool"),
    "masked": (np.ma.masked_array(X.numpy(), X.numpy() == X[0, 0, 0, 0].item()), Y, "1 values"),
    "objects": (np.array([object()] * 8), Y, "object"),
    "a dict": ({"x": X}, Y, "got dict"),
    "above 1": (at(1.00001), Y, "image 3, channel 0, row 1, column 2 is 1.00001"),
    "below 0": (at(-1e-5), Y, "image 3, channel 0, row 1, column 2 is -1e-05|-9.9"),
    "nan": (at(float("nan")), Y, "image 3, channel 0, row 1, column 2 is nan"),
    "inf": (at(float("inf")), Y, "image 3, channel 0, row 1, column 2 is inf"),
    "0..16": ((X * 16).round(), Y, r"0\.\.16.*divide by 16"),
    "whole 0..16": ((X * 16).round().long(), Y, "x / 16"),
    "0..255": (BYTES.float(), Y, "divide by 255"),
    "-1..1": (2 * X - 1, Y, r"\(x \+ 1\) / 2"),
    "normalised": ((X - 0.45) / 0.2, Y, "normalisation inside the model"),
    "whole 0..300": ((X * 300).long(), Y, r"int64 must lie in 0\.\.255: image"),
    "int8": (at(0.5).mul(255).to(torch.int8), Y, "column 6 is -60"),
    "whole 0 and 1": ((X > 0.5).long(), Y, "what is white"),
    "1.7": (X, labels(1.7), "label 5 is 1.7"),
    "nan label": (X, labels(float("nan")), "label 5 is nan"),
    "-1": (X, labels(-1).long(), "label 5 is -1"),
    "one past the end": (X, labels(10).long(), "model has 10 classes.*label 5 is 10"),
    "huge": (X, [2**70, *Y.tolist()[1:]], str(2**70)),
    "one-hot": (X, nn.functional.one_hot(Y), r"argmax\(1\)"),
    "one row": (X, Y[None], r"y\[0\]"),
    "one label too few": (X, Y[:7], "8 images but 7 labels"),
    "grey": (X[:, 0], Y, r"x\[:, None\]"),
    "one image": (X[0], Y[:1], r"x\[None\]"),
    "flattened": (X.flatten(1), Y, "reshape"),
    "channels last": (torch.rand(8, 8, 8, 3), Y, r"permute\(0, 3, 1, 2\)"),
    "empty": (X[:0], Y[:0], r"\(0, 1, 8, 8\)"),
    "empty lists": ([], [], "empty list"),
    "ragged": ([*X[:7], torch.rand(1, 9, 9)], Y, r"number 7 is \(1, 9, 9\)"),
    "uint8 among floats": ([*X[:7], BYTES[7]], Y, "number 7 is .*uint8"),
    "labels twice": (TensorDataset(X, Y), Y, "leave y out"),
    "no pairs": (DataLoader(X), None, "item 0 is Tensor"),
    "another channel count": (torch.rand(8, 3, 8, 8), Y, "3 channels.*takes 1"),
}  # fmt: skip


@pytest.mark.parametrize(("x", "y", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_named_at_both_entrances(x, y, words):
    net = small_net()
    with pytest.raises(InvalidInput, match=words) as ours:
        evaluate(net, x, y, threat="linf:0.02", protocol=CHEAP)
    adversary = AutoAttack(net, eps=0.02, verbose=False)
    for call in (adversary.run_standard_evaluation, adversary.clean_accuracy):
        with pytest.raises(InvalidInput) as theirs:
            call(x, y)
        assert str(theirs.value) == str(ours.value)


def test_an_iterator_without_an_end_is_left():
    endless = ((torch.zeros(1).expand(2**14, 1, 2**6, 2**6), torch.zeros(2**14)) for _ in [0] * 99)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.measure.given.MOST_VALUES", 2**20)
        with pytest.raises(InvalidInput, match="no end came"):
            given(endless)
    with pytest.raises(InvalidInput, match="9 images but 8 labels"):
        given(itertools.repeat(X[0]), Y)


@pytest.mark.parametrize("form", ["requires grad", "inference mode", "a loader"])
def test_both_entrances_measure_it(form):
    net, want = small_net(), (X, small_net()(X).argmax(1))
    x, _ = SAME[form]()
    y = want[1] if form != "a loader" else None
    x = DataLoader(TensorDataset(*want), batch_size=3) if y is None else x
    plain = evaluate(net, *want, threat="linf:0.05", protocol=CHEAP)
    record = evaluate(net, x, y, threat="linf:0.05", protocol=CHEAP)
    assert (record.id, record.failure) == (plain.id, None)
    assert record.worst_case == plain.worst_case < 1
    adversary = AutoAttack(
        net, eps=0.05, version="custom", attacks_to_run=["apgd-ce"], verbose=False
    )
    adversary.apgd.n_iter, adversary.apgd.n_restarts = 3, 1
    x_adv = adversary.run_standard_evaluation(x, y)
    assert (x_adv.shape, x_adv.dtype) == (X.shape, torch.float32)
    assert adversary.record.examples_sha256 == plain.examples_sha256
    assert adversary.clean_accuracy(x, y) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attacks_have_gradients_wherever_they_are_called(mode):
    net = small_net()
    y = net(X).argmax(1)
    with mode():
        record = evaluate(net, X, y, threat="linf:0.05", protocol=CHEAP)
    assert record.failure is None
    assert record.worst_case < 1


def test_what_was_clipped_is_in_the_record_and_printed(capsys):
    net = small_net()
    record = evaluate(net, at(1.0000001), Y, threat="linf:0.05", protocol=CHEAP)
    assert "1.0000001 to 1" in record.environment["images"]
    assert "images" not in evaluate(net, X, Y, threat="linf:0.05", protocol=CHEAP).environment
    AutoAttack(net, eps=0.05).clean_accuracy(at(1.0000001), Y)
    assert "1.0000001 to 1" in capsys.readouterr().out


def test_what_the_caller_holds_is_not_changed():
    x, y = at(1.0000001).requires_grad_(), Y.clone()
    array = at(1.0000001).numpy()

    def changes_its_input(z):
        return z.sub_(0.5).flatten(1)

    for handed in (x, array):
        evaluate(small_net(), handed, y, threat="linf:0.05", protocol=CHEAP)
        assert evaluate(changes_its_input, handed, y, threat="linf:0.05", protocol=CHEAP).failure
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(x.detach(), at(1.0000001))
    assert np.array_equal(array, at(1.0000001).numpy())
    assert torch.equal(y, Y)


@pytest.mark.parametrize(("name", "size"), [("in_channels", 3), ("image_size", 32)])
def test_a_card_that_names_other_images_is_heard_first(name, size):
    card = ModelCard(
        name="net", dataset="toy", class_count=10, weights_sha256="0" * 64, n_parameters=1,
        arch_args={name: size},
    )  # fmt: skip
    other = card.model_copy(update={"weights_sha256": "1" * 64})
    with pytest.raises(InvalidInput, match=rf"\(1, 8, 8\).*net says {name} {size}"):
        evaluate(small_net(), X, Y, threat="linf:0.05", protocol=CHEAP, card=card)
    with pytest.raises(InvalidInput, match=rf"net says {name} {size}"):
        compare_until_sure((small_net(), card), (small_net(), other), X, Y, threat="linf:0.05")


def test_a_model_for_another_size_is_told_apart_from_one_that_fails():
    with pytest.raises(InvalidInput, match=r"images of \(1, 9, 9\).*it answers images \(1, 8, 8\)"):
        evaluate(small_net(), torch.rand(8, 1, 9, 9), Y, threat="linf:0.05", protocol=CHEAP)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(InvalidInput, match="81 values each.*takes 64"):
        evaluate(flat, torch.rand(8, 1, 9, 9), Y, threat="linf:0.05", protocol=CHEAP)


@pytest.mark.parametrize("bs", [0, -1, "8", 8.0, True])
def test_images_at_once_are_a_whole_number(bs):
    with pytest.raises(InvalidInput, match=f"got {bs!r}"):
        AutoAttack(small_net(), eps=0.05, verbose=False).clean_accuracy(X, Y, bs=bs)


@pytest.mark.parametrize("bs", [1, 8, np.int64(3)])
def test_images_at_once_change_no_answer(bs):
    adversary = AutoAttack(small_net(), eps=np.float32(8 / 255), verbose=False)
    assert adversary.clean_accuracy(X, small_net()(X).argmax(1), bs=bs) == 1


SAID = {
    "threat": [None, 8 / 255, ("linf", 0.1), b"linf:8/255", ["linf:8/255"], {"norm": "linf"}],
    "protocol": [None, 3, ["pgd20"]],
    "max_seconds": ["a", float("nan"), -1],
    "dataset": [3, "", "a/b", "../../x", "a\0b", "x" * 200],
    "split": [3, "\ud800", "x" * 3000],
    "note": [3],
    "engine": ["x", None],
    "precision": ["x", 16],
    "card": ["x", {}],
    "work": [3],
    "report": [3],
    "keep": [3],
}


@pytest.mark.parametrize(
    ("what", "value"), [(what, value) for what, values in SAID.items() for value in values]
)
def test_what_is_said_beside_images_is_looked_at_before_a_pass(what, value):
    def unasked(z):
        raise AssertionError("the model was asked")

    wanted = what if what != "threat" else "norm:eps"
    with pytest.raises(InvalidInput, match=f"{wanted}.*got") as refused:
        evaluate(unasked, X, Y, **({"threat": "linf:0.1", "protocol": CHEAP} | {what: value}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"norm": 2}, "no norm named '2'. Did you mean 'L2'"),
        ({"norm": np.inf}, "no norm named 'inf'. Did you mean 'Linf'"),
        ({"norm": ["Linf"]}, "no norm named"),
        ({"norm": None}, "no norm named 'None'"),
        ({"version": None}, "no version named 'None'"),
        ({"version": "custom", "attacks_to_run": "apgd-ce"}, "list of names.*got 'apgd-ce'"),
        ({"version": "custom", "attacks_to_run": 3}, "list of names.*got 3"),
        ({"version": "custom", "attacks_to_run": [1]}, "no attack named '1'"),
        ({"version": "custom", "attacks_to_run": [["square"]]}, "no attack named"),
        ({"version": "custom", "attacks_to_run": None}, "no attack to run"),
    ],
    ids=str,
)
def test_a_wrong_word_of_the_published_call_is_named(said, words):
    with pytest.raises(InvalidInput, match=words):
        AutoAttack(small_net(), verbose=False, **said).run_standard_evaluation(X, Y)
