"""What holds on every device: the attacks' contract, random numbers, float32 as asked, AWP."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from awp_train.awp import UNITS, adversarial_weights, perturbable
from awp_train.step import optimiser_of, step
from bench import evidence
from bench.attacks import ATTACKS, Search
from bench.attacks.geometry import Ball, distance
from bench.attacks.losses import fooled
from bench.datasets import load
from bench.judge import Judge
from bench.measure.evaluate import measure
from bench.protocols import protocol
from bench.schema import AttackSpec, AwpConfig, ThreatModel, TrainConfig
from bench.sources import checkpoint
from bench.streams import Streams
from tests.attacks.problems import problem
from tests.attacks.test_contract import CASCADE, CASES
from tests.conftest import small_net
from tests.gpu.place import DIGITS, Place, images, other_sums, present
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
    net = small_net().to(place.device)
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
    seen = ", ".join(f"{kind} {f['differ']} of {f['drawn']:,}" for kind, f in facts.items())
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


# ---------------------------------------------------------------- float32 as asked

Put = Callable[[], object]
_cuda, _cudnn, _onednn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
_OPERATIONS = {
    "cuda.matmul": _cuda, "cudnn.conv": _cudnn.conv, "cudnn.rnn": _cudnn.rnn,
    "mkldnn.matmul": _onednn.matmul, "mkldnn.conv": _onednn.conv, "mkldnn.rnn": _onednn.rnn,
}  # fmt: skip
# How a caller allows TF32 (or bfloat16, on a CPU) in float32 operations.
_SWITCHES: dict[str, Put] = {
    "set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cuda.matmul.allow_tf32": lambda: setattr(_cuda, "allow_tf32", True),
    "cudnn.allow_tf32": lambda: setattr(_cudnn, "allow_tf32", True),
    "cuda.matmul.fp32_precision": lambda: setattr(_cuda, "fp32_precision", "tf32"),
    "mkldnn.matmul.fp32_precision": lambda: setattr(_onednn.matmul, "fp32_precision", "bf16"),
    "backends.fp32_precision": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


def _precisions() -> dict[str, str]:
    return {name: each.fp32_precision for name, each in _OPERATIONS.items()}


def _loose(place: Place) -> list[str]:
    """The operations that are not float32 now, of those that the device has."""
    relevant = ("cuda", "cudnn") if place.gpu else ("mkldnn",)
    return [
        f"{name} {value}"
        for name, value in _precisions().items()
        if name.startswith(relevant) and value not in ("ieee", "none")
    ]


@contextmanager
def _as_new() -> Iterator[None]:
    """Precisions as torch starts with, and so again afterwards."""
    before = _precisions(), torch.get_float32_matmul_precision(), _cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.fp32_precision = _cudnn.fp32_precision = _onednn.fp32_precision = "none"
        torch.set_float32_matmul_precision(before[1])
        _cudnn.allow_tf32 = before[2]
        for name, value in before[0].items():
            _OPERATIONS[name].fp32_precision = value


class _Noting(nn.Module):
    """Notes which operations are not float32 while the judge asks; a copy notes nothing."""

    def __init__(self, net: nn.Module, place: Place) -> None:
        super().__init__()
        self.net, self.place, self.noted = net, place, set[str]()

    def forward(self, x: Tensor) -> Tensor:
        self.noted |= set(_loose(self.place))
        answer: Tensor = self.net(x)
        return answer


def float32(switch: str, place: Place) -> Seen:
    """The judge and a measurement where the caller has switched one of the settings on."""
    torch.manual_seed(0)
    wide = place.size(512, 64)
    layers = (nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, wide), nn.ReLU())
    net = nn.Sequential(*layers, nn.Linear(wide, 10)).eval().to(place.device)
    x = images(place.size(64, 8), (1, 8, 8))
    there = x.to(place.device)
    with torch.no_grad(), _as_new():
        _cudnn.allow_tf32 = False  # torch starts with it on
        exact = net(there)
        labels = exact.argmax(1)
        wanted = _logits_of(net, x, labels.cpu())
        _SWITCHES[switch]()
        loose = net(there)
        before, allowed = _precisions(), _loose(place)
        noting = _Noting(net, place)
        Judge(noting)(there, labels)
        judged = _precisions()
        got = _logits_of(net, x, labels.cpu())
        measured = _precisions()
    far = float((loose - exact).abs().max())
    faults = [
        *(f"the judge asked with {name}" for name in sorted(noting.noted)),
        *(["the judge left other settings"] if judged != before else []),
        *(["measure() left other settings"] if measured != before else []),
        *([] if torch.equal(got, wanted) else ["other clean logits were recorded"]),
    ]
    moved = f"switched on ({', '.join(allowed) or 'nothing'}) it moves logits by {far:.1e}"
    text = "; ".join(faults) or "float32 in the judge, equal bits in the record, settings as found"
    return Seen(f"{text}; {moved}", not faults, {"allowed": allowed, "moves logits by": far})


def _logits_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n, K) what a record's evidence holds of the clean images."""
    found = measure(net, x, y, threat="linf:0.01", protocol=protocol("only-fgsm"))
    if found.record.failure is not None:
        raise AssertionError(found.record.failure)
    logits = evidence.logits_in(found.evidence)
    assert logits is not None
    return torch.from_numpy(logits)


# ---------------------------------------------------------------- AWP


def awp_restores(place: Place) -> Seen:
    """w comes back bit for bit, and v is as long as gamma allows, a unit of each kind at a time."""
    net = checkpoint.load_model(present(DIGITS), device=place.device).train()
    data = load("digits", "test", n=place.size(128, 16))
    x, y = data.x.to(place.device), data.labels.to(place.device)
    facts, fine = {}, True
    for kind in UNITS:
        config = AwpConfig(gamma=0.02, norm=kind)
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


def awp_step(place: Place) -> Seen:
    """One AT-AWP step of training from the same weights, on the device and on the CPU."""
    facts, fine = {}, True
    for kind, allowed in _UPDATES.items():
        dtype = getattr(torch, kind)
        here = _update(dtype, "cpu", place)
        with other_sums(place):
            there = _update(dtype, place.device, place)
        off = float((here - there).norm() / here.norm())
        facts[kind] = {"length": float(here.norm()), "differ by, of the length": off}
        fine &= bool(here.norm() > 0) and off <= allowed
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


_HELD = "in ball and box, detached, model and random state as found"
CHECKS = {
    **{
        f"contract {name}": Check(f"the contract of {name}", _HELD, partial(contract, name))
        for name in ATTACKS
    },
    "streams": Check("random numbers beside the CPU's", "0 differ, bit for bit", streams),
    "starts": Check("random starts beside the CPU's", "inside the ball, within 1e-6", starts),
    **{
        f"float32 {switch}": Check(
            f"float32 where {switch} allows less",
            "float32 in the judge, equal bits, settings as found", partial(float32, switch),
        )
        for switch in _SWITCHES
    },
    "awp restores": Check(
        "weights inside and after AWP", "restored bit for bit, lengths within 1e-5", awp_restores
    ),
    "awp step": Check(
        "an AT-AWP step beside the CPU's",
        f"within {_UPDATES['float64']:g} (float64), {_UPDATES['float32']:g} (float32)", awp_step,
    ),
}  # fmt: skip
