"""Presets are what the lists of tried values say, and every value of the grid is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from awp_train import choice
from awp_train.presets import PRESETS, find

LISTS = sorted((Path(__file__).parents[1] / "results" / "choices").glob("*.csv"))


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_preset_is_the_chosen_one(path):
    epochs, gamma, warm_up = choice.chosen(path.stem, choice.read(path))
    config = find(f"{choice.GRIDS[path.stem].base}-awp").config
    assert (config.epochs, config.awp.gamma, config.awp.warm_up) == (epochs, gamma, warm_up)


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_every_value_of_the_grid_is_listed(path):
    listed = {(r["epochs"], r["gamma"], r["warm_up"], r["seed"]) for r in choice.read(path)}
    wanted = set()
    for config in choice.tried(path.stem):
        gamma, warm_up = (config.awp.gamma, config.awp.warm_up) if config.awp else (0, 0)
        wanted.add((config.epochs, gamma, warm_up, config.seed))
    assert listed == wanted


def test_families_with_an_awp_preset_have_a_list():
    """The CIFAR-10 presets are the paper's and say so; a preset without a choice says so too."""
    sources = {n.removesuffix("-at-awp"): p.source for n, p in PRESETS.items() if "-awp" in n}
    own = {f for f, s in sources.items() if "2004.05884" not in s and "not chosen yet" not in s}
    assert own == {path.stem for path in LISTS} == set(choice.GRIDS)


def test_chosen_prefers_the_vanilla_budget():
    lines = [
        {"epochs": e, "gamma": g, "warm_up": 1 if g else 0, "seed": 0, "validation_n": 100,
         "validation_robust_correct": right}
        for e, g, right in ((10, 0, 60), (10, 0.1, 61), (10, 0.2, 64), (20, 0, 50), (20, 0.1, 90))
    ]  # fmt: skip
    assert choice.chosen("digits", lines) == (10, 0.2, 1)
    assert "<- chosen" in choice.summary("digits", lines)
