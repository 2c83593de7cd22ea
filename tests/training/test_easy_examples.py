"""Robust weight perturbation: which examples the weights' adversary climbs, and which it leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from awp_train.awp import adversarial_weights
from awp_train.objectives import OBJECTIVES, of_easy_examples
from awp_train.passes import crafting_passes, step_passes
from awp_train.presets import find, run_name
from awp_train.step import build, optimiser_of, step
from bench.schema import AwpConfig, TrainConfig
from tests.training.tiny_runs import batch, bits, settings

every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
AT = OBJECTIVES["at"].loss
EVERYTHING = 1e30  # nats


def perturbation(
    model: nn.Module, loss: Callable[[], Tensor], steps: int = 1, gamma: float = 0.05
) -> Tensor:
    """v of a global norm, all tensors in one vector."""
    config = AwpConfig(gamma=gamma, norm="global", steps=steps)
    with adversarial_weights(model, loss, config=config) as v:
        return torch.cat([delta.flatten() for delta in v.values()])


def images() -> tuple[Tensor, Tensor, Tensor]:
    x, y = batch()
    return x, (x + 0.1 * torch.randn_like(x)).clamp(0, 1), y


@every_objective
@pytest.mark.parametrize("steps", [1, 3])
def test_above_every_loss_it_is_awp_to_the_bit_and_at_zero_nothing(objective, steps):
    model, (x, x_adv, y), loss = build(settings()), images(), OBJECTIVES[objective].loss
    model.train()
    whole = perturbation(model, partial(loss, model, x, x_adv, y, 6.0), steps)
    easy = partial(of_easy_examples, loss, model, x, x_adv, y, 6.0)
    assert torch.equal(perturbation(model, partial(easy, EVERYTHING), steps), whole)
    assert whole.norm() > 0
    nothing = easy(0.0)
    assert nothing.item() == 0
    assert not perturbation(model, partial(easy, 0.0), steps).any()


@every_objective
def test_it_is_the_sum_over_the_easy_examples_over_the_whole_batch(objective):
    """In eval mode an image's loss depends on no other: terms can be taken one at a time."""
    model, (x, x_adv, y), loss = build(settings()).double().eval(), images(), OBJECTIVES[objective]
    x, x_adv = x.double(), x_adv.double()
    hardness = F.cross_entropy(model(x_adv), y, reduction="none").detach()
    threshold = float(hardness.sort().values[5])  # five lie below it, and it lies below itself not
    each = [
        loss.loss(model, x[i : i + 1], x_adv[i : i + 1], y[i : i + 1], 6.0)
        for i in range(len(y))
        if hardness[i] < threshold
    ]
    assert len(each) == 5
    found = of_easy_examples(loss.loss, model, x, x_adv, y, 6.0, threshold)
    torch.testing.assert_close(found, sum(each) / len(y))


def softmax_gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the summed cross-entropy of logits x @ w.T: (p - onehot)^T x."""
    return (F.softmax(x @ w.T, 1) - F.one_hot(y, len(w))).T @ x


def test_on_a_linear_network_v_is_the_closed_form_and_examples_are_chosen_again_each_step():
    """Two steps by hand; what the first pushes over the threshold leads no further."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 3, bias=False).double()
    w = linear.weight.detach().clone()
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3

    def easy(at: Tensor) -> Tensor:
        return F.cross_entropy(x @ at.T, y, reduction="none") < 1.0

    def uphill(at: Tensor) -> Tensor:
        g = softmax_gradient(at, x[easy(at)], y[easy(at)])
        return 0.5 * w.norm() * g / g.norm()

    first = uphill(w)
    before, after = easy(w), easy(w + first)
    assert 0 < before.sum() < 20 and (before & ~after).any() and (after & ~before).any()
    loss = partial(of_easy_examples, AT, linear, x, x, y, 6.0, 1.0)
    torch.testing.assert_close(perturbation(linear, loss, gamma=0.5).view_as(w), first)
    second = first + uphill(w + first)
    second *= min(1, float(0.5 * w.norm() / second.norm()))  # what leaves the ball is brought back
    torch.testing.assert_close(perturbation(linear, loss, 2, gamma=0.5).view_as(w), second)
    assert torch.equal(linear.weight, w)


def test_where_no_example_is_easy_any_more_v_stays_where_it_is():
    linear = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.zero_()[0, 0] = 1.0
    x, y = torch.tensor([[2.0, 0, 0, 0]], dtype=torch.float64), torch.tensor([0])
    # ln(1 + exp(-2)) is below 0.2; a step of the whole radius takes the answer away.
    loss = partial(of_easy_examples, AT, linear, x, x, y, 6.0, 0.2)
    one, many = (perturbation(linear, loss, steps, gamma=1.0) for steps in (1, 5))
    assert one.norm() > 0 and torch.equal(one, many)


# ---------------------------------------------------------------- in a step


def robust(objective: str = "at", **awp: object) -> TrainConfig:
    fields = {"gamma": 0.05, "norm": "global", "steps": 10} | awp
    return settings(objective, awp=AwpConfig.model_validate(fields))


def stepped(config: TrainConfig) -> dict[str, bytes]:
    torch.manual_seed(0)  # of the batch
    model = build(config)
    step(model, optimiser_of(model, config), config, *batch(), epoch=0, batch=0)
    return bits(model.state_dict())


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_a_step_follows_the_threshold(objective):
    """Above all losses it is AWP, at 0 training without; between them it is neither."""
    config = robust(objective)
    awp, vanilla = stepped(config), stepped(settings(objective))
    assert stepped(robust(objective, threshold=EVERYTHING)) == awp
    assert stepped(robust(objective, threshold=0.0)) == vanilla
    assert stepped(robust(objective, threshold=2.3)) not in (awp, vanilla)


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_its_passes_are_those_that_are_counted(objective):
    config = robust(objective, threshold=2.5)
    model, calls = build(config), []
    model.register_forward_hook(lambda *_: calls.append(1))
    step(model, optimiser_of(model, config), config, *batch(), epoch=0, batch=0)
    forward = crafting_passes(config) - config.attack_steps  # going back to images costs one more
    going_back = (step_passes(config, perturbed=True) - crafting_passes(config)) // 3
    assert len(calls) == forward + going_back


def test_what_has_no_threshold_is_named_and_written_as_it_was():
    preset = find("digits-at-awp").config
    assert "threshold" not in preset.model_dump_json()
    config = preset.model_copy(update={"awp": preset.awp.model_copy(update={"threshold": 1.7})})
    assert run_name("digits-at-awp", config) == "digits-at-awp-awp.threshold=1.7-s0"
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
