"""What both sides of a row are given, and the other side: networks, images, other libraries' attacks.

N images, K classes. Networks are in eval mode and map x (N, C, H, W) in [0, 1] to logits (N, K). Each
is absent with a reason, or ready.

Other libraries are not dependencies: `make bench-speed` puts them into a folder of their own, which is
searched last, so that no package of ours is replaced. Each is called with our settings and otherwise as
it comes; it returns images like x. Linf only. Steps are fractions of eps, as in protocols.py.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from bench import datasets, models
from bench.attacks import Problem, fgsm
from bench.attacks.geometry import admissible
from bench.attacks.losses import margin
from bench.judge import Judge
from bench.protocols import protocol
from bench.schema import ThreatModel
from bench.sources import checkpoint
from bench.sources.robustbench_repairs import import_robustbench
from bench.streams import Streams
from tests.speed.timing import Settings, Unavailable

DIGITS = Path(__file__).parents[2] / "results/digits/linf-0.15/digits-at-awp-s0-last"
# Of the SDP-FO networks, part of the model (arXiv 2010.11645).
CNN_A_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CNN_A_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with the images it is attacked on."""

    model: nn.Module
    x: Tensor  # (N, C, H, W) float32 in [0, 1]
    y: Tensor  # (N,) int64
    threat: ThreatModel

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, chosen: slice | Tensor) -> Subject:
        return Subject(self.model, self.x[chosen], self.y[chosen], self.threat)

    def right(self) -> Subject:
        """The images that the network gets right: where every column of a record starts."""
        return self[torch.from_numpy(~self.broken(self.x))]

    def first(self, n: int) -> Subject:
        """The first n images; Unavailable where there are fewer."""
        if len(self) < n:
            raise Unavailable(f"expected {n} images, there are {len(self)}")
        return self[:n]

    def broken(self, x_adv: Tensor) -> np.ndarray:
        """(N,) bool: inside ball and box, and misclassified by the untouched float32 network."""
        inside = admissible(self.x, x_adv.detach(), self.threat, protocol("standard"))
        return (Judge(self.model)(x_adv.detach(), self.y).broken & inside).numpy()


def as_they_come(name: str, settings: Settings, n: int, *, quick_n: int) -> Subject:
    """The first n images of a subject, wrong ones included.

    Quick: quick_n images that one step of FGSM breaks, because a robust image takes minutes.
    """
    found = SUBJECTS[name](settings.networks)
    if not settings.quick:
        return found.first(n)
    right = found.right()[:64]
    streams = Streams.for_images(right.x, 0)
    x_adv = fgsm(Problem(right.model, right.x, right.y, right.threat, streams))
    return right[torch.from_numpy(right.broken(x_adv))].first(quick_n)


def _resnet18(networks: Path) -> nn.Module:
    """CIFAR ResNet-18 trained for one short pass: some images stay robust. Never a published number."""
    import_robustbench()
    model = importlib.import_module("robustbench.model_zoo.architectures.resnet").ResNet18()
    _load(model, networks / "external/resnet18_speed.pt")
    return model.eval()


def _cnn_a(networks: Path) -> nn.Module:
    model = models.build("cnn_a", {}, mean=CNN_A_MEAN, std=CNN_A_STD)
    _load(model.net, networks / "external/cnn_a_adv.pt")
    return model.eval()


def _load(model: nn.Module, path: Path) -> None:
    checkpoint.load_weights(model, checkpoint.read_state_dict(_present(path)), path.name)


def _on_cifar10(
    network: Callable[[Path], nn.Module], threat: str, n: int, networks: Path
) -> Subject:
    folder = _present(networks / "data/cifar10-first1017")
    data = datasets.load(f"parquet:{folder}", "test", n=n, name="cifar10")
    return Subject(network(networks), data.x, data.labels, ThreatModel.parse(threat))


def _verified(networks: Path) -> Subject:
    """CNN-A, PGD-trained, with the 200 images on which verifiers report it."""
    x, y = (
        torch.from_numpy(np.load(_present(networks / f"external/{part}.npy")))
        for part in ("images", "labels")
    )
    x = x.permute(0, 3, 1, 2).contiguous()
    return Subject(_cnn_a(networks), x, y.long(), ThreatModel.parse("linf:2/255"))


def _digits(networks: Path) -> Subject:
    """The small network of a committed record, with scikit-learn's digits."""
    model, _ = checkpoint.load(DIGITS)
    data = datasets.load("digits", "test", n=200)
    return Subject(model, data.x, data.labels, ThreatModel.parse("linf:0.15"))


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "resnet18": partial(_on_cifar10, _resnet18, "linf:8/255", 128),
    "cnn-a": _verified,
    "cnn-a-cifar10": partial(_on_cifar10, _cnn_a, "linf:2/255", 512),  # two shards
    "digits": _digits,
}


def _present(path: Path) -> Path:
    if not path.exists():
        raise Unavailable(f"{path} is not here; --networks names the folder that holds it")
    return path


# ---------------------------------------------------------------- other libraries


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
