"""Passes, the unit of cost: what is counted is what went through the network, and no more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.attacks import ATTACKS, Search
from bench.attacks.problem import frozen, logits_and_gradient
from bench.attacks.reference import REFERENCE_ATTACKS, reference_attack
from bench.judge import Watched
from bench.schema import ThreatModel
from bench.sources.unregistered import Suited
from tests.attacks.problems import NOBODY_LEAVES, Seen, problem
from tests.attacks.test_contract import CASES, SMALL, run, spec

CLASSES = 10


def counts(watched):
    return watched.forward_passes, watched.backward_passes


@pytest.mark.parametrize(("spec", "threat"), CASES, ids=str)
def test_what_is_counted_went_through_the_network(spec, threat, net, labelled):
    x, y = (part[:12] for part in labelled)
    seen = Seen(net)
    watched = Watched(seen)
    run(spec, watched, x, y, threat, search=Search(rows=20))
    assert counts(watched) == (seen.count.forward, seen.count.backward)
    assert watched.forward_passes > 0
    assert (watched.backward_passes > 0) == (spec.name not in ("spsa", "square"))


@pytest.mark.parametrize("name", REFERENCE_ATTACKS)
def test_so_it_is_of_the_published_attacks(name, net, labelled):
    x, y = (part[:12] for part in labelled)
    seen = Seen(net)
    watched = Watched(seen)
    reference_attack(
        spec(name, **SMALL[name]), watched, x, y, ThreatModel.parse("linf:0.1"), seed=0
    )
    assert counts(watched) == (seen.count.forward, seen.count.backward)
    assert (watched.backward_passes > 0) == (name != "square")


# Of an image that nothing breaks: the parameters, images sent forward and images sent backward.
BY_HAND = {
    "fgsm": ({}, 1, 1),
    "pgd": ({"steps": 5, "restarts": 2}, 2 * (5 + 1), 2 * 5),
    "apgd-ce": ({"steps": 6, "restarts": 2}, 2 * (6 + 1), 2 * (6 + 1)),
    "apgd-margin": ({"steps": 6, "samples": 3}, 3 * (6 + 1), 3 * (6 + 1)),
    "apgd-dlr": ({"steps": 6}, 6 + 1, 6 + 1),
    "apgd-t": ({"steps": 6, "targets": 3}, 1 + 3 * (6 + 1), 3 * (6 + 1)),
    "fab": ({"steps": 4, "restarts": 2}, 2 * 2 * 4, 2 * 4 * CLASSES),
    "fab-t": ({"steps": 4, "targets": 3}, 1 + 3 * 2 * 4, 3 * 4),
    "square": ({"queries": 30, "restarts": 2}, 2 * (1 + 30), 0),
    "spsa": ({"steps": 3, "samples": 8}, 3 * (2 * 8 + 1), 0),
    "fmn": ({"steps": 7}, 7, 7),
    "diverse": ({"restarts": 3, "opening": 2, "steps": 4}, 1 + 3 * 7, 3 * 7),
    "near-targets": ({"targets": 3, "candidates": 4, "steps": 5}, 1 + 3 * 6, 4 + 3 * 6),
    "probability-margin": ({"steps": 5, "restarts": 2}, 1 + 2 * 6, 2 * 6),
    # The order of the classes, walks, and AutoAttack.
    "near-boundary": (
        {
            "probes": 3,
            "restarts": 2,
            "again": 4,
            "apgd_steps": 6,
            "targets": 3,
            "queries": 30,
            "reach": 1e9,
            "close": 1e9,
        },
        1 + 3 * 16 + 6 * 56 + 7 + (1 + 3 * 7) + (1 + 3 * 2 * 6) + 31,
        3 * 16 + 6 * 56 + 7 + 3 * 7 + 3 * 6,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_that_stands_costs_what_a_count_by_hand_says(name, net, labelled):
    params, forward, backward = BY_HAND[name]
    x, watched = labelled[0][:6], Watched(net)
    # As many rows as images, so that Square looks no further ahead than it must.
    rows = len(x) if name in ("square", "near-boundary") else NOBODY_LEAVES.rows
    search = Search(rows=rows, verdict=NOBODY_LEAVES.verdict)
    asked = problem(watched, x, net(x).argmax(1), "linf:0.00001", search=search)
    ATTACKS[name].function(asked, **params)
    assert counts(watched) == (forward * len(x), backward * len(x))


# ---------------------------------------------------------------- any model, asked in any way


class InHalf(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net.bfloat16()

    def forward(self, x):
        return self.net(x.bfloat16())


class OneTensor(nn.Module):
    """Answers with the very tensor that it holds; no gradient reaches the image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.logits


class ThatVeryTensor(nn.Module):
    """The logits of the first image that came, for whatever comes, in the graph of the first."""

    def __init__(self, net):
        super().__init__()
        self.net, self.first = net, None

    def forward(self, x):
        self.first = self.net(x) if self.first is None else self.first
        return self.first


MODELS = {
    "float32": (lambda net: net, 1),
    "half precision": (InHalf, 1),
    "Suited": (lambda net: Suited(net, most=2), 1),
    "Suited, filled up": (lambda net: Suited(net, most=4, least=4), 1),
    "a callable": (lambda net: lambda x: net(x), 1),
    "its input is its logits": (lambda net: nn.Flatten(), 1),
    "cut off": (lambda net: lambda x: net(x.detach()), 0),
    "cut off behind": (lambda net: lambda x: net(x).detach(), 0),
    "a parameter": (lambda net: OneTensor(torch.rand(5, CLASSES)), 0),
    "without gradients": (lambda net: lambda x: torch.no_grad()(net)(x), 0),
    "inference mode": (lambda net: lambda x: torch.inference_mode()(net)(x), 0),
}


@pytest.mark.parametrize("freezing", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_a_backward_pass_is_one_that_was_asked_for(kind, freezing, net, labelled):
    made, backward = MODELS[kind]
    x, y = (part[:5] for part in labelled)
    watched = Watched(made(net))
    if freezing:
        with frozen(watched):
            logits_and_gradient(watched, x, y, lambda logits, y: logits.sum(1))
    else:
        logits_and_gradient(watched, x, y, lambda logits, y: logits.sum(1))
    assert counts(watched) == (5, 5 * backward)


def test_each_gradient_of_one_pass_counts_and_one_that_is_not_asked_for_does_not(net, labelled):
    x, watched = labelled[0][:5].requires_grad_(True), Watched(net)
    logits = watched(x)
    assert counts(watched) == (5, 0)
    for k in range(3):
        torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
    assert counts(watched) == (5, 15)
    logits.sum().backward()
    assert counts(watched) == (5, 20)
    with torch.no_grad():
        watched(x)
    assert counts(watched) == (10, 20)
    torch.autograd.grad(watched(x).sum() + watched(x[:2]).sum(), x)
    assert counts(watched) == (17, 27)


def test_a_tensor_that_is_given_twice_is_counted_as_often_as_it_is_asked(net, labelled):
    x, watched = labelled[0][:5].requires_grad_(True), Watched(ThatVeryTensor(net))
    first, second = watched(x), watched(x)
    torch.autograd.grad(first.sum(), x, retain_graph=True)
    assert counts(watched) == (10, 5)
    torch.autograd.grad(second.sum(), x)
    assert counts(watched) == (10, 10)


def test_a_gradient_is_the_same_whether_it_is_counted_or_not(net, labelled):
    x = labelled[0].requires_grad_(True)
    weights = torch.rand(len(x), CLASSES)
    found = [torch.autograd.grad((m(x) * weights).sum(), x)[0] for m in (net, Watched(net))]
    assert torch.equal(*found)
