"""AWP and a step of training: what they do to the weights."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from awp_train.awp import UNITS, adversarial_weights, perturbable
from awp_train.step import optimiser_of, step
from bench.as_found import exact_float32
from bench.datasets import load
from bench.schema import AwpConfig, TrainConfig
from bench.sources import checkpoint
from tests.gpu.place import DIGITS, Place, other_sums, present
from tests.gpu.running import Check, Seen


def awp_restores(place: Place) -> Seen:
    """w comes back bit for bit, and v is as long as gamma allows, a unit of each kind at a time."""
    net = checkpoint.load_model(present(DIGITS), device=place.device).train()
    data = load("digits", "test", n=place.size(128, 16))
    x, y = data.x.to(place.device), data.labels.to(place.device)
    facts, fine = {}, True
    for kind in UNITS:
        config = AwpConfig.model_validate({"gamma": 0.02, "norm": kind})
        before = {name: value.clone() for name, value in net.state_dict().items()}
        radii = UNITS[kind]([p.detach().double() for p in perturbable(net).values()])
        loss = partial(_cross_entropy, net, x, y)
        with adversarial_weights(net, loss, config=config) as v:
            lengths = UNITS[kind]([each.double() for each in v.values()])
            moved = all(not torch.equal(before[n], net.state_dict()[n]) for n in v)
        ratios = torch.cat([(a / r).flatten() for a, r in zip(lengths, radii, strict=True)]) / 0.02
        same = all(torch.equal(before[n], value) for n, value in net.state_dict().items())
        off = float((ratios[ratios > 0] - 1).abs().max())
        facts[kind] = {"restored": same, "moved inside": moved, "length off by": off}
        fine &= same and moved and off <= 1e-5
    seen = ", ".join(f"{kind} {f['length off by']:.0e}" for kind, f in facts.items())
    back = all(f["restored"] for f in facts.values())
    text = f"{'restored' if back else 'NOT restored'}; lengths off by {seen}"
    return Seen(text, fine, facts)


def _cross_entropy(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), y)


# Of the length of the update. float32: a step's gradient sums over the batch, and images crafted in one
# step have a few pixels whose gradient is near zero and whose sign is the rounding's.
_UPDATES = {"float64": 1e-6, "float32": 0.02}
_TRAINED = "float32 as it trains"  # torch starts with TF32 on in a GPU's convolutions; shown alone


def awp_step(place: Place) -> Seen:
    """One AT-AWP step of training from the same weights, on the device and on the CPU."""
    facts, fine = {}, True
    for kind in (*_UPDATES, _TRAINED):
        dtype = getattr(torch, kind.split()[0])
        here = _update(dtype, "cpu", place)
        with other_sums(place), nullcontext() if kind == _TRAINED else exact_float32():
            there = _update(dtype, place.device, place)
        off = float((here - there).norm() / here.norm())
        facts[kind] = {"length": float(here.norm()), "differ by, of the length": off}
        fine &= bool(here.norm() > 0) and off <= _UPDATES.get(kind, math.inf)
    seen = ", ".join(f"{k} {f['differ by, of the length']:.1e}" for k, f in facts.items())
    return Seen(f"the updates differ by {seen} of their length", fine, facts)


def _update(dtype: torch.dtype, device: str, place: Place) -> Tensor:
    """What a step adds to the weights, float64 on the CPU."""
    net, card = checkpoint.load(present(DIGITS), device=device)
    assert isinstance(card.train, TrainConfig) and card.train.awp is not None
    awp = card.train.awp.model_copy(update={"warm_up": 0})
    # One step of crafting: over several, signs of near-zero gradients part in any two programs.
    config = card.train.model_copy(update={"awp": awp, "attack_steps": 1, "l1": 0.0})
    net.to(dtype).train()
    data = load("digits", "test", n=place.size(128, 32))
    x, y = data.x.to(device, dtype), data.labels.to(device)
    before = [p.detach().clone() for p in net.parameters()]
    step(net, optimiser_of(net, config), config, x, y, epoch=0, batch=0)
    moved = zip(net.parameters(), before, strict=True)
    return torch.cat([(p.detach() - old).flatten() for p, old in moved]).double().cpu()


CHECKS = {
    "awp restores": Check(
        "weights inside and after AWP", "restored bit for bit, lengths within 1e-5", awp_restores
    ),
    "awp step": Check(
        "an AT-AWP step beside the CPU's",
        f"within {_UPDATES['float64']:g} (float64), {_UPDATES['float32']:g} (float32)", awp_step,
    ),
}  # fmt: skip
