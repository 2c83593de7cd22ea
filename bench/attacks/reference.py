"""The published AutoAttack (pyautoattack), attack by attack: the engine ours is compared with.

Its own driver cannot resume and writes its warnings to a log, so the attack classes are driven here.
Its random numbers come from torch's global generator, seeded at each call: the outcome depends on the
batch, unlike that of our attacks.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from typing import Any

import torch
from torch import Tensor

from bench.attacks import ATTACKS
from bench.attacks.losses import margin
from bench.attacks.problem import Model, frozen
from bench.schema import AttackSpec, InvalidInput, ThreatModel
from bench.schema.threat import PUBLISHED_NORMS

# Our parameter -> its published name.
PUBLISHED_NAMES = {
    "steps": "n_iter", "queries": "n_queries", "p_init": "p_init", "restarts": "n_restarts",
    "targets": "n_target_classes", "large_steps": "use_largereps", "samples": "eot_iter",
}  # fmt: skip

_silent = logging.getLogger("bench.reference.silent")
_silent.disabled = True

# Of every APGD: settings that ours has not.
_APGD: dict[str, Any] = {"eot_iter": 1, "rho": 0.75, "use_largereps": False, "logger": _silent}
REFERENCE_ATTACKS = {name: a.published for name, a in ATTACKS.items() if a.published}


def version() -> str:
    """`pyautoattack 0.2.0`."""
    return f"pyautoattack {importlib.metadata.version('pyautoattack')}"


def published(
    spec: AttackSpec, model: Model, threat: ThreatModel, *, seed: int, device: torch.device | str
) -> Any:
    """The published attack of a specification, ready to perturb."""
    if spec.name not in REFERENCE_ATTACKS:
        raise InvalidInput(f"the reference engine has no attack named {spec.name!r}")
    module, name, settings = REFERENCE_ATTACKS[spec.name]
    common = _APGD if module == "autopgd_base" else {}
    asked = {PUBLISHED_NAMES[k]: v for k, v in spec.params.items()}
    attack = getattr(importlib.import_module(f"pyautoattack.{module}"), name)(
        model, eps=threat.epsilon, norm=PUBLISHED_NORMS[threat.norm], seed=seed, device=device,
        verbose=False, **{**common, **settings, **asked},
    )  # fmt: skip
    if spec.name == "apgd-margin":
        attack.dlr_loss = margin
    return attack


def reference_attack(
    spec: AttackSpec, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, *, seed: int
) -> Tensor:
    """Runs one attack of pyautoattack on x (B, C, H, W) in [0, 1]; returns the same shape, detached.

    Global random state and parameter gradients are left as found.
    """
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), frozen(model):
        attack = published(spec, model, threat, seed=seed, device=x.device)
        return attack.perturb(x.clone(), y.clone()).detach()
