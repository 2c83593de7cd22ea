"""Training objectives: losses against values computed by hand, and where their attacks land."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from awp_train.objectives import (
    OBJECTIVES,
    from_nearby_on_divergence,
    from_uniform_on_cross_entropy,
    mart,
    trades,
)
from awp_train.run_files import constant_loss
from awp_train.step import build
from bench.attacks import Problem, pgd
from bench.attacks.geometry import distance
from bench.schema import ThreatModel
from bench.streams import Streams
from tests.training.tiny_runs import batch, bits, settings

every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
every_norm = pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5"], ids=lambda t: t[:4])
CRAFTS = {o.craft.__name__: o.craft for o in OBJECTIVES.values() if o.craft}
every_craft = pytest.mark.parametrize("craft", CRAFTS.values(), ids=CRAFTS)
STREAMS = Streams.for_batch(12, "craft", 0)


# ---------------------------------------------------------------- losses by hand

answers = nn.Flatten()  # a network whose "images" (B, 1, 1, K) are its logits


def by_hand(objective: str, z: np.ndarray, z_adv: np.ndarray, y: np.ndarray, beta: float) -> float:
    """Image by image, in plain numpy."""
    losses = []
    for p, q, label in zip(np.exp(z), np.exp(z_adv), y, strict=True):
        p, q = p / p.sum(), q / q.sum()
        wrong = max(q[k] for k in range(len(q)) if k != label)
        kl = sum(a * (math.log(a) - math.log(b + 1e-12)) for a, b in zip(p, q, strict=True))
        trades_loss = -math.log(p[label]) + beta * kl
        boosted = -math.log(q[label]) - math.log(1.0001 - wrong + 1e-12)
        mart_loss = boosted + beta * kl * (1.0000001 - p[label])
        losses.append(
            {"trades": trades_loss, "mart": mart_loss}.get(objective, -math.log(q[label]))
        )
    return sum(losses) / len(losses)


@every_objective
def test_losses_are_their_formulas(objective):
    logits, logits_adv = np.random.default_rng(0).normal(size=(2, 7, 5)) * 4
    y = np.arange(7) % 5
    if objective == "mart":  # surely wrong: only the constants keep it finite
        logits_adv[0] = [-30.0, 30.0, 0.0, 0.0, 0.0]
    x, x_adv = (torch.from_numpy(z)[:, None, None, :] for z in (logits, logits_adv))
    for beta in (0.0, 5.0):
        loss = OBJECTIVES[objective].loss(answers, x, x_adv, torch.from_numpy(y), beta)
        known = by_hand(objective.replace("rst", "trades"), logits, logits_adv, y, beta)
        assert float(loss) == pytest.approx(known, rel=1e-9 if objective == "mart" else 1e-6)


def test_both_branches_of_trades_have_gradients():
    x, x_adv = torch.randn(2, 5, 1, 1, 4, dtype=torch.float64).requires_grad_().unbind()
    y, beta = torch.arange(5) % 4, 3.0
    to_clean, to_adversarial = torch.autograd.grad(trades(answers, x, x_adv, y, beta), [x, x_adv])
    p, q = x.flatten(1).softmax(1).detach(), x_adv.flatten(1).softmax(1).detach()
    kl = (p * (p / q).log()).sum(1, keepdim=True)
    hot = nn.functional.one_hot(y, 4)
    assert torch.allclose(to_adversarial.flatten(1), beta * (q - p) / 5)
    expected = (p - hot + beta * p * ((p / q).log() - kl)) / 5
    assert torch.allclose(to_clean.flatten(1), expected)


@pytest.mark.parametrize("loss", [mart, trades])
def test_losses_stay_finite_where_the_network_is_sure(loss):
    x = torch.tensor([[[[200.0, 0.0]]]]).requires_grad_()
    x_adv = torch.tensor([[[[0.0, 200.0]]]]).requires_grad_()
    value = loss(answers, x, x_adv, torch.tensor([0]), 6.0)
    value.backward()
    assert all(torch.isfinite(t).all() for t in (value, x.grad, x_adv.grad))


@every_objective
def test_the_loss_of_equal_answers_is_known(objective):
    boosted = -math.log(1.0001 - 0.1 + 1e-12) if objective == "mart" else 0
    assert constant_loss(settings(objective)) == pytest.approx(math.log(10) + boosted, rel=1e-6)


# ---------------------------------------------------------------- where the attacks land


def linear_pair(w: Tensor) -> nn.Module:
    """Two classes, logits (0, w . x)."""
    layer = nn.Linear(w.numel(), 2, bias=False)
    layer.weight.data = torch.stack([torch.zeros(w.numel()), w.flatten()])
    return nn.Sequential(nn.Flatten(), layer)


@every_norm
@every_craft
def test_on_a_linear_network_the_attack_reaches_the_edge(craft, threat):
    """CE goes against the class; KL to the side of the start, for it grows with |w . (x' - x)|."""
    threat = ThreatModel.parse(threat)
    w = torch.randn(1, 8, 8)
    x, y = 0.5 + 0.02 * torch.randn(12, 1, 8, 8), torch.arange(12) % 2
    x_adv = craft(linear_pair(w), x, y, threat, STREAMS, 60, 0.25)
    side = 1 - 2 * y.float()
    if craft is from_nearby_on_divergence:
        side = (STREAMS.at("start", 0).normal((1, 8, 8)) * w).flatten(1).sum(1).sign()
    unit = w.sign() if threat.norm == "linf" else w / w.norm()
    expected = x + threat.epsilon * side.view(-1, 1, 1, 1) * unit
    assert torch.allclose(x_adv, expected, atol=2e-6 if threat.norm == "linf" else 1e-3)


@every_norm
@every_craft
def test_attacks_stay_inside_and_leave_the_network_as_it_was(craft, threat):
    model, (x, y) = build(settings()).eval(), batch()
    before, threat = bits(model.state_dict()), ThreatModel.parse(threat)
    x_adv = craft(model, x, y, threat, STREAMS, 3, 0.5)
    assert (distance(x, x_adv, threat.norm) <= threat.epsilon).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all() and not x_adv.requires_grad
    assert torch.equal(x_adv, craft(model, x, y, threat, STREAMS, 3, 0.5))
    assert bits(model.state_dict()) == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@every_norm
def test_at_crafts_as_pgd_does(threat):
    model, (x, y), threat = build(settings()), batch(), ThreatModel.parse(threat)
    ours = from_uniform_on_cross_entropy(model, x, y, threat, STREAMS, 3, 0.5)
    theirs = pgd(Problem(model, x, y, threat, STREAMS), steps=3, relative_step=0.5, iterate="last")
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_clean_answer_need_not_be_computed_in_every_step(mode):
    model, (x, y), threat = build(settings()), batch(), ThreatModel.parse("linf:0.1")
    model(x)  # running statistics of something
    model.train(mode == "train")
    once = from_nearby_on_divergence(model, x, y, threat, STREAMS, 3, 0.5)

    z = x + 0.001 * STREAMS.at("start", 0).normal((1, 8, 8))
    z = z.clamp(x - 0.1, x + 0.1).clamp(0, 1)
    for _ in range(3):
        z.requires_grad_()
        kl = nn.KLDivLoss(reduction="sum")(model(z).log_softmax(1), model(x).softmax(1).detach())
        (grad,) = torch.autograd.grad(kl, z)
        z = (z.detach() + 0.05 * grad.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert torch.allclose(once, z, atol=1e-6)
