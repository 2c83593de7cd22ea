"""Other libraries' attacks, each called with our settings and otherwise as it comes.

Peers are not dependencies: `make bench-speed` puts them into a folder of their own, searched last, so
that no package of ours is replaced. B images; x (B, C, H, W) in [0, 1], y (B,); each adapter returns
adversarial images of the same shape. Linf only. Steps are fractions of eps, as in protocols.py.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from bench.attacks.losses import margin
from bench.schema import ThreatModel
from tests.speed.networks import Unavailable

FOLDER = Path(sys.prefix) / "peers"  # where the Makefile installs requirements-peers.lock
MODULES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "adv-lib": "adv_lib.attacks",
    "pyautoattack": "pyautoattack",
}
NOTES = {  # how a peer's PGD differs from the loop of the same length
    "torchattacks": "last iterate, without dropping",
    "foolbox": "last iterate, without dropping",
    "adv-lib": "any of the iterates 0 to steps - 1, without dropping",
}


def library(name: str) -> ModuleType:
    """The peer's module. Raises Unavailable, with the reason, where it cannot be imported."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    if name.startswith("adv_lib"):
        # adv-lib imports visdom for plots of its progress, which are never asked for here. visdom
        # does not install on every Python of ours; an empty module is enough for the import.
        sys.modules.setdefault("visdom", ModuleType("visdom", "stand-in: nothing is plotted"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers' own imports; they are not ours
            return importlib.import_module(name)
    except Exception as error:  # a foreign package may raise anything while it is imported
        raise Unavailable(
            f"{name} cannot be imported ({type(error).__name__}: {error}); "
            "make bench-speed installs the peers"
        ) from error


def torchattacks_fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """One step of eps on cross-entropy, no random start."""
    return library("torchattacks").FGSM(model, eps=threat.epsilon)(x, y)


def torchattacks_pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *,
    steps: int, relative_step: float = 0.25, start: str = "uniform",
) -> Tensor:  # fmt: skip
    """PGD on cross-entropy: the last iterate; no image is dropped."""
    attack = library("torchattacks").PGD(
        model, eps=threat.epsilon, alpha=relative_step * threat.epsilon, steps=steps,
        random_start=start == "uniform",
    )  # fmt: skip
    return attack(x, y)


def foolbox_fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """One step of eps on cross-entropy, no random start."""
    attack = library("foolbox").attacks.LinfFastGradientAttack(random_start=False)
    return _foolbox(attack, model, x, y, threat)


def foolbox_pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *,
    steps: int, relative_step: float = 0.25, start: str = "uniform", on_margin: bool = False,
) -> Tensor:  # fmt: skip
    """PGD on cross-entropy: the last iterate; no image is dropped.

    On the margin through the method that foolbox leaves to its users to override.
    """
    attack = library("foolbox").attacks.LinfPGD(
        rel_stepsize=relative_step, steps=steps, random_start=start == "uniform"
    )
    if on_margin:
        astensor = library("eagerpy").astensor
        attack.get_loss_fn = lambda model, labels: (
            lambda inputs: astensor(margin(model(inputs).raw, labels.raw).sum())
        )
    return _foolbox(attack, model, x, y, threat)


def _foolbox(attack: Any, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    # run() is the attack alone; calling the attack object would add a pass that looks at the result.
    foolbox = library("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=threat.epsilon)


def adv_lib_pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *,
    steps: int, relative_step: float = 0.25, start: str = "uniform", loss: str,
) -> Tensor:  # fmt: skip
    """PGD: any of the iterates 0 to steps - 1, never the last; none is dropped."""
    return library("adv_lib.attacks").pgd_linf(
        model, x, y, threat.epsilon, steps=steps, random_init=start == "uniform",
        loss_function=loss, relative_step_size=relative_step,
    )  # fmt: skip


def pyautoattack_standard(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """AutoAttack standard, seed 0, one batch, through its own driver; the clean image where robust."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # its flags are not the question here
    attack = library("pyautoattack").AutoAttack(
        model, device=x.device, eps=threat.epsilon, norm="Linf", seed=0, version="standard"
    )
    return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]


# (peer, our column) -> its adapter. torchattacks has no PGD on the margin: its CW is the minimum-norm
# L2 attack, another problem.
PEER_ATTACKS: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("torchattacks", "fgsm"): torchattacks_fgsm,
    ("torchattacks", "pgd20"): torchattacks_pgd,
    ("foolbox", "fgsm"): foolbox_fgsm,
    ("foolbox", "pgd20"): foolbox_pgd,
    ("foolbox", "cw"): partial(foolbox_pgd, on_margin=True),
    ("adv-lib", "pgd20"): partial(adv_lib_pgd, loss="ce"),
    ("adv-lib", "cw"): partial(adv_lib_pgd, loss="dl"),
    ("pyautoattack", "autoattack"): pyautoattack_standard,
}
