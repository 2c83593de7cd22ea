"""Models and images that cannot be measured, and those whose numbers cannot be trusted."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from bench import evaluate
from bench.measure.evaluate import measure
from bench.records import store
from bench.schema import MeasurementFailed
from tests.measure.short_protocols import QUICK


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda z: z.no_such_thing, "AttributeError"),
        (lambda z: z.sum(), "expected logits"),
        (lambda z: z.flatten(1)[:, :1], "at least 2 classes"),
        (lambda z: z.flatten(1).long(), "floating-point"),
        (lambda z: z.sub_(0.5).flatten(1), "changes its input in place"),
        (lambda z: z.flatten(1).to_sparse(), "a sparse_coo tensor"),
        (lambda z: z.flatten(1).to("meta"), "a meta tensor"),
        (lambda z: torch.nested.as_nested_tensor([*z.flatten(1)], layout=torch.jagged), "nested"),
    ],
    ids=["raises", "scalar", "one class", "integers", "in place", "sparse", "meta", "nested"],
)
def test_model_that_cannot_be_measured_is_a_failed_record(model, words, tmp_path):
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    record = evaluate(model, x, y, threat="linf:0.1", protocol=QUICK)
    assert words in record.failure
    assert not record.columns
    for number in ("clean_accuracy", "worst_case", "robust_accuracy", "clean_correct"):
        with pytest.raises(MeasurementFailed, match="no numbers: .*" + re.escape(words)):
            getattr(record, number)
    path = store.write(record, tmp_path)
    assert store.collect(tmp_path).failed == (record,)
    assert path.name.endswith(".failed.json")


@pytest.mark.parametrize("passes", [2, 20])
def test_model_that_raises_in_the_middle_is_a_failed_record(passes, net, images):
    class Brittle(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = net, 0

        def forward(self, z):
            self.calls += 1
            if self.calls > passes:
                raise RuntimeError("out of luck")
            return self.inner(z)

    record = measure(
        Brittle().eval(), images, net(images).argmax(1), threat="linf:0.02", protocol=QUICK
    ).record
    assert "out of luck" in record.failure


def flags_of(model, x, y):
    return {f.name for f in evaluate(model, x, y, threat="linf:0.02", protocol=QUICK).flags}


def test_broken_models_are_flagged(net, images):
    x = images[:40]
    y = net(x).argmax(1)
    assert flags_of(net, x, y) == set()
    assert "probabilities" in flags_of(nn.Sequential(net, nn.Softmax(1)).eval(), x, y)
    assert "train-mode" in flags_of(copy.deepcopy(net).train(), x, y)
    constant = flags_of(lambda z: torch.eye(10)[[3] * len(z)] + 0 * z.sum(), x, y)
    assert {"chance-level", "zero-gradients"} <= constant

    def sometimes_nan(z):
        return torch.where(z[:, :1, 0, 0] > 0.9, torch.nan, net(z))

    record = evaluate(sometimes_nan, x, y, threat="linf:0.02", protocol=QUICK)
    assert "non-finite-logits" in {f.name for f in record.flags}
    assert not record.clean_correct[(x[:, 0, 0, 0] > 0.9).numpy()].any()


def test_masked_gradients_raise_the_square_flag(net, images):
    """Rounded logits have zero gradients: only the black-box attack makes progress."""
    x = images[:80]
    y = net(x).argmax(1)

    def masked(z):
        return (net(z) * 4).round() / 4 + 0 * z.sum()

    record = evaluate(masked, x, y, threat="linf:0.2", protocol=QUICK)
    assert {"zero-gradients", "square-breaks-more"} <= {f.name for f in record.flags}
