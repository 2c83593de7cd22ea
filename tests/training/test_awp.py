"""AWP: the radius of every norm, the restoration, and agreement with the released formulation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from awp_train.awp import UNITS, adversarial_weights, perturbable
from awp_train.objectives import OBJECTIVES
from bench.schema import AwpConfig, InvalidInput
from tests.training.tiny_runs import batch, bits


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )


def loss_of(model: nn.Module, x: Tensor, y: Tensor, objective: str = "at") -> Tensor:
    """An objective's loss of images at a fixed distance from x."""
    x_adv = (x + 0.1 * torch.linspace(-1, 1, x[0].numel()).view_as(x[0]).sign()).clamp(0, 1)
    return OBJECTIVES[objective].loss(model, x, x_adv, y, 6.0)


def place(model: nn.Module, loss: Callable[[], Tensor], config: AwpConfig, *, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return adversarial_weights(
        model, loss, config=config, generator=generator, recraft=lambda: None
    )


def perturbed(model: nn.Module, loss: Callable[[], Tensor], config: AwpConfig, **named):
    """v alone."""
    with place(model, loss, config, **named) as v:
        return v


def units_of(tensors: dict[str, Tensor], norm: str) -> list[Tensor]:
    """The parts of all tensors that share one radius, each as a vector."""
    if norm == "global":
        return [torch.cat([t.detach().flatten() for t in tensors.values()])]
    if norm == "tensor":
        return [t.detach().flatten() for t in tensors.values()]
    return [row.detach().flatten() for t in tensors.values() for row in t]


FORMS = {
    "adversarial": {},
    "three-steps": {"steps": 3},
    "two-rounds": {"steps": 2, "alternations": 2},
    "random": {"direction": "random"},
}
every_norm = pytest.mark.parametrize("norm", UNITS)


@every_norm
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_inside_is_the_ball_of_each_unit_and_w_comes_back_bit_for_bit(form, norm):
    model, (x, y) = network(), batch()
    loss = partial(loss_of, model, x, y)
    loss().backward()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = -0.0
    config = AwpConfig(gamma=0.02, norm=norm, **form)
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    with suppress(KeyboardInterrupt), place(model, loss, config) as v:
        assert set(v) == {"0.weight", "4.weight"}
        weights = {name: before[name] for name in v}
        for delta, w in zip(units_of(v, norm), units_of(weights, norm), strict=True):
            ratio = float(delta.norm() / w.norm())
            assert ratio <= 0.02 * (1 + 1e-5)
            assert config.steps > 1 or ratio == pytest.approx(0.02, rel=1e-5)
        inside = model.state_dict()
        moved = {name: before[name] + v[name] if name in v else before[name] for name in before}
        assert all(torch.equal(inside[name], moved[name]) for name in before)
        if norm == "filter":
            raise KeyboardInterrupt
    assert bits(before) == bits(model.state_dict())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_weights_and_buffers_come_back_when_the_ascent_raises(failing_call):
    model, (x, y) = network(), batch()
    before, calls = bits(model.state_dict()), []

    def failing() -> Tensor:
        calls.append(1)
        loss = loss_of(model, x, y)
        if len(calls) == failing_call:
            raise RuntimeError("out of memory")
        return loss

    with pytest.raises(RuntimeError, match="out of memory"):
        perturbed(model, failing, AwpConfig(gamma=0.02, steps=3))
    assert before == bits(model.state_dict())


# ---------------------------------------------------------------- the direction


def proxy_perturbation(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], gamma: float, norm: str
) -> list[Tensor]:
    """The released formulation: one SGD step of a copy on -loss, its difference rescaled, by unit."""
    proxy = copy.deepcopy(model)
    optimiser = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    optimiser.step()
    old, moved = perturbable(model), perturbable(proxy)
    differences = {name: moved[name] - w for name, w in old.items()}
    pairs = zip(units_of(differences, norm), units_of(old, norm), strict=True)
    return [gamma * w.norm() / (delta.norm() + 1e-20) * delta for delta, w in pairs]


@pytest.mark.parametrize(
    ("objective", "norm", "dtype", "apart"),
    [*((o, "tensor", torch.float64, 1e-9) for o in OBJECTIVES),
     *(("at", norm, torch.float32, 1e-2) for norm in UNITS)],
)  # fmt: skip
def test_equal_to_the_proxy_formulation(objective, norm, dtype, apart):
    model, (x, y) = network().to(dtype), batch()
    loss = partial(loss_of, x=x.to(dtype), y=y, objective=objective)
    expected = torch.cat(proxy_perturbation(model, loss, 0.01, norm))
    v = perturbed(model, partial(loss, model), AwpConfig(gamma=0.01, norm=norm))
    v = torch.cat(units_of(v, norm))
    assert (v - expected).norm() < apart * expected.norm()
    assert F.cosine_similarity(v, expected, dim=0) > 0.9999


@every_norm
@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_loss_linear_in_the_weights_v_is_the_worst_of_the_ball(norm, steps):
    """There max over the ball of <g, v> is the sum over units of radius * ||g_u||, reached at g."""
    model = network().double()
    weights = perturbable(model)
    slopes = {name: torch.randn_like(p) for name, p in weights.items()}

    def loss() -> Tensor:
        return sum((slopes[name] * p).sum() for name, p in weights.items())

    pairs = zip(units_of(weights, norm), units_of(slopes, norm), strict=True)
    highest = sum(0.3 * w.norm() * g.norm() for w, g in pairs)
    before = loss().detach()
    with place(model, loss, AwpConfig(gamma=0.3, norm=norm, steps=steps)):
        assert torch.allclose(loss() - before, highest, rtol=1e-12)


def test_tiny_gradients_keep_their_direction():
    """Where the proxy's difference of weights drowns in float32 rounding."""
    model, (x, y) = network(), batch()
    v, tiny = (
        perturbed(model, lambda scale=scale: scale * loss_of(model, x, y), AwpConfig(gamma=0.01))
        for scale in (1, 1e-8)
    )
    assert all(F.cosine_similarity(v[n].flatten(), tiny[n].flatten(), dim=0) > 0.99999 for n in v)


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_zero_gradients_and_zero_weights_give_no_perturbation(dtype, norm):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    nn.init.zeros_(model[1].weight)  # so that no gradient reaches the first layer
    config = AwpConfig(gamma=0.5, norm=norm)
    v = perturbed(model, lambda: model(torch.ones(2, 3, dtype=dtype)).float().sum(), config)
    assert not v["0.weight"].any()
    assert v["1.weight"].any() == (norm == "global")  # whose radius is not zero


def test_a_random_direction_costs_no_pass_and_depends_on_the_generator_alone():
    def passed() -> Tensor:
        raise AssertionError("a pass")

    model, config = network(), AwpConfig(gamma=0.02, direction="random")
    one, again, other = (bits(perturbed(model, passed, config, seed=s)) for s in (1, 1, 2))
    assert one == again != other


# ---------------------------------------------------------------- rounds


def test_images_are_crafted_anew_at_the_perturbed_weights():
    """Two rounds of two steps, written out: v goes on, on images of the second round."""
    model, (first, y) = network(), batch()
    second = torch.rand_like(first)
    images, seen = [first], []

    def recraft() -> None:
        images.append(second)
        seen.append(copy.deepcopy(model.state_dict()))
        model(second)  # moves BatchNorm statistics

    def loss() -> Tensor:
        return loss_of(model, images[-1], y)

    before, config = copy.deepcopy(model.state_dict()), AwpConfig(gamma=0.05, steps=2)
    after_first = perturbed(model, loss, config)
    config = config.model_copy(update={"alternations": 2})
    with adversarial_weights(model, loss, config=config, recraft=recraft) as v:
        assert torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])
    assert len(seen) == 1
    for name in v:
        assert torch.equal(seen[0][name], before[name] + after_first[name])
        assert not torch.equal(v[name], after_first[name])
    with pytest.raises(InvalidInput, match="alternations"):
        adversarial_weights(model, loss, config=config).__enter__()
    assert bits(model.state_dict()) == bits(before)


# ---------------------------------------------------------------- what is perturbed


def test_what_is_perturbed_can_be_chosen():
    model, (x, y) = network(), batch()

    def names(**patterns) -> set[str]:
        config = AwpConfig(gamma=0.1, **patterns)
        return set(perturbed(model, partial(loss_of, model, x, y), config))

    assert names(include=("0.*",)) == names(exclude=("4.*",)) == {"0.weight"}
    assert names(include=("*.weight",), exclude=("0.*",)) == {"4.weight"}
    for pattern in ("1.weight", "0.bias", "conv*"):  # BatchNorm and biases never
        with pytest.raises(InvalidInput, match=r"no weight.*there are 0\.weight, 4\.weight"):
            names(exclude=(pattern,))
    with pytest.raises(InvalidInput, match="has no weight"):
        names(include=("0.*",), exclude=("*.weight",))
    model[4].weight.requires_grad_(False)
    assert names() == {"0.weight"}
    in_checkpoint = nn.ModuleDict({"net": network()})  # whose names are without the `net.`
    assert set(perturbable(in_checkpoint, include=("4.*",))) == {"net.4.weight"}
