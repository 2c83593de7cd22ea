"""A run as it lies on disk between epochs, so that Ctrl-C and kill -9 cost at most one epoch."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.catalogue import unknown_name
from bench.results import pretty_json, write_atomic
from bench.schema import InvalidInput, TrainConfig

RUN, STATE, CURVES = "run.json", "state.pt", "train.jsonl"


@dataclass
class RunState:
    """Everything that the next epoch depends on; random numbers depend on the epoch alone."""

    epoch: int = 0  # epochs finished
    model: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0  # 1-based; 0: none yet
    best_score: int = -1  # validation images right at the best epoch
    best_model: dict[str, Tensor] = field(default_factory=dict)
    flat_epochs: int = 0  # consecutive epochs with the loss of a constant answer
    seconds: float = 0.0  # spent in finished epochs
    log: list[dict[str, Any]] = field(default_factory=list)  # the lines of train.jsonl
    failure: str = ""  # why the run stopped for good


def save_state(folder: Path, state: RunState) -> None:
    """Writes state.pt and the readable train.jsonl, each in one step."""
    buffer = io.BytesIO()
    torch.save(_fields(state), buffer)
    write_atomic(folder / STATE, buffer.getvalue())
    if state.log and state.log[-1]["epoch"] == state.epoch:
        write_atomic(folder / CURVES, curves(state))


def load_state(folder: Path) -> RunState:
    """The state of an interrupted run, on the CPU; a fresh one where none was saved.

    Raises InvalidInput naming a file that cannot be read, and leaves it in place.
    """
    path = folder / STATE
    if not path.exists():
        return RunState()
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself checks no sums
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        return RunState(**torch.load(path, map_location="cpu", weights_only=True))
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


def claim(folder: Path, config: TrainConfig, pair: str | None) -> None:
    """Makes a run folder belong to a configuration; InvalidInput where it has another one."""
    path = folder / RUN
    if path.exists():
        before, _ = read_run(folder.parent, folder.name)
        if before != config:
            raise InvalidInput(
                f"{folder} holds a run with other settings ({differences(before, config)}). "
                f"Continue it with `python -m awp_train resume {folder.name}`, choose another "
                "--name, or delete the folder"
            )
    write_atomic(path, pretty_json({"config": config.model_dump(mode="json"), "pair": pair}))


def read_run(runs: Path, name: str) -> tuple[TrainConfig, str | None]:
    """The configuration and pair of a run that was started under this name."""
    path = runs / name / RUN
    if not path.exists():
        started = [p.parent.name for p in runs.glob(f"*/{RUN}")]
        if not started:
            raise InvalidInput(f"no run was started in {runs}")
        raise unknown_name("run", name, started)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainConfig.model_validate(content["config"]), content["pair"]
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is damaged ({error}) and was left in place") from None


def differences(before: TrainConfig, now: TrainConfig) -> str:
    """`epochs 100 -> 3`: the fields in which two configurations differ."""
    changed = [(k, v, getattr(now, k)) for k, v in before if v != getattr(now, k)]
    return ", ".join(f"{key} {old} -> {new}" for key, old, new in changed)
