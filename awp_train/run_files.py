"""What a run leaves and finds on disk: run.json, its state, its cards, the network it starts from.

Ctrl-C and kill -9 cost at most a few minutes of training. A run that stops for good says why.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from awp_train.objectives import OBJECTIVES
from awp_train.step import Stepped
from bench.catalogue import architecture_arguments, dataset_info, unknown_name
from bench.models import Normalized
from bench.records import json_files
from bench.records.one_read import read_whole, sha256_of
from bench.records.store import pretty_json, write_atomic
from bench.schema import BenchError, InvalidInput, ModelCard, StartingPoint, TrainConfig
from bench.sources import checkpoint

RUN, STATE, CURVES = "run.json", "state.pt", "train.jsonl"
NAN_BATCH = "nan-batch.safetensors"
COLLAPSE_TOLERANCE = 0.02  # of the loss of a constant answer

# Exceptions, besides InvalidInput for calls and files that were wrong:
#   BenchError
#   └── TrainingFailed   no useful model: collapsed, or not finite; there is no checkpoint


class TrainingFailed(BenchError, RuntimeError):
    """The run stopped for good; the text says at which epoch, and what to try."""


# ---------------------------------------------------------------- run.json


@validated(frozen=True)
class Places:
    """Where the files of a run lie on this machine; the run itself names hashes. None: not given."""

    extra: Path | None = None  # the file of TrainConfig.extra
    start: Path | None = None  # the checkpoint folder of TrainConfig.start
    data: str | None = None  # the images of TrainConfig.own, as `datasets.load` takes them


@validated(frozen=True)
class Run:
    """What is trained under a name: the content of run.json."""

    config: TrainConfig
    pair: str | None = None  # run name of the vanilla twin
    control_of: str | None = None  # run name of the AWP run that this is a stronger control of
    places: Places = Places()


_RUN = TypeAdapter(Run)


def claim(folder: Path, run: Run) -> Run:
    """Makes a run folder belong to a run; places that are not given are those of its start.

    Raises InvalidInput where the folder holds another configuration.
    """
    places = run.places
    if (folder / RUN).exists():
        before = read_run(folder.parent, folder.name)
        if before.config != run.config:
            raise InvalidInput(
                f"{folder} holds a run with other settings "
                f"({differences(before.config, run.config)}). "
                f"Continue it with `python -m awp_train resume {folder.name}`, choose another "
                "--name, or delete the folder"
            )
        places = Places(
            places.extra or before.places.extra,
            places.start or before.places.start,
            places.data or before.places.data,
        )
    extra, start = (p and p.resolve() for p in (places.extra, places.start))
    run = replace(run, places=Places(extra, start, places.data))
    write_atomic(folder / RUN, pretty_json(_RUN.dump_python(run, mode="json")))
    return run


def read_run(runs: Path, name: str) -> Run:
    """The run that was started under this name. Raises InvalidInput."""
    path = runs / name / RUN
    if not os.path.lexists(path):
        started = [p.parent.name for p in runs.glob(f"*/{RUN}")]
        if not started:
            raise InvalidInput(f"no run was started in {runs}")
        raise unknown_name("run", name, started)
    return json_files.read(path, _RUN.validate_json, "run")


def differences(before: TrainConfig, now: TrainConfig) -> str:
    """`epochs 100 -> 3`: the fields in which two configurations differ."""
    changed = [(k, v, getattr(now, k)) for k, v in before if v != getattr(now, k)]
    return ", ".join(f"{key} {old} -> {new}" for key, old, new in changed)


# ---------------------------------------------------------------- state


@dataclass
class RunState:
    """Everything that the next batch depends on; random numbers depend on epoch and batch alone."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches finished of the epoch after those
    # over images of these batches
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    model: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0  # 1-based; 0: none yet
    best_score: int = -1  # validation images right at the best epoch
    best_model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights; empty: not begun
    averaged: int = 0  # epochs in an equal average
    flat_epochs: int = 0  # consecutive epochs with the loss of a constant answer
    seconds: float = 0.0  # spent in training
    log: list[dict[str, Any]] = field(default_factory=list)  # the lines of train.jsonl
    failure: str = ""  # why the run stopped for good


def save_state(folder: Path, state: RunState) -> None:
    """Writes state.pt and the readable train.jsonl, each in one step."""
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    write_atomic(folder / STATE, buffer.getvalue())
    if state.log and not state.batch and state.log[-1]["epoch"] == state.epoch:
        write_atomic(folder / CURVES, curves(state))


def load_state(folder: Path) -> RunState:
    """The state of an interrupted run, on the CPU; a fresh one where none was saved.

    Raises InvalidInput naming a file that cannot be read, and leaves it in place.
    """
    path = folder / STATE
    if not os.path.lexists(path):
        return RunState()
    try:
        raw = io.BytesIO(read_whole(path))  # once: what is checked is what is loaded
        with zipfile.ZipFile(raw) as archive:  # torch.load itself checks no sums
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        raw.seek(0)
        return RunState(**torch.load(raw, map_location="cpu", weights_only=True))
    except (
        zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError,
        ValueError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise InvalidInput(
            f"{path} is damaged ({reason}) and was left in place. "
            f"Delete the folder {folder} to train this run from the start"
        ) from None


def curves(state: RunState) -> str:
    """train.jsonl: one JSON object a logged epoch."""
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in state.log)


# ---------------------------------------------------------------- cards


def card_of(
    config: TrainConfig,
    name: str,
    pair: str | None,
    which: str,
    kept: int,
    *,
    control_of: str | None = None,
) -> ModelCard:
    """The card of `<name>-<which>`, which is "best" or "last"; kept is its 1-based epoch."""
    extra, taken = config.extra, ("arch", "arch_args", "mean", "std", "dataset", "objective", "awp")
    return ModelCard(
        **{key: getattr(config, key) for key in (*taken, "epochs", "seed")},
        name=f"{name}-{which}",
        class_count=dataset_info(config.dataset, config.own).class_count,
        weights_sha256="0" * 64,  # filled in where the file is written
        n_parameters=0,
        threat=None if OBJECTIVES[config.objective].craft is None else config.threat,
        epoch_kept=kept,
        selected_on="validation" if which == "best" else "last",
        extra_data=f"{extra.n} pseudo-labelled images of {extra.file}" if extra else "",
        train=config,
        commit=_commit(),
        pair=pair and f"{pair}-{which}",
        control_of=control_of and f"{control_of}-{which}",
    )


def _commit() -> str:
    """The commit of this code, empty outside a git repository."""
    call, here = ["git", "rev-parse", "HEAD"], Path(__file__).parent
    try:
        done = subprocess.run(call, cwd=here, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def finished(config: TrainConfig, name: str, out: Path) -> list[Path]:
    """The checkpoint folders of a finished run, none where there is no such run.

    Raises InvalidInput where the name belongs to a model of another configuration.
    """
    best, last = out / f"{name}-best", out / f"{name}-last"
    if not last.exists():
        return []
    before = checkpoint.read_card(last).train
    if before != config:
        changed = differences(before, config) if before else "it was not trained here"
        raise InvalidInput(f"{last} holds another model ({changed}); choose another --name")
    return [best, last] if best.exists() else [last]


# ---------------------------------------------------------------- the network it starts from


def describe_start(folder: Path) -> StartingPoint:
    """The entry of a configuration for the checkpoint that fine-tuning starts from.

    Raises InvalidInput where it is not complete or its weights are not those of its card.
    """
    card = checkpoint.read_card(folder)
    weights = folder / checkpoint.WEIGHTS
    if not os.path.lexists(weights):
        raise InvalidInput(f"{folder} is not complete: {checkpoint.WEIGHTS} is missing")
    if sha256_of(weights) != card.weights_sha256:
        raise InvalidInput(f"{weights} is not the file its card names (sha256 differs)")
    return StartingPoint(name=card.name, weights_sha256=card.weights_sha256)


def load_start(model: Normalized, folder: Path, config: TrainConfig) -> None:
    """Copies a checkpoint's weights and BatchNorm statistics into a freshly built model.

    The last layer, the last linear one, keeps its fresh weights, which the run's seed drew, whatever
    the classes were: as in Hendrycks et al. 2019 (arXiv 1901.09960), the new task has a new head.
    Raises InvalidInput where the checkpoint is not the one that the configuration names, or is
    another network: architecture, arguments besides the class count, input normalisation.
    """
    if config.start is None:
        raise InvalidInput(f"the configuration names no starting point, so {folder} cannot be used")
    with torch.random.fork_rng(devices=[]):  # its network is built, with weights drawn, then filled
        start, card = checkpoint.load(folder)
    if card.weights_sha256 != config.start.weights_sha256:
        raise InvalidInput(
            f"{folder} is not the checkpoint {config.start.name} that this run starts from: its "
            f"weights are {card.weights_sha256[:12]}…, expected "
            f"{config.start.weights_sha256[:12]}…"
        )
    if card.arch != config.arch:
        raise InvalidInput(f"{folder} is a {card.arch}, but this run trains a {config.arch}")
    theirs, ours = (
        architecture_arguments(config.arch, dict(c.arch_args)) | {"mean": c.mean, "std": c.std}
        for c in (card, config)
    )
    other = [
        f"{key} {theirs[key]}, this run {value}"
        for key, value in ours.items()
        if key != "num_classes" and theirs[key] != value
    ]
    if other:
        raise InvalidInput(f"{folder} is another {config.arch}: it has {', '.join(other)}")
    head = [key for key, part in model.net.named_modules() if isinstance(part, nn.Linear)][-1]
    fresh = {k: v for k, v in model.net.state_dict().items() if k.startswith(f"{head}.")}
    model.net.load_state_dict(start.net.state_dict() | fresh)


# ---------------------------------------------------------------- runs that stop for good


def constant_loss(config: TrainConfig) -> float:
    """The objective's loss, in nats, of a network that finds all classes equally likely.

    ln K for cross-entropy, and for TRADES, whose KL is 0 there; MART's boosted term adds a constant.
    """
    classes = dataset_info(config.dataset, config.own).class_count
    x, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    loss = OBJECTIVES[config.objective].loss
    return float(loss(lambda images: images.new_zeros(len(images), classes), x, x, y, config.beta))


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
    line = {"epoch": state.epoch, "loss": loss, "collapsed": True, "flat_epochs": patience}
    state.log.append(line)
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
    # Cloned, for the x_adv of natural training is x itself.
    tensors = {k: getattr(last, k).detach().cpu().contiguous().clone() for k in ("x", "y", "x_adv")}
    bad = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    metadata = {"epoch": str(epoch), "batch": str(batch)}
    write_atomic(path, safetensors.torch.save(tensors, metadata))
    found = f"not finite in it: {', '.join(bad)}" if bad else "its images and labels are finite"
    return (
        f"{name}: {what} is not finite. No checkpoint was made. The batch is in {path}; {found}. "
        "Try a smaller lr, or look for values that are not finite in the data"
    )
