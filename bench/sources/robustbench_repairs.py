"""Repairs that let robustbench 1.1.1 be imported beside pyautoattack and setuptools >= 82.

Call `repair()` before the first `import robustbench`, or let `import_robustbench()` do both.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from bench.schema import InvalidInput

# Operators declared in place of torchvision's own; kept, because dropping it would undeclare them.
_declared: list[torch.library.Library] = []


def import_robustbench() -> ModuleType:
    """The repaired robustbench; warnings that its import raises are dropped, they are not ours."""
    repair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("robustbench")


def repair() -> None:
    """Put the missing modules and operators where robustbench looks for them; again is harmless."""
    repair_torchvision()
    if not _importable("pkg_resources"):
        why = "stand-in: setuptools >= 82 no longer has it"
        _module("pkg_resources", why, resource_filename=_resource_filename)
    if not _importable("autoattack"):
        from pyautoattack import state  # with robustbench, an extra

        why = "stand-in: robustbench's wheel brings it as pyautoattack"
        _module("autoattack", why, AutoAttack=AutoAttack, state=state)
        sys.modules["autoattack.state"] = state


def _importable(name: str) -> bool:
    """Whether a top-level module is loaded or could be."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _module(name: str, doc: str, **contents: object) -> None:
    """Registers a new module of that name, with a spec so that find_spec does not fail on it."""
    module = ModuleType(name, doc)
    vars(module).update(contents)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    sys.modules[name] = module


def _resource_filename(name: str, resource: str) -> str:
    """The path of a file beside the module of that name: all of pkg_resources that is called."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {name!r} to look for {resource!r} beside")
    return str(Path(spec.origin).parent / resource)


def repair_torchvision() -> None:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch.

    Its compiled part needs libtorch_cuda there and is skipped in silence; then its import fails
    with `operator torchvision::nms does not exist`. Declaring nms and qnms is enough for
    transforms, data sets and models; calling them stays an error.
    """
    if torch.version.cuda or torch.version.hip or "torchvision" in sys.modules or _declared:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def _loads(package: Path) -> bool:
    """Whether the compiled part of torchvision (`_C.so`, since 0.29 `_C_stable.so`) loads."""
    for path in sorted(package.glob("_C*")):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            return False
        return True
    return False


@contextmanager
def _logged_to(path: str | Path | None) -> Iterator[None]:
    """pyautoattack's messages into a file while the block runs; None for nowhere."""
    if path is None:
        yield
        return
    logger = logging.getLogger("auto-attack")
    handler = logging.FileHandler(path)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


class AutoAttack:
    """pyautoattack's AutoAttack (arXiv 2003.01690) under the signature that robustbench calls.

    A class, because robustbench makes one. `engine` is the attack itself.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        device: torch.device | str = "cpu",
        log_path: str | Path | None = None,
    ):
        import pyautoattack

        # pyautoattack takes None for "none named", and a list only together with version="custom".
        named = list(attacks_to_run) if attacks_to_run or version == "custom" else None
        self.engine = pyautoattack.AutoAttack(
            model, attacks=named, device=device, eps=eps, norm=norm, seed=seed, version=version
        )
        self.engine.verbose = verbose
        self.log_path = log_path

    def run_standard_evaluation(
        self, x: Tensor, y: Tensor, bs: int = 250, state_path: Path | None = None
    ) -> Tensor:
        """Adversarial images (N, C, H, W) for x (N, C, H, W) in [0, 1] and labels y (N,)."""
        if state_path is not None:
            raise InvalidInput(
                "pyautoattack cannot resume from a state file; "
                "leave state_path out and run attack by attack on the images still standing"
            )
        with _logged_to(self.log_path):
            x_adv, _ = self.engine.run_standard_evaluation(x, y, batch_size=bs)
        return x_adv
