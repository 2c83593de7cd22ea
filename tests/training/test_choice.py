"""Presets are what the lists of tried values say, and every value of the grid is listed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from awp_train import choice, presets
from awp_train.checks import check_settings
from awp_train.choice import AWP, GRIDS, Grid
from awp_train.presets import CHOSEN, every, find
from bench.schema import AwpConfig

LISTS = sorted((Path(__file__).parents[2] / "results" / "choices").glob("*.csv"))


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_the_whole_grid_is_listed_and_the_preset_is_the_chosen_one(path):
    grid, lines = GRIDS[path.stem], choice.read(path)
    listed = [tuple(line[c] for c in (*grid.columns, "seed")) for line in lines]
    assert sorted(listed) == sorted((*setting, config.seed) for setting, config in grid.tried())
    pick = choice.chosen(path.stem, lines)
    if grid.columns == AWP:
        config = find(f"{grid.base}-awp").config
        assert (config.epochs, config.awp.gamma, config.awp.warm_up) == pick
    else:
        config = find(f"{grid.base}-best-vanilla").config
        assert (config.weight_decay, config.averaging, config.early_stopping or 0) == pick


def test_what_says_it_was_chosen_has_a_list():
    grids = [GRIDS[path.stem] for path in LISTS]
    said = {n for n, p in every().items() if CHOSEN in p.source and n.endswith("-awp")}
    assert said == {f"{grid.base}-awp" for grid in grids if grid.columns == AWP}
    said = {n for n, p in every().items() if "settings chosen" in p.source}
    assert said == {f"{grid.base}-best-vanilla" for grid in grids if grid.columns != AWP}


@pytest.mark.parametrize("family", GRIDS)
def test_grids_try_what_can_be_trained_and_no_seed_of_a_result(family):
    grid = GRIDS[family]
    base = find(grid.base).config
    for setting, config in grid.tried():
        check_settings(config)
        assert config.seed >= 100
        assert config.log_images == config.n_validation >= 200
        assert config.log_every == (base.log_every if config.early_stopping else config.epochs)
        awp = config.awp or AwpConfig(gamma=0)
        values = {
            "gamma": awp.gamma,
            "warm_up": awp.warm_up,
            "early_stopping": config.early_stopping or 0,
        }
        assert setting == tuple(values.get(c, getattr(config, c, None)) for c in grid.columns)
    # The vanilla run itself is always among them.
    same = ("awp", "weight_decay", "averaging", "early_stopping")
    assert any(all(getattr(c, f) == getattr(base, f) for f in same) for _, c in grid.tried())


@pytest.mark.parametrize("family", ["digits", "fashion_mnist-subset"])
def test_best_vanilla_tries_as_many_settings_as_awp(family):
    awp, vanilla = GRIDS[family], GRIDS[f"{family}-best-vanilla"]
    budget = find(awp.base).config.epochs
    assert len(vanilla.settings) == sum(setting[0] == budget for setting in awp.settings)
    assert (vanilla.base, vanilla.seeds, vanilla.n_validation) == (
        awp.base, awp.seeds, awp.n_validation
    )  # fmt: skip


def line(right: int, **setting: object) -> choice.Line:
    return setting | {"seed": 0, "validation_n": 100, "validation_robust_correct": right}


def test_chosen_prefers_the_vanilla_budget():
    lines = [
        line(right, epochs=e, gamma=g, warm_up=1 if g else 0)
        for e, g, right in ((10, 0, 60), (10, 0.1, 61), (10, 0.2, 64), (20, 0, 50), (20, 0.1, 90))
    ]
    assert choice.chosen("digits", lines) == (10, 0.2, 1)
    assert "<- chosen" in choice.summary("digits", lines)


def test_best_vanilla_may_be_vanilla_itself():
    lines = [
        line(right, weight_decay=d, averaging=a, early_stopping=0)
        for d, a, right in ((5e-4, "none", 64), (5e-4, "ema", 60), (5e-3, "none", 63))
    ]
    assert choice.chosen("digits-best-vanilla", lines) == (5e-4, "none", 0)


def test_a_collapsed_run_counts_as_nothing_right():
    setting = {"epochs": 100, "gamma": 0.02, "warm_up": 33}
    lines = [line(80, **setting), setting | {"seed": 1, "collapsed": 1}]
    assert choice.means("digits-mart", lines) == {(100, 0.02, 33): 0.4}


def test_a_grid_is_tried_with_its_teachers_and_written_as_it_goes(tmp_path, monkeypatch):
    small = Grid("digits-rst", AWP, ((1, 0.0, 0), (1, 0.01, 0)), 20, (100,))
    monkeypatch.setitem(GRIDS, "digits-rst", small)
    tiny = {"n_train": 40, "batch": 20, "attack_steps": 1, "log_attack_steps": 1, "epochs": 1}
    digits = presets.family("digits")
    for name in ("digits-rst", "digits-natural"):
        config = digits[name].config.model_copy(update=tiny)
        monkeypatch.setitem(digits, name, replace(digits[name], config=config))
    said = choice.choose("digits-rst", out=tmp_path, workers=1)
    lines = choice.read(tmp_path / "digits-rst.csv")
    assert [(line["gamma"], line["warm_up"]) for line in lines] == [(0.0, 0), (0.01, 0)]
    assert all(line["validation_n"] == 20 and line["collapsed"] == 0 for line in lines)
    assert tuple(lines[0]) == (*AWP, "seed", *choice.COUNTS)
    assert said.count("<- chosen") == 1
