"""Runs that stop for good: collapsed to a constant answer, or with a loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from awp_train.objectives import OBJECTIVES
from awp_train.state import RunState
from awp_train.update import Stepped
from bench.catalogue import dataset_info
from bench.records.store import write_atomic
from bench.schema import BenchError, TrainConfig

# Exceptions, besides InvalidInput for calls and files that were wrong:
#   BenchError
#   └── TrainingFailed   no useful model: collapsed, or not finite; there is no checkpoint


class TrainingFailed(BenchError, RuntimeError):
    """The run stopped for good; the text says at which epoch, and what to try."""


COLLAPSE_TOLERANCE = 0.02  # of the loss of a constant answer
NAN_BATCH = "nan-batch.safetensors"


def constant_loss(config: TrainConfig) -> float:
    """The objective's loss, in nats, of a network that finds all classes equally likely.

    ln K for cross-entropy, and for TRADES, whose KL is 0 there; MART's boosted term adds a constant.
    """
    classes = dataset_info(config.dataset).class_count

    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(len(x), classes)

    x, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    return float(OBJECTIVES[config.objective].loss(Undecided(), x, x, y, config.beta))


def collapse(name: str, config: TrainConfig, state: RunState, loss: float, batches: int) -> str:
    """Why the run counts as collapsed, or nothing; also written as the last line of the log.

    A network that answers the same for every image has a known loss. AT may start there for a
    while, so it takes a tenth of the run, at least 5 epochs and 50 updates, after the warm-up and
    in a row.
    """
    constant = constant_loss(config)
    patience = max(5, math.ceil(config.epochs / 10), math.ceil(50 / batches))
    warm_up = config.awp.warm_up if config.awp else 0
    flat = state.epoch > warm_up and abs(loss - constant) < COLLAPSE_TOLERANCE * constant
    state.flat_epochs = state.flat_epochs + 1 if flat else 0
    if state.flat_epochs < patience:
        return ""
    advice = (
        f"a longer warm-up than {warm_up} epochs, a smaller gamma" if config.awp else "a smaller lr"
    )
    state.log.append(
        {"epoch": state.epoch, "loss": loss, "collapsed": True, "flat_epochs": patience}
    )
    return (
        f"{name} collapsed to a constant answer: up to epoch {state.epoch} the training loss was "
        f"within 2 % of {constant:.3f}, the loss where all classes are equally likely, for "
        f"{patience} epochs in a row. No checkpoint was made. Try {advice} or a smaller eps"
    )


def not_finite(
    name: str, what: str, last: Stepped, folder: Path, *, epoch: int, batch: int, rank: int = 0
) -> str:
    """Saves the batch after which `what` is NaN or infinite; says what happened and where it lies.

    epoch and batch count from 0, as in the metadata of the file.
    """
    path = folder / (f"rank-{rank}-{NAN_BATCH}" if rank else NAN_BATCH)
    tensors = {"x": last.x, "y": last.y, "x_adv": last.x_adv}
    write_atomic(path, _safetensors(tensors, {"epoch": str(epoch), "batch": str(batch)}))
    bad = [key for key in tensors if not bool(torch.isfinite(tensors[key]).all())]
    found = f"not finite in it: {', '.join(bad)}" if bad else "its images and labels are finite"
    return (
        f"{name}: {what} is not finite. No checkpoint was made. The batch is in {path}; {found}. "
        "Try a smaller lr, or look for values that are not finite in the data"
    )


def _safetensors(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return safetensors.torch.save(plain, metadata)
