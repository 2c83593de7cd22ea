"""One update: what AWP changes of a step, and what it must not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from awp_train import step as stepping
from awp_train.awp import adversarial_weights, perturbable
from awp_train.batches import varied
from awp_train.objectives import OBJECTIVES
from awp_train.step import build, optimiser_of, step
from bench import catalogue
from bench.schema import AwpConfig, TrainConfig
from tests.training.tiny_runs import batch, bits, settings

every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
AWP = {
    "adversarial": {},
    "random": {"direction": "random"},
    "two-rounds-filter": {"alternations": 2, "norm": "filter"},
    "two-steps-global": {"steps": 2, "norm": "global"},
    "robust": {"steps": 2, "norm": "global", "threshold": 2.3},
}


def trained(config: TrainConfig, steps: int = 3) -> tuple[dict[str, bytes], nn.Module]:
    """The bits of weights, buffers and momenta after some steps, and the network."""
    model = build(config)
    optimiser = optimiser_of(model, config)
    for number in range(steps):
        torch.manual_seed(number)
        step(model, optimiser, config, *batch(), epoch=0, batch=number)
    momenta = {str(i): s["momentum_buffer"] for i, s in enumerate(optimiser.state.values())}
    return bits(model.state_dict() | momenta), model


@pytest.mark.parametrize(
    ("objective", "form", "craft_mode"),
    [*((o, "adversarial", "train") for o in OBJECTIVES), *(("at", form, "eval") for form in AWP)],
)
def test_gamma_zero_is_vanilla_bit_for_bit_batchnorm_counters_too(objective, form, craft_mode):
    plain = settings(objective, craft_mode=craft_mode)
    expected, model = trained(plain)
    zero = plain.model_copy(update={"awp": AwpConfig(gamma=0.0, **AWP[form])})
    assert trained(zero)[0] == expected
    crafting = 0
    if craft_mode == "train" and objective != "natural":
        crafting = 2 + catalogue.OBJECTIVES[objective].craft_passes
    counters = {int(b) for name, b in model.named_buffers() if name.endswith("_tracked")}
    assert counters == {3 * (catalogue.OBJECTIVES[objective].loss_passes + crafting)}


@every_objective
def test_the_gradient_is_that_at_the_perturbed_weights_and_the_step_is_at_w(objective):
    config = settings(objective, awp=AwpConfig(gamma=0.05), weight_decay=5e-4, momentum=0.0)
    model, (x, y) = build(config), batch()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    _, _, _, x_adv = step(model, optimiser_of(model, config), config, x, y, epoch=0, batch=0)
    assert torch.equal(x_adv, x) == (objective == "natural")

    other = build(config)
    loss = partial(OBJECTIVES[objective].loss, other, x, x_adv, y, config.beta)
    with adversarial_weights(other, loss, config=config.awp) as v:
        loss().backward()
    assert all(delta.norm() > 0 for delta in v.values())
    for name, parameter in other.named_parameters():
        # w itself is decayed, not w + v
        expected = start[name] - config.lr * (parameter.grad + 5e-4 * start[name])
        assert torch.allclose(model.state_dict()[name], expected, atol=1e-6)


def test_rounds_craft_again_from_the_same_start_at_the_perturbed_weights(monkeypatch):
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    craft = OBJECTIVES["at"].craft

    def spy(model, x, y, threat, streams, steps, relative_step):
        first = next(iter(perturbable(model).values())).detach().clone()
        x_adv = craft(model, x, y, threat, streams, steps, relative_step)
        seen.append((first, streams.keys, x_adv))
        return x_adv

    monkeypatch.setitem(stepping.OBJECTIVES, "at", replace(OBJECTIVES["at"], craft=spy))
    config = settings(awp=AwpConfig(gamma=0.3, alternations=3))
    model = build(config)
    done = step(model, optimiser_of(model, config), config, *batch(), epoch=0, batch=0)
    weights, keys, images = zip(*seen, strict=True)
    assert len(seen) == 3
    assert torch.equal(keys[0], keys[1]) and torch.equal(keys[0], keys[2])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    radius = 0.3 * weights[0].norm()
    assert (weights[1] - weights[0]).norm() == pytest.approx(float(radius), rel=1e-4)
    assert not torch.equal(images[0], images[1])
    assert torch.equal(done.x_adv, images[2])  # what the weights are updated on


def test_warm_up_is_vanilla():
    plain, late = settings(), settings(awp=AwpConfig(gamma=0.5, warm_up=1))
    assert trained(plain)[0] == trained(late)[0]
    for epoch, moved in ((0, False), (1, True)):  # the first epoch after it is perturbed
        losses = []
        for config in (plain, late):
            model = build(config)
            x, y = torch.full((12, 1, 8, 8), 0.5), torch.arange(12) % 10
            done = step(model, optimiser_of(model, config), config, x, y, epoch=epoch, batch=0)
            losses.append(float(done.loss))
        assert (losses[0] != losses[1]) is moved


@pytest.mark.parametrize(
    ("config", "drawn"),
    [
        (settings(attack_relative_step=0.01), lambda done: done.x_adv),
        (
            settings("natural", awp=AwpConfig(gamma=0.5, direction="random")),
            lambda done: done.loss,
        ),
    ],
    ids=["starts of crafting", "random directions"],
)
def test_every_batch_of_every_epoch_draws_anew(config, drawn):
    (x, y), found = batch(), []
    for epoch, number in ((0, 0), (0, 1), (1, 0), (1, 1)):
        model = build(config)
        done = step(model, optimiser_of(model, config), config, x, y, epoch=epoch, batch=number)
        found.append(drawn(done).numpy().tobytes())
    assert len(set(found)) == 4


def test_nesterov_is_another_run():
    assert trained(settings())[0] != trained(settings(nesterov=True))[0]


# ---------------------------------------------------------------- regularisers


def test_l1_adds_the_signs_of_kernels_and_matrices():
    plain, penalised = (
        trained(settings(l1=l1, awp=AwpConfig(gamma=0.01), momentum=0.0), 1)[1] for l1 in (0, 0.01)
    )
    for name, w in build(settings()).named_parameters():
        penalty = 0.01 * w.sign() if w.dim() > 1 else torch.zeros_like(w)
        expected = plain.get_parameter(name) - settings().lr * penalty
        assert torch.allclose(penalised.get_parameter(name), expected, atol=1e-7)


def test_mixup_trains_and_attacks_the_mixed_loss():
    config = settings(mixup=1.4)
    model, x, y = build(config), torch.rand(10, 1, 8, 8), torch.arange(10)
    done = step(model, optimiser_of(model, config), config, x, y, epoch=3, batch=5)

    mixed, shares = varied(x, y, config, epoch=3, batch=5)  # one image a class: a 10 x 10 matrix
    assert torch.equal(done.x, mixed) and torch.equal(done.y, shares)
    share = float(shares.diagonal().min())
    others = (shares - share * torch.eye(10)).argmax(1)
    assert sorted(others.tolist()) == list(range(10))
    assert torch.allclose(mixed, share * x + (1 - share) * x[others], atol=1e-6)
    ce = partial(nn.functional.cross_entropy, build(config)(done.x_adv))
    expected = share * ce(y) + (1 - share) * ce(others)
    assert float(done.loss) == pytest.approx(expected.item(), rel=1e-5)
    assert (done.x_adv - done.x).abs().max() <= 0.1 + 1e-6
    judge = build(config).eval()
    after, before = (nn.functional.cross_entropy(judge(z), shares) for z in (done.x_adv, done.x))
    assert after > before
    drawn = [varied(x, y, config, epoch=0, batch=b)[1].diagonal().min() for b in range(20)]
    assert len(set(map(float, drawn))) == 20
