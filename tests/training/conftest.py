"""Runs that several files of tests read, trained once."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from awp_train import plan
from awp_train import step as stepping
from awp_train import train as training
from awp_train.objectives import from_uniform_on_cross_entropy
from bench.schema import TrainConfig
from tests.training.tiny_runs import TINY, quiet


@pytest.fixture(autouse=True)
def _runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gap beside the weights, half of a run's time, and none spent on estimating it.

    Fixtures of a session are made before this: `whole` has its gap.
    """
    monkeypatch.setattr(training, "gap_file", lambda *args, **named: {})
    monkeypatch.setattr(plan, "_TIMED", 0.0)


class Recorded(NamedTuple):
    """A run, and what was seen of it."""

    folders: list[Path]
    crafted: list[Tensor]  # of each batch as it reaches the attack; in epoch 1 where that lands too
    states: list[dict[str, Tensor]]  # weights and buffers after every step


def recorded(config: TrainConfig, folder: Path) -> Recorded:
    """Trains on the CPU under the name `run`, whose twin is `twin`."""
    crafted: list[Tensor] = []
    states: list[dict[str, Tensor]] = []
    step = training.step

    def craft(model, x, y, threat, streams, steps, relative_step):
        x_adv = from_uniform_on_cross_entropy(model, x, y, threat, streams, steps, relative_step)
        crafted.extend([x, y, streams.keys])
        if len(states) < 3:
            crafted.append(x_adv)
        return x_adv

    def spy(model, *args, **kwargs):
        done = step(model, *args, **kwargs)
        states.append(copy.deepcopy(model.state_dict()))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr("bench.measure.gap.IMAGES", 50)
        patch.setattr(training, "step", spy)
        patch.setitem(stepping.OBJECTIVES, "at", replace(stepping.OBJECTIVES["at"], craft=craft))
        folders = quiet(config, folder, pair="twin")
    return Recorded(folders, crafted, states)


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Recorded:
    """TINY, uninterrupted."""
    torch.set_num_threads(1)  # before the fixture of every test, which does the same
    return recorded(TINY, tmp_path_factory.mktemp("whole"))
