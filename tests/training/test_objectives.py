"""Training objectives: losses against values computed by hand, and where their attacks land."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from awp_train import crafting
from awp_train.failure import constant_loss
from awp_train.objectives import OBJECTIVES, mart, trades
from awp_train.update import build, optimiser_of, step
from bench.attacks import Problem, pgd
from bench.attacks.geometry import distance
from bench.schema import OBJECTIVES as NAMES
from bench.schema import ThreatModel, TrainConfig
from bench.streams import Streams

every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
every_norm = pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5"], ids=lambda t: t[:4])
CRAFTS = {o.craft.__name__: o.craft for o in OBJECTIVES.values() if o.craft}
every_craft = pytest.mark.parametrize("craft", CRAFTS.values(), ids=CRAFTS)


def config_of(objective: str, **fields) -> TrainConfig:
    return TrainConfig(
        dataset="digits",
        arch_args={"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2},
        objective=objective,
        threat=ThreatModel.parse("linf:0.1"),
        attack_steps=2,
        **fields,
    )


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 1, 8, 8), torch.arange(size) % 10


def streams(size: int = 12) -> Streams:
    return Streams.for_batch(size, "craft", 0)


def test_the_registry_names_what_the_schema_names():
    assert tuple(OBJECTIVES) == NAMES


# ---------------------------------------------------------------- losses by hand

answers = nn.Flatten()  # a network whose "images" (B, 1, 1, K) are its logits


def as_logits(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()[:, None, None, :]


def test_trades_is_the_divergence_from_clean_to_adversarial_averaged_over_images():
    x, x_adv = as_logits((0.8, 0.2), (0.5, 0.5)), as_logits((0.5, 0.5), (0.5, 0.5))
    kl = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)  # 0.1927; the other way 0.2231
    ce = -(math.log(0.8) + math.log(0.5)) / 2
    loss = trades(answers, x, x_adv, torch.tensor([0, 1]), 6.0)
    assert float(loss) == pytest.approx(ce + 6 * kl / 2, rel=1e-12)


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


def mart_by_hand(logits: np.ndarray, logits_adv: np.ndarray, y: np.ndarray, beta: float) -> float:
    """Image by image, in plain numpy."""
    losses = []
    for z, z_adv, label in zip(logits, logits_adv, y, strict=True):
        p, q = np.exp(z) / np.exp(z).sum(), np.exp(z_adv) / np.exp(z_adv).sum()
        wrong = max(q[k] for k in range(len(q)) if k != label)
        boosted = -math.log(q[label]) - math.log(1.0001 - wrong + 1e-12)
        kl = sum(p[k] * (math.log(p[k]) - math.log(q[k] + 1e-12)) for k in range(len(p)))
        losses.append(boosted + beta * kl * (1.0000001 - p[label]))
    return sum(losses) / len(losses)


def test_mart_is_its_formula_with_its_constants():
    logits, logits_adv = np.random.default_rng(0).normal(size=(2, 7, 5)) * 4
    y = np.arange(7) % 5
    logits_adv[0] = [-30.0, 30.0, 0.0, 0.0, 0.0]  # surely wrong: only the constants keep it finite
    x, x_adv = (torch.from_numpy(z)[:, None, None, :] for z in (logits, logits_adv))
    for beta in (0.0, 5.0):
        loss = mart(answers, x, x_adv, torch.from_numpy(y), beta)
        assert float(loss) == pytest.approx(mart_by_hand(logits, logits_adv, y, beta), rel=1e-9)


@pytest.mark.parametrize("loss", [mart, trades])
def test_losses_stay_finite_where_the_network_is_sure(loss):
    x = torch.tensor([[[[200.0, 0.0]]]]).requires_grad_()
    x_adv = torch.tensor([[[[0.0, 200.0]]]]).requires_grad_()
    value = loss(answers, x, x_adv, torch.tensor([0]), 6.0)
    value.backward()
    assert all(torch.isfinite(t).all() for t in (value, x.grad, x_adv.grad))


@every_objective
def test_the_loss_of_equal_answers_is_known(objective):
    expected = math.log(10)
    if objective == "mart":
        expected -= math.log(1.0001 - 0.1 + 1e-12)
    assert constant_loss(config_of(objective)) == pytest.approx(expected, rel=1e-6)


@every_objective
def test_beta_weighs_the_divergence_where_there_is_one(objective):
    x, x_adv = torch.randn(2, 5, 1, 1, 10).unbind()
    y = torch.arange(5)
    losses = [OBJECTIVES[objective].loss(answers, x, x_adv, y, beta) for beta in (0.0, 1.0, 2.0)]
    first, second = losses[1] - losses[0], losses[2] - losses[1]
    assert torch.allclose(first, second, atol=1e-5)
    assert bool(first > 0) == (objective in ("trades", "mart", "rst"))


# ---------------------------------------------------------------- where the attacks land


def linear_pair(w: Tensor) -> nn.Module:
    """Two classes, logits (0, w . x)."""
    layer = nn.Linear(w.numel(), 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(w.numel()), w.flatten()]))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def unit(w: Tensor, norm: str) -> Tensor:
    return w.sign() if norm == "linf" else w / w.norm()


@every_norm
@every_craft
def test_on_a_linear_network_the_attack_reaches_the_edge(craft, threat):
    """CE goes against the class; KL to the side of the start, for it grows with |w . (x' - x)|."""
    threat = ThreatModel.parse(threat)
    w = torch.randn(1, 8, 8)
    x, y = 0.5 + 0.02 * torch.randn(12, 1, 8, 8), torch.arange(12) % 2
    x_adv = craft(linear_pair(w), x, y, threat, streams(), 60, 0.25)
    if craft is crafting.from_nearby_on_divergence:
        noise = streams().at("start", 0).normal((1, 8, 8))
        side = (noise * w).flatten(1).sum(1).sign()
    else:
        side = 1 - 2 * y.float()
    expected = x + threat.epsilon * side.view(-1, 1, 1, 1) * unit(w, threat.norm)
    assert torch.allclose(x_adv, expected, atol=2e-6 if threat.norm == "linf" else 1e-3)


@every_norm
@every_craft
def test_attacks_stay_inside_and_leave_the_network_as_it_was(craft, threat):
    model, (x, y) = build(config_of("at")).eval(), batch()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    threat = ThreatModel.parse(threat)
    x_adv = craft(model, x, y, threat, streams(), 3, 0.5)
    assert (distance(x, x_adv, threat.norm) <= threat.epsilon).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all() and not x_adv.requires_grad
    assert torch.equal(x_adv, craft(model, x, y, threat, streams(), 3, 0.5))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@every_norm
def test_at_crafts_as_pgd_does(threat):
    model, (x, y), threat = build(config_of("at")), batch(), ThreatModel.parse(threat)
    ours = crafting.from_uniform_on_cross_entropy(model, x, y, threat, streams(), 3, 0.5)
    problem = Problem(model, x, y, threat, streams())
    theirs = pgd(problem, steps=3, relative_step=0.5, iterate="last")
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_clean_answer_need_not_be_computed_in_every_step(mode):
    model, (x, y), threat = build(config_of("trades")), batch(), ThreatModel.parse("linf:0.1")
    model(x)  # running statistics of something
    model.train(mode == "train")
    once = crafting.from_nearby_on_divergence(model, x, y, threat, streams(), 3, 0.5)

    z = x + 0.001 * streams().at("start", 0).normal((1, 8, 8))
    z = z.clamp(x - 0.1, x + 0.1).clamp(0, 1)
    for _ in range(3):
        z.requires_grad_()
        kl = nn.KLDivLoss(reduction="sum")(model(z).log_softmax(1), model(x).softmax(1).detach())
        (grad,) = torch.autograd.grad(kl, z)
        z = (z.detach() + 0.05 * grad.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert torch.allclose(once, z, atol=1e-6)


# ---------------------------------------------------------------- training


@every_objective
def test_every_objective_trains(objective):
    config = config_of(objective, lr=0.05)
    model = build(config)
    optimiser = optimiser_of(model, config)
    x, y = batch(40)
    losses = []
    for _ in range(12):  # the same draws again, so that the loss is one function
        done = step(model, optimiser, config, x, y, epoch=0, batch=0)
        losses.append(float(done.loss))
    assert losses[-1] < losses[0]
    assert torch.equal(done.x_adv, done.x) == (objective == "natural")
