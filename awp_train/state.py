"""A run as it lies on disk, so that Ctrl-C and kill -9 cost at most a few minutes of training."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from awp_train.places import Places
from bench.catalogue import unknown_name
from bench.records.store import pretty_json, write_atomic
from bench.schema import InvalidInput, TrainConfig

RUN, STATE, CURVES = "run.json", "state.pt", "train.jsonl"


@dataclass(frozen=True)
class Run:
    """What is trained under a name: the content of run.json."""

    config: TrainConfig
    pair: str | None = None  # run name of the vanilla twin
    control_of: str | None = None  # run name of the AWP run that this is a stronger control of
    places: Places = Places()


@dataclass
class RunState:
    """Everything that the next batch depends on; random numbers depend on epoch and batch alone."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches finished of the epoch after those
    loss_sum: Tensor = field(
        default_factory=lambda: torch.zeros(())
    )  # over images of these batches
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
    torch.save(_fields(state), buffer)
    write_atomic(folder / STATE, buffer.getvalue())
    if state.log and not state.batch and state.log[-1]["epoch"] == state.epoch:
        write_atomic(folder / CURVES, curves(state))


def load_state(folder: Path) -> RunState:
    """The state of an interrupted run, on the CPU; a fresh one where none was saved.

    Raises InvalidInput naming a file that cannot be read, and leaves it in place.
    """
    path = folder / STATE
    if not path.exists():
        return RunState()
    try:
        raw = io.BytesIO(path.read_bytes())  # once: what is checked is what is loaded
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


def _fields(state: RunState) -> dict[str, Any]:
    """The fields as they are; dataclasses.asdict would copy every tensor."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def curves(state: RunState) -> str:
    """train.jsonl: one JSON object a logged epoch."""
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in state.log)


def claim(folder: Path, run: Run) -> Run:
    """Makes a run folder belong to a run; places that are not given are those of its start.

    Raises InvalidInput where the folder holds another configuration.
    """
    path = folder / RUN
    if path.exists():
        before = read_run(folder.parent, folder.name)
        if before.config != run.config:
            raise InvalidInput(
                f"{folder} holds a run with other settings "
                f"({differences(before.config, run.config)}). "
                f"Continue it with `python -m awp_train resume {folder.name}`, choose another "
                "--name, or delete the folder"
            )
        known = run.places.extra or before.places.extra, run.places.start or before.places.start
        run = replace(run, places=Places(*known))
    write_atomic(path, pretty_json(_content(run)))
    return run


def _content(run: Run) -> dict[str, Any]:
    places = {"extra": run.places.extra, "start": run.places.start}
    return {
        "config": run.config.model_dump(mode="json"),
        "pair": run.pair,
        "control_of": run.control_of,
        "places": {key: str(path.resolve()) for key, path in places.items() if path is not None},
    }


def read_run(runs: Path, name: str) -> Run:
    """The run that was started under this name. Raises InvalidInput."""
    path = runs / name / RUN
    if not path.exists():
        started = [p.parent.name for p in runs.glob(f"*/{RUN}")]
        if not started:
            raise InvalidInput(f"no run was started in {runs}")
        raise unknown_name("run", name, started)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = TrainConfig.model_validate(content["config"])
        places = {key: Path(text) for key, text in content.get("places", {}).items()}
        return Run(config, content["pair"], content.get("control_of"), Places(**places))
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is damaged ({error}) and was left in place") from None


def differences(before: TrainConfig, now: TrainConfig) -> str:
    """`epochs 100 -> 3`: the fields in which two configurations differ."""
    changed = [(k, v, getattr(now, k)) for k, v in before if v != getattr(now, k)]
    return ", ".join(f"{key} {old} -> {new}" for key, old, new in changed)
