"""Training curves that the authors of AWP published, to see whether a run of ours is on track.

Only their test curves are read: their training accuracy is that of perturbed weights on augmented
images, which no run of ours logs. They chose their best epoch on these test images; nothing here does.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

from bench.catalogue import unknown_name
from bench.records.one_read import read_whole
from bench.schema import InvalidInput

FILE = Path("results/published/curves/awp_log_curves.csv")
_LARGEST = 4 * 2**20  # bytes
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "svhn": 26_032}  # all test images
# The same 200 rows as a run of Rice et al. (arXiv 2002.11569), who logged PGD-10.
_PGD10 = ("cifar10_linf/wrn34_standard",)
REACH = 2  # epochs on either side of one that its window holds


@dataclass(frozen=True)
class Epoch:
    """One epoch of an official run, on all test images under the run's PGD, last iterate."""

    epoch: int  # 1-based; the file counts from 0
    lr: float  # of all its batches but the last
    robust_rate: float
    robust_loss: float  # nats


@dataclass(frozen=True)
class Official:
    """An official run, such as cifar10_linf/preactresnet18_awp."""

    name: str
    epochs: tuple[Epoch, ...]

    @property
    def n(self) -> int:
        return IMAGES[self.name.split("_")[0]]

    @property
    def attack(self) -> str:
        """What its test curve is under; one of the runs was attacked more weakly than its pair."""
        return "PGD-10" if self.name in _PGD10 else "PGD-20"

    def window(self, epoch: int) -> tuple[Epoch, ...]:
        """The epochs near a 1-based one, without those of another lr: it falls, and accuracy leaps."""
        here = min(epoch, self.epochs[-1].epoch)
        lr = next(e.lr for e in reversed(self.epochs) if e.epoch <= here)
        return tuple(e for e in self.epochs if abs(e.epoch - here) <= REACH and e.lr == lr)


def read_official(name: str, path: Path = FILE) -> Official:
    """One run of the file of official curves. Raises InvalidInput."""
    runs = _read(path)
    if name not in runs:
        raise unknown_name("official run", name, runs)
    lines = sorted(runs[name], key=lambda e: e.epoch)
    # The file has the lr of an epoch's last batch, which is already that of the next epoch.
    rates = [lines[0].lr, *(line.lr for line in lines[:-1])]
    return Official(name, tuple(replace(e, lr=lr) for e, lr in zip(lines, rates, strict=True)))


def _read(path: Path) -> dict[str, list[Epoch]]:
    runs: dict[str, list[Epoch]] = {}
    if not path.exists():
        raise InvalidInput(
            f"the official curves are not at {path}; call from the project's folder, or say "
            "--curves FILE"
        )
    try:
        text = read_whole(path, largest=_LARGEST, follow=True).decode("utf-8")
        for line in csv.DictReader(io.StringIO(text, newline="")):
            if line["run"].split("_")[0] not in IMAGES:
                raise ValueError(f"run {line['run'][:40]!r} is of no data set known here")
            runs.setdefault(line["run"], []).append(_epoch(line))
    except (InvalidInput, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        why = error if isinstance(error, InvalidInput) else type(error).__name__
        raise InvalidInput(f"{path} is no file of official curves: {why}") from None
    except (ValueError, csv.Error) as error:
        raise InvalidInput(f"{path} is no file of official curves: {str(error)[:200]}") from None
    return runs


def _epoch(line: dict[str, str]) -> Epoch:
    rate, loss = float(line["test_robust_acc"]), float(line["test_robust_loss"])
    if not (0 <= rate <= 1 and 0 <= loss < math.inf):
        raise ValueError(f"robust accuracy {rate} or loss {loss} is none")
    return Epoch(int(line["epoch"]) + 1, float(line["lr"]), rate, loss)
