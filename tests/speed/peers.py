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

from torch import Tensor, nn

from bench.attacks.losses import margin
from bench.schema import ThreatModel
from tests.speed.timing import Unavailable

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


def torchattacks(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *,
    steps: int = 0, relative_step: float = 0.25, start: str = "uniform",
) -> Tensor:  # fmt: skip
    """PGD on cross-entropy: the last iterate; no image is dropped. FGSM where no steps are given."""
    module, eps = library("torchattacks"), threat.epsilon
    if not steps:
        return module.FGSM(model, eps=eps)(x, y)
    alpha, random = relative_step * eps, start == "uniform"
    return module.PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=random)(x, y)


def foolbox(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *,
    steps: int = 0, relative_step: float = 0.25, start: str = "uniform", on_margin: bool = False,
) -> Tensor:  # fmt: skip
    """PGD on cross-entropy: the last iterate; no image is dropped. FGSM where no steps are given.

    On the margin through the method that foolbox leaves to its users to override.
    """
    module = library("foolbox")
    attack = module.attacks.LinfFastGradientAttack(random_start=False)
    if steps:
        attack = module.attacks.LinfPGD(
            rel_stepsize=relative_step, steps=steps, random_start=start == "uniform"
        )
    if on_margin:
        astensor = library("eagerpy").astensor
        attack.get_loss_fn = lambda model, labels: (
            lambda inputs: astensor(margin(model(inputs).raw, labels.raw).sum())
        )
    # run() is the attack alone; calling the attack object would add a pass that looks at the result.
    wrapped = module.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return attack.run(wrapped, x, module.criteria.Misclassification(y), epsilon=threat.epsilon)


def adv_lib(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *,
    steps: int, relative_step: float = 0.25, start: str = "uniform", loss: str,
) -> Tensor:  # fmt: skip
    """PGD: any of the iterates 0 to steps - 1, never the last; none is dropped."""
    return library("adv_lib.attacks").pgd_linf(
        model, x, y, threat.epsilon, steps=steps, random_init=start == "uniform",
        loss_function=loss, relative_step_size=relative_step,
    )  # fmt: skip


def pyautoattack(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """AutoAttack standard, seed 0, one batch, through its own driver; the clean image where robust."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # its flags are not the question here
    attack = library("pyautoattack").AutoAttack(
        model, device=x.device, eps=threat.epsilon, norm="Linf", seed=0, version="standard"
    )
    return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]


# (peer, our column) -> its adapter. torchattacks has no PGD on the margin: its CW is the minimum-norm
# L2 attack, another problem.
PEER_ATTACKS: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("torchattacks", "fgsm"): torchattacks,
    ("torchattacks", "pgd20"): torchattacks,
    ("foolbox", "fgsm"): foolbox,
    ("foolbox", "pgd20"): foolbox,
    ("foolbox", "cw"): partial(foolbox, on_margin=True),
    ("adv-lib", "pgd20"): partial(adv_lib, loss="ce"),
    ("adv-lib", "cw"): partial(adv_lib, loss="dl"),
    ("pyautoattack", "autoattack"): pyautoattack,
}
