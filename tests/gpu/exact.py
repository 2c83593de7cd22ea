"""The contract of attacks, and random numbers that are the CPU's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.attacks import ATTACKS, Search
from bench.attacks.geometry import Ball, distance
from bench.attacks.losses import fooled
from bench.schema import AttackSpec, ThreatModel
from bench.streams import Streams
from tests.attacks.problems import problem
from tests.attacks.test_contract import CASCADE, CASES
from tests.conftest import small_net
from tests.gpu.place import Place, images
from tests.gpu.running import Check, Seen

# ---------------------------------------------------------------- the contract of attacks


def contract(name: str, place: Place) -> Seen:
    """An attack under every norm it has a case of."""
    cases = [(spec, threat) for spec, threat in CASES if spec.name == name]
    wrong = {}
    for spec, threat in cases:
        if faults := _faults(spec, threat, place):
            wrong[f"{spec} {threat}"] = faults
    told = "; ".join(f"{case}: {', '.join(faults)}" for case, faults in wrong.items())
    return Seen(told or f"{len(cases)} cases hold", not wrong, {"faults": wrong})


def _faults(spec: AttackSpec, threat: str, place: Place) -> list[str]:
    net: Any = small_net().to(place.device)
    x = images(place.size(48, 6), (1, 8, 8)).to(place.device)
    x[:2] = x[:2].round()  # pixels at the ends of the box
    with torch.no_grad():
        y = net(x).argmax(1)
    y[:1] = (y[:1] + 1) % 10
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones_like(net[0].bias)
    before, given = copy.deepcopy(net.state_dict()), x.clone()
    drawn = [torch.get_rng_state()]
    drawn += [torch.cuda.get_rng_state(place.device)] if place.gpu else []
    asked = problem(net, x, y, threat, search=Search(rows=place.size(32, 128)))
    x_adv = ATTACKS[spec.name].function(asked, **spec.params)
    after = [torch.get_rng_state()]
    after += [torch.cuda.get_rng_state(place.device)] if place.gpu else []
    norm, minimum = threat.partition(":")[0], ATTACKS[spec.name].minimum_norm
    changed = (x_adv != x).flatten(1).any(1)
    only_hits = spec.name.startswith(("apgd", "fab", "square", "fmn", *CASCADE))
    with torch.no_grad():
        hit = fooled(net(x_adv), y)
    left = net.state_dict()
    holds = {
        "other shape, type or device": x_adv.shape == x.shape
        and (x_adv.dtype, x_adv.device) == (x.dtype, x.device),
        "not detached": not x_adv.requires_grad,
        "outside the box": bool(((x_adv >= 0) & (x_adv <= 1)).all()),
        "outside the ball": minimum
        or bool(distance(x, x_adv, norm).max() <= ThreatModel.parse(threat).epsilon),
        "nothing was changed": bool(changed.any()),
        "a changed image that is no hit": not only_hits or bool(hit[changed].all()),
        "the images were written to": torch.equal(x, given),
        "global random numbers were drawn": all(map(torch.equal, drawn, after)),
        "weights, statistics or mode were moved": not net.training
        and all(torch.equal(value, before[key]) for key, value in left.items()),
        "gradients were left or taken": net[4].weight.grad is None
        and torch.equal(net[0].bias.grad, torch.ones_like(net[0].bias)),
        "requires_grad was moved": [p.requires_grad for p in net.parameters()]
        == [False] + [True] * 5,
    }
    return [fault for fault, held in holds.items() if not held]


# ---------------------------------------------------------------- random numbers


def _draws(x: Tensor) -> dict[str, Tensor]:
    """Every kind of draw, of streams of images x (B, C, H, W) and of a batch."""
    by_image = Streams.for_images(x, 7, "column").at("apgd-t", 1, 3)
    by_batch = Streams.for_batch(len(x), "craft", 3, 1, 2, device=x.device)
    shape = tuple(x.shape[1:])
    return {
        kind: torch.cat([draw(by_image), draw(by_batch)]) for kind, draw in _kinds(shape).items()
    }


def _kinds(shape: tuple[int, ...]) -> dict[str, Callable[[Streams], Tensor]]:
    return {
        "keys": lambda s: s.keys,
        "words": lambda s: s.words(101, 5),
        "uniform": lambda s: s.uniform(shape, draw=1),
        "signs": lambda s: (2 * s.uniform(shape) - 1).sign(),
        "integers": lambda s: torch.stack([s.integers(high, draw=2) for high in (2, 9, 1000)]),
        "normal": lambda s: s.normal(shape, draw=3),
    }


def streams(place: Place) -> Seen:
    """Draws of the device against those of the CPU, bit for bit."""
    x = images(place.size(512, 8), place.size((3, 32, 32), (1, 8, 8)))
    here, there = _draws(x), _draws(x.to(place.device))
    facts = {}
    for kind, drawn in here.items():
        other = there[kind].cpu()
        differ = int((drawn != other).sum())
        facts[kind] = {
            "drawn": drawn.numel(), "differ": differ, "same type": drawn.dtype == other.dtype,
            "by at most": float((drawn.double() - other.double()).abs().max()),
        }  # fmt: skip
    fine = all(f["differ"] == 0 and f["same type"] for f in facts.values())
    seen = ", ".join(f"{kind} {f['differ']:,} of {f['drawn']:,}" for kind, f in facts.items())
    return Seen(f"differ: {seen}", fine, facts)


def starts(place: Place) -> Seen:
    """Random starts: made of equal draws, by sums and products that a device may round otherwise."""
    x = images(place.size(512, 8), place.size((3, 32, 32), (1, 8, 8)))
    facts = {}
    for text in ("linf:8/255", "l2:0.5"):
        threat = ThreatModel.parse(text)
        a, b = (
            Ball.around(z, threat).random_start(Streams.for_images(z, 0, "start"))
            for z in (x, x.to(place.device))
        )
        far = float((a - b.cpu()).abs().max())
        inside = bool(distance(x, b.cpu(), threat.norm).max() <= threat.epsilon)
        facts[text] = {"differ by at most": far, "inside": inside}
    fine = all(f["inside"] and f["differ by at most"] <= 1e-6 for f in facts.values())
    seen = ", ".join(f"{text}: {f['differ by at most']:.1e}" for text, f in facts.items())
    return Seen(f"{seen}, {'all' if fine else 'not all'} inside", fine, facts)


_HELD = "in ball and box, detached, model and random state as found"
CHECKS = {
    **{
        f"contract {name}": Check(f"the contract of {name}", _HELD, partial(contract, name))
        for name in ATTACKS
    },
    "streams": Check("random numbers beside the CPU's", "0 differ, bit for bit", streams),
    "starts": Check("random starts beside the CPU's", "inside the ball, within 1e-6", starts),
}  # fmt: skip
