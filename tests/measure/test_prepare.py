"""A prepared model: the same logits, faster; the untouched model where the copy differs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import models
from bench.catalogue import ARCHITECTURES
from bench.judge import Judge
from bench.measure import search
from bench.measure.search import BAND, TOLERANCE, Prepared, mixed, phased, prepare, verdict

SIZES = {"cnn_a": {"image_size": 32}, "small_cnn": {"image_size": 8, "in_channels": 1}}


def trained_like(arch: str) -> nn.Module:
    """With BatchNorm statistics and scales that are not those of initialisation."""
    torch.manual_seed(0)
    model = models.build(arch, {"in_channels": 3, "num_classes": 10} | SIZES.get(arch, {}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if not a.startswith("wide")])
def test_copy_has_the_logits_of_the_model(arch):
    model = trained_like(arch)
    channels = SIZES.get(arch, {}).get("in_channels", 3)
    x = torch.rand(2, channels, *[SIZES.get(arch, {}).get("image_size", 32)] * 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prepared = prepare(model, x)
    with torch.no_grad():
        wanted, got = model(x), prepared.model(x)
    assert (wanted - got).abs().max() <= TOLERANCE * (1 + wanted.abs().max())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert ("folded" in prepared.notes) == (arch != "cnn_a")
    assert ("by phases" in prepared.notes) == (arch == "cnn_a")
    slopes = []
    for net in (model, prepared.model):
        z = x.clone().requires_grad_(True)
        slopes.append(torch.autograd.grad(net(z).square().sum(), z)[0])
    a, b = (slope.flatten(1) for slope in slopes)  # a ReLU on its kink may round either way
    assert nn.functional.cosine_similarity(a, b).min() > 0.999


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(4, 2, 1, 12), (2, 2, 0, 9), (6, 3, 2, 13), (6, 2, 3, 10), (4, 4, 0, 18)],
)
def test_strided_convolution_by_phases_has_the_usual_gradient(kernel, stride, padding, side):
    """Also where windows leave pixels at the edge unread."""
    layer = nn.Conv2d(3, 5, kernel, stride, padding).double().requires_grad_(False)
    fast = phased(layer)
    assert fast is not layer
    x = torch.rand(2, 3, side, side + 1, dtype=torch.float64, requires_grad=True)
    g = torch.rand_like(layer(x))
    assert torch.allclose(fast(x), layer(x))
    (wanted,), (got,) = (torch.autograd.grad(f(x), x, g) for f in (layer, fast))
    assert torch.allclose(got, wanted)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(4, 4, 4, 2, 1, groups=2), nn.Conv2d(3, 5, 4, 1),
        nn.Conv2d(3, 5, 4, 2, 1, padding_mode="circular"), nn.Conv2d(3, 5, (4, 2), 2),
        nn.Conv2d(3, 5, 4, 2, dilation=2),
    ],
    ids=str,
)  # fmt: skip
def test_other_convolutions_stay(layer):
    assert phased(layer) is layer


def test_folding_leaves_what_forward_does_around_the_layers():
    """Python in forward, a BatchNorm before its convolution, a layer used twice."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.before = nn.BatchNorm2d(4)
            self.twice, self.shared = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.head = nn.Linear(4 * 64, 10)

        def forward(self, x):
            x = self.norm(self.first(x))
            if x.mean() > -1e9:
                x = self.before(x.relu())
            x = self.shared(self.twice(x))
            x = self.shared(self.twice(x))
            return self.head(x.flatten(1))

    torch.manual_seed(0)
    net = Odd()
    net(torch.rand(64, 1, 8, 8))
    prepared = prepare(net.eval(), torch.rand(8, 1, 8, 8))
    assert prepared.notes == "1 BatchNorm layers folded"


def test_what_cannot_be_folded_alone_stays():
    """One convolution's output is read by its BatchNorm and by something else; the other's is not."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.next, self.last = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
            self.head = nn.Linear(4 * 16, 10)

        def forward(self, x):
            x = self.conv(x)
            return self.head(self.last(self.next(x + self.norm(x))).flatten(1))

    torch.manual_seed(0)
    net = Both()
    for _ in range(50):
        net(torch.rand(64, 1, 8, 8))
    x = torch.rand(8, 1, 8, 8)
    prepared = prepare(net.eval(), x)
    assert prepared.notes == "1 BatchNorm layers folded"
    assert torch.allclose(prepared.model(x), net(x), atol=1e-4)


@pytest.mark.parametrize("model", [lambda z: z.flatten(1), nn.Flatten().train()])
def test_what_is_no_module_in_eval_mode_is_left_alone(model):
    assert prepare(model, torch.rand(2, 1, 2, 2)).model is model


def test_the_judge_is_asked_where_the_copy_may_be_mistaken(net, labelled):
    x, y = labelled
    asked = []

    class Counting(Judge):
        def __call__(self, z, labels):
            asked.append(len(z))
            return super().__call__(z, labels)

    near = torch.zeros(len(y), dtype=torch.bool)
    logits = net(x).detach()
    ask = verdict(Prepared(net, 0.05, ""), Counting(net), near)
    hit = ask(x, y, logits, torch.arange(len(y)))
    assert hit.tolist() == Judge(net)(x, y).broken.tolist()
    assert 0 < sum(asked) < len(y)
    assert not (near & hit).any()
    # A copy that calls everything right by a hair is asked about all, and believed in nothing.
    sure = torch.nn.functional.one_hot(y, 10) * 0.01
    assert torch.equal(ask(x, y, sure, torch.arange(len(y))), hit)
    assert torch.equal(near, ~hit)


def test_half_precision_keeps_both_ends_exact_and_is_refused_where_it_moves_margins(
    net, labelled, monkeypatch
):
    monkeypatch.setattr(search, "_unsupported", lambda device: None)  # whatever this machine has
    x, y = labelled
    exact = prepare(net, x)
    half = mixed(exact, x, y)
    assert half.model is not exact.model
    with torch.no_grad():
        far = (half.model(x) - net(x)).abs().max() / (1 + net(x).abs().max())
    assert half.band == pytest.approx(BAND * float(far), rel=0.3)
    assert half.model(x).dtype == torch.float32

    class Cancels(nn.Module):
        """Differences of large, nearly equal numbers: bfloat16 has no digits left for them."""

        def __init__(self):
            super().__init__()
            self.flat, self.wide = nn.Linear(64, 64), nn.Linear(64, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, z):
            far = torch.full((len(z), 64), 1e3)
            return self.head(self.wide(self.flat(z.flatten(1)) + far) - self.wide(far))

    refused = mixed(prepare(Cancels().eval(), x), x, y)
    assert "float32: " in refused.notes
    assert "bfloat16 search" not in refused.notes
