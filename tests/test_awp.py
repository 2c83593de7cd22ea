"""AWP: the radius, the restoration, and agreement with the released formulation."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from awp_train.awp import adversarial_weights, perturbable
from awp_train.update import build, step
from bench.schema import AwpConfig, InvalidInput, ThreatModel, TrainConfig


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 1, 8, 8), torch.arange(size) % 10


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit, also where the sign of a zero differs."""
    return one.keys() == other.keys() and all(
        one[k].numpy().tobytes() == other[k].numpy().tobytes() for k in one
    )


CONFIGS = {
    "adversarial": AwpConfig(gamma=0.02),
    "three-steps": AwpConfig(gamma=0.02, steps=3),
    "random": AwpConfig(gamma=0.02, direction="random"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@every_config
def test_the_ball_is_that_of_each_tensor(config):
    model, (x, y) = network(), batch()
    before = state(model)
    generator = torch.Generator().manual_seed(1)
    with adversarial_weights(
        model, partial(loss_of, model, x, y), config=config, generator=generator
    ) as v:
        assert set(v) == {"0.weight", "4.weight"}
        for name, delta in v.items():
            ratio = float(delta.norm() / before[name].norm())
            if config.steps == 1:
                assert ratio == pytest.approx(config.gamma, rel=1e-6)
            assert ratio <= config.gamma * (1 + 1e-6)
            assert torch.equal(model.state_dict()[name], before[name] + delta)
        inside = state(model)
    untouched = [k for k in before if k not in v]
    assert {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.num_batches_tracked"} < {
        *untouched
    }
    assert same({k: before[k] for k in untouched}, {k: inside[k] for k in untouched})


@every_config
@pytest.mark.parametrize("raising", [False, True])
def test_weights_come_back_bit_for_bit(config, raising):
    model, (x, y) = network(), batch()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = -0.0
    before = state(model)
    generator = torch.Generator().manual_seed(1)
    place = adversarial_weights(
        model, partial(loss_of, model, x, y), config=config, generator=generator
    )
    if raising:
        with pytest.raises(KeyboardInterrupt), place:
            raise KeyboardInterrupt
    else:
        with place:
            loss_of(model.eval(), x, y).backward()
    assert same(before, state(model))


@pytest.mark.parametrize("failing_call", [1, 2])
def test_weights_and_buffers_come_back_when_the_ascent_raises(failing_call):
    model, (x, y) = network(), batch()
    before, calls = state(model), []

    def failing() -> Tensor:
        calls.append(1)
        loss = loss_of(model, x, y)
        if len(calls) == failing_call:
            raise RuntimeError("out of memory")
        return loss

    with (
        pytest.raises(RuntimeError, match="out of memory"),
        adversarial_weights(model, failing, config=CONFIGS["three-steps"]),
    ):
        raise AssertionError("not reached")
    assert same(before, state(model))


def test_existing_gradients_are_left_alone():
    model, (x, y) = network(), batch()
    loss_of(model, x, y).backward()
    before = [p.grad.clone() for p in model.parameters()]
    with adversarial_weights(model, partial(loss_of, model, x, y), config=AwpConfig(gamma=0.1)):
        pass
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def proxy_perturbation(model: nn.Module, x: Tensor, y: Tensor, gamma: float) -> dict[str, Tensor]:
    """The released formulation: one SGD step of a copy on -loss, its difference rescaled."""
    proxy = copy.deepcopy(model)
    optimiser = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss_of(proxy, x, y)).backward()
    optimiser.step()
    v = {}
    for (name, old), new in zip(model.named_parameters(), proxy.parameters(), strict=True):
        if old.dim() > 1:
            difference = (new - old).detach()
            v[name] = gamma * old.detach().norm() * difference / (difference.norm() + 1e-20)
    return v


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_to_the_proxy_formulation(dtype):
    model, (x, y) = network().to(dtype), batch()
    x = x.to(dtype)
    expected = proxy_perturbation(model, x, y, 0.01)
    with adversarial_weights(
        model, partial(loss_of, model, x, y), config=AwpConfig(gamma=0.01)
    ) as v:
        for name, delta in v.items():
            error = (delta - expected[name]).norm() / expected[name].norm()
            cosine = F.cosine_similarity(delta.flatten(), expected[name].flatten(), dim=0)
            assert error < (1e-9 if dtype == torch.float64 else 1e-2)
            assert cosine > 0.99999


def test_tiny_gradients_keep_their_direction():
    """Where the proxy's difference of weights drowns in float32 rounding."""
    model, (x, y) = network(), batch()
    config = AwpConfig(gamma=0.01)
    with adversarial_weights(model, partial(loss_of, model, x, y), config=config) as v:
        pass
    with adversarial_weights(model, lambda: 1e-8 * loss_of(model, x, y), config=config) as tiny:
        pass
    for name in v:
        assert F.cosine_similarity(v[name].flatten(), tiny[name].flatten(), dim=0) > 0.99999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_zero_gradients_and_zero_weights_give_no_perturbation(dtype):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    nn.init.zeros_(model[1].weight)  # so that no gradient reaches the first layer
    x = torch.ones(2, 3, dtype=dtype)
    with adversarial_weights(
        model, lambda: model(x).float().sum(), config=AwpConfig(gamma=0.5)
    ) as v:
        assert not v["0.weight"].any()
        assert not v["1.weight"].any()


def test_small_steps_raise_the_loss():
    model, (x, y) = network(), batch()
    with torch.no_grad():
        before = float(loss_of(model, x, y))
    losses = [before]
    for gamma in (1e-4, 1e-3, 1e-2):
        with (
            adversarial_weights(
                model, partial(loss_of, model, x, y), config=AwpConfig(gamma=gamma)
            ),
            torch.no_grad(),
        ):
            losses.append(float(loss_of(model, x, y)))
    assert losses == sorted(losses)
    assert losses[-1] > before


def test_a_random_direction_costs_no_pass_and_depends_on_the_generator_alone():
    model, (x, _) = network(), batch()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))

    def draw(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        with adversarial_weights(
            model, lambda: model(x).sum(), config=CONFIGS["random"], generator=generator
        ) as v:
            return v

    assert same(draw(1), draw(1))
    assert not same(draw(1), draw(2))
    assert not passes


def test_what_is_perturbed_can_be_chosen():
    model, (x, y) = network(), batch()
    closure = partial(loss_of, model, x, y)

    def perturbed(**patterns) -> set[str]:
        config = AwpConfig(gamma=0.1, **patterns)
        with adversarial_weights(model, closure, config=config) as v:
            return set(v)

    assert perturbed(include=("0.*",)) == perturbed(exclude=("4.*",)) == {"0.weight"}
    assert perturbed(include=("*.weight",), exclude=("0.*",)) == {"4.weight"}
    for pattern in ("1.weight", "0.bias", "conv*"):  # BatchNorm and biases never
        with pytest.raises(InvalidInput, match=r"no weight.*there are 0\.weight, 4\.weight"):
            perturbed(exclude=(pattern,))
    with pytest.raises(InvalidInput, match="has no weight"):
        perturbed(include=("0.*",), exclude=("*.weight",))
    model[4].weight.requires_grad_(False)
    assert perturbed() == {"0.weight"}


def test_patterns_are_of_names_in_checkpoints():
    weights = perturbable(build(config_with(None)), include=("*",))
    assert weights and all(name.startswith("net.") for name in weights)
    first = next(iter(weights)).removeprefix("net.")
    assert set(perturbable(build(config_with(None)), include=(first,))) == {f"net.{first}"}


# ---------------------------------------------------------------- inside a training step


def config_with(awp: AwpConfig | None, craft_mode: str = "train") -> TrainConfig:
    return TrainConfig(
        dataset="digits",
        arch_args={"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2},
        threat=ThreatModel.parse("linf:0.1"),
        attack_steps=2,
        craft_mode=craft_mode,
        awp=awp,
    )


def trained(config: TrainConfig, steps: int = 4) -> tuple[dict[str, Tensor], list[Tensor]]:
    model = build(config)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for number in range(steps):
        torch.manual_seed(number)
        step(model, optimiser, config, *batch(), epoch=0, batch=number)
    return state(model), [s["momentum_buffer"] for s in optimiser.state.values()]


@pytest.mark.parametrize("craft_mode", ["train", "eval"])
@pytest.mark.parametrize("direction", ["adversarial", "random"])
def test_gamma_zero_is_adversarial_training_bit_for_bit(direction, craft_mode):
    plain, momenta = trained(config_with(None, craft_mode))
    zero, zero_momenta = trained(config_with(AwpConfig(gamma=0.0, direction=direction), craft_mode))
    assert same(plain, zero)
    assert all(torch.equal(a, b) for a, b in zip(momenta, zero_momenta, strict=True))


def test_a_step_moves_the_weights_by_the_gradient_at_the_perturbed_ones():
    config = config_with(AwpConfig(gamma=0.05))
    plain, perturbed = trained(config_with(None), 1)[0], trained(config, 1)[0]
    start = build(config).state_dict()
    assert not same(start, perturbed)
    assert not same(plain, perturbed)

    # The same step written out: lr * (grad at w + v + decay * w), with w itself decayed, not w + v.
    model, caught = build(config), {}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-4)
    optimiser.register_step_pre_hook(
        lambda *_: caught.update(
            {n: (p.clone(), p.grad.clone()) for n, p in model.named_parameters()}
        )
    )
    torch.manual_seed(0)
    step(model, optimiser, config, *batch(), epoch=0, batch=0)
    for name, parameter in model.named_parameters():
        at_step, grad = caught[name]
        assert torch.equal(at_step, start[name])
        assert torch.allclose(parameter, start[name] - 0.1 * (grad + 5e-4 * start[name]), atol=1e-7)
