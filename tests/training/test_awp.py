"""AWP: the radius of every norm, the restoration, and agreement with the released formulation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from awp_train.awp import UNITS, adversarial_weights, perturbable
from awp_train.objectives import OBJECTIVES
from bench.schema import AwpConfig, InvalidInput


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 1, 8, 8), torch.arange(size) % 10


def loss_of(model: nn.Module, x: Tensor, y: Tensor, objective: str = "at") -> Tensor:
    """An objective's loss of images at a fixed distance from x."""
    x_adv = (x + 0.1 * torch.linspace(-1, 1, x[0].numel()).view_as(x[0]).sign()).clamp(0, 1)
    return OBJECTIVES[objective].loss(model, x, x_adv, y, 6.0)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit, also where the sign of a zero differs."""
    return one.keys() == other.keys() and all(
        one[k].numpy().tobytes() == other[k].numpy().tobytes() for k in one
    )


def perturbed(model: nn.Module, loss: Callable[[], Tensor], config: AwpConfig) -> dict[str, Tensor]:
    """v alone."""
    generator = torch.Generator().manual_seed(1)
    place = adversarial_weights(
        model, loss, config=config, generator=generator, recraft=lambda: None
    )
    with place as v:
        return v


def units_of(tensors: dict[str, Tensor], norm: str) -> list[Tensor]:
    """The parts of all tensors that share one radius, each as a vector."""
    if norm == "global":
        return [torch.cat([t.detach().flatten() for t in tensors.values()])]
    if norm == "tensor":
        return [t.detach().flatten() for t in tensors.values()]
    return [row.detach().flatten() for t in tensors.values() for row in t]


CONFIGS = {
    f"{norm}-{name}": AwpConfig(gamma=0.02, norm=norm, **fields)
    for norm in UNITS
    for name, fields in {
        "adversarial": {},
        "three-steps": {"steps": 3},
        "two-rounds": {"steps": 2, "alternations": 2},
        "random": {"direction": "random"},
    }.items()
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_norm = pytest.mark.parametrize("norm", UNITS)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


@every_objective
@every_config
def test_the_ball_is_that_of_each_unit(config, objective):
    model, (x, y) = network(), batch()
    before = state(model)
    generator = torch.Generator().manual_seed(1)
    with adversarial_weights(
        model,
        partial(loss_of, model, x, y, objective),
        config=config,
        generator=generator,
        recraft=lambda: None,
    ) as v:
        assert set(v) == {"0.weight", "4.weight"}
        weights = {name: before[name] for name in v}
        for delta, w in zip(units_of(v, config.norm), units_of(weights, config.norm), strict=True):
            ratio = float(delta.norm() / w.norm())
            if config.steps == 1:
                assert ratio == pytest.approx(config.gamma, rel=1e-5)
            assert ratio <= config.gamma * (1 + 1e-5)
        for name, delta in v.items():
            assert torch.equal(model.state_dict()[name], before[name] + delta)
        inside = state(model)
    untouched = [k for k in before if k not in v]
    assert {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.num_batches_tracked"} < {
        *untouched
    }
    assert same({k: before[k] for k in untouched}, {k: inside[k] for k in untouched})


def test_units_are_tensors_filters_or_everything():
    tensors = [torch.ones(4, 1, 3, 3), torch.ones(10, 5)]
    count = {norm: len(units.norms(tensors)) for norm, units in UNITS.items()}
    assert count == {"tensor": 2, "filter": 14, "global": 1}


@every_config
@pytest.mark.parametrize("raising", [False, True])
def test_weights_come_back_bit_for_bit(config, raising):
    model, (x, y) = network(), batch()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = -0.0
    before = state(model)
    generator = torch.Generator().manual_seed(1)
    place = adversarial_weights(
        model,
        partial(loss_of, model, x, y),
        config=config,
        generator=generator,
        recraft=lambda: None,
    )
    if raising:
        with pytest.raises(KeyboardInterrupt), place:
            raise KeyboardInterrupt
    else:
        with place:
            loss_of(model.eval(), x, y).backward()
    assert same(before, state(model))


@pytest.mark.parametrize("failing_call", [1, 2, 3])
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
        adversarial_weights(model, failing, config=AwpConfig(gamma=0.02, steps=3)),
    ):
        raise AssertionError("not reached")
    assert same(before, state(model))


def test_existing_gradients_are_left_alone():
    model, (x, y) = network(), batch()
    loss_of(model, x, y).backward()
    before = [p.grad.clone() for p in model.parameters()]
    perturbed(model, partial(loss_of, model, x, y), AwpConfig(gamma=0.1))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


# ---------------------------------------------------------------- the direction


def proxy_perturbation(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], gamma: float, norm: str
) -> dict[str, Tensor]:
    """The released formulation: one SGD step of a copy on -loss, its difference rescaled."""
    proxy = copy.deepcopy(model)
    optimiser = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    optimiser.step()
    old = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}
    moved = dict(proxy.named_parameters())
    v = {name: (moved[name] - w).detach() for name, w in old.items()}
    for delta, w in zip(v.values(), old.values(), strict=True):
        if norm == "tensor":
            delta *= gamma * w.norm() / (delta.norm() + 1e-20)
        for row, w_row in zip(delta, w, strict=True):
            if norm == "filter":
                row *= gamma * w_row.norm() / (row.norm() + 1e-20)
    if norm == "global":
        sizes = [torch.stack([t.norm() for t in part.values()]).norm() for part in (old, v)]
        v = {name: gamma * sizes[0] / (sizes[1] + 1e-20) * delta for name, delta in v.items()}
    return v


@every_norm
@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_to_the_proxy_formulation(dtype, objective, norm):
    model, (x, y) = network().to(dtype), batch()
    x = x.to(dtype)
    loss = partial(loss_of, x=x, y=y, objective=objective)
    expected = proxy_perturbation(model, loss, 0.01, norm)
    v = perturbed(model, partial(loss, model), AwpConfig(gamma=0.01, norm=norm))
    for name, delta in v.items():
        error = (delta - expected[name]).norm() / expected[name].norm()
        cosine = F.cosine_similarity(delta.flatten(), expected[name].flatten(), dim=0)
        assert error < (1e-9 if dtype == torch.float64 else 1e-2)
        assert cosine > 0.9999


@every_norm
@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_loss_linear_in_the_weights_v_is_the_worst_of_the_ball(norm, steps):
    """There max over the ball of <g, v> is the sum over units of radius * ||g_u||, reached at g."""
    model = network().double()
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    slopes = {name: torch.randn_like(p) for name, p in weights.items()}

    def loss() -> Tensor:
        return sum((slopes[name] * p).sum() for name, p in weights.items())

    gamma = 0.3
    highest = sum(
        gamma * w.norm() * g.norm()
        for w, g in zip(units_of(weights, norm), units_of(slopes, norm), strict=True)
    )
    before = loss().detach()
    with adversarial_weights(model, loss, config=AwpConfig(gamma=gamma, norm=norm, steps=steps)):
        assert torch.allclose(loss() - before, highest, rtol=1e-12)


def test_tiny_gradients_keep_their_direction():
    """Where the proxy's difference of weights drowns in float32 rounding."""
    model, (x, y) = network(), batch()
    config = AwpConfig(gamma=0.01)
    v = perturbed(model, partial(loss_of, model, x, y), config)
    tiny = perturbed(model, lambda: 1e-8 * loss_of(model, x, y), config)
    for name in v:
        assert F.cosine_similarity(v[name].flatten(), tiny[name].flatten(), dim=0) > 0.99999


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_zero_gradients_and_zero_weights_give_no_perturbation(dtype, norm):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    nn.init.zeros_(model[1].weight)  # so that no gradient reaches the first layer
    config = AwpConfig(gamma=0.5, norm=norm)
    v = perturbed(model, lambda: model(torch.ones(2, 3, dtype=dtype)).float().sum(), config)
    assert not v["0.weight"].any()
    assert v["1.weight"].any() == (norm == "global")  # whose radius is not zero


@every_objective
@every_norm
def test_small_steps_raise_the_loss(norm, objective):
    model, (x, y) = network().double(), batch()
    loss = partial(loss_of, model, x.double(), y, objective)
    losses = [loss().item()]
    for gamma in (1e-4, 1e-3, 1e-2):
        with adversarial_weights(model, loss, config=AwpConfig(gamma=gamma, norm=norm)):
            losses.append(loss().item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_a_random_direction_costs_no_pass_and_depends_on_the_generator_alone():
    model, (x, _) = network(), batch()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))

    def draw(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        config = AwpConfig(gamma=0.02, direction="random")
        with adversarial_weights(
            model, lambda: model(x).sum(), config=config, generator=generator
        ) as v:
            return v

    assert same(draw(1), draw(1))
    assert not same(draw(1), draw(2))
    assert not passes


# ---------------------------------------------------------------- rounds


def test_images_are_crafted_anew_at_the_perturbed_weights():
    """Two rounds of two steps, written out: v goes on, on images of the second round."""
    model, (first, y) = network(), batch()
    second = torch.rand_like(first)
    images, seen = [first], []

    def recraft() -> None:
        images.append(second)
        seen.append(state(model))
        model(second)  # moves BatchNorm statistics

    def loss() -> Tensor:
        return loss_of(model, images[-1], y)

    before, config = state(model), AwpConfig(gamma=0.05, steps=2, alternations=2)
    with adversarial_weights(model, loss, config=config, recraft=recraft) as v:
        inside = state(model)
    after_first = perturbed(
        model, partial(loss_of, model, first, y), AwpConfig(gamma=0.05, steps=2)
    )
    assert len(seen) == 1
    for name in v:
        assert torch.equal(seen[0][name], before[name] + after_first[name])
        assert not torch.equal(v[name], after_first[name])
    assert torch.equal(inside["1.running_mean"], before["1.running_mean"])
    assert same(state(model), before)


def test_rounds_need_a_way_to_craft():
    model, (x, y) = network(), batch()
    place = adversarial_weights(
        model, partial(loss_of, model, x, y), config=AwpConfig(alternations=2)
    )
    with pytest.raises(InvalidInput, match="alternations"), place:
        pass


# ---------------------------------------------------------------- what is perturbed


def test_what_is_perturbed_can_be_chosen():
    model, (x, y) = network(), batch()
    closure = partial(loss_of, model, x, y)

    def names(**patterns) -> set[str]:
        return set(perturbed(model, closure, AwpConfig(gamma=0.1, **patterns)))

    assert names(include=("0.*",)) == names(exclude=("4.*",)) == {"0.weight"}
    assert names(include=("*.weight",), exclude=("0.*",)) == {"4.weight"}
    for pattern in ("1.weight", "0.bias", "conv*"):  # BatchNorm and biases never
        with pytest.raises(InvalidInput, match=r"no weight.*there are 0\.weight, 4\.weight"):
            names(exclude=(pattern,))
    with pytest.raises(InvalidInput, match="has no weight"):
        names(include=("0.*",), exclude=("*.weight",))
    model[4].weight.requires_grad_(False)
    assert names() == {"0.weight"}


def test_patterns_are_of_names_in_checkpoints():
    model = nn.ModuleDict({"net": network()})
    assert set(perturbable(model)) == {"net.0.weight", "net.4.weight"}
    assert set(perturbable(model, include=("4.*",))) == {"net.4.weight"}
