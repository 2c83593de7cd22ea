"""Presets are what the lists of tried values say, and every value of the grid is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from awp_train import choice
from awp_train.choice import GRIDS, Grid, VanillaGrid
from awp_train.families import CHOSEN
from awp_train.presets import PRESETS, find

LISTS = sorted((Path(__file__).parents[2] / "results" / "choices").glob("*.csv"))
AWP_GRIDS = [family for family, grid in GRIDS.items() if isinstance(grid, Grid)]


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_preset_is_the_chosen_one(path):
    family, grid = path.stem, GRIDS[path.stem]
    pick = choice.chosen(family, choice.read(path))
    name = f"{grid.base}-awp" if isinstance(grid, Grid) else f"{grid.base}-best-vanilla"
    assert tuple(grid.setting(find(name).config).values()) == pick


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_every_value_of_the_grid_is_listed(path):
    grid = GRIDS[path.stem]
    columns = (*grid.columns, "seed")
    listed = [tuple(line[c] for c in columns) for line in choice.read(path)]
    wanted = [(*grid.setting(config).values(), config.seed) for config in grid.tried()]
    assert sorted(listed) == sorted(wanted)
    assert len(set(listed)) == len(listed)


def test_what_says_it_was_chosen_has_a_list():
    lists = {path.stem for path in LISTS}
    assert lists <= set(GRIDS)
    chosen = {n for n, p in PRESETS.items() if CHOSEN in p.source and n.endswith("-awp")}
    assert chosen == {f"{GRIDS[f].base}-awp" for f in lists if isinstance(GRIDS[f], Grid)}
    for family, grid in GRIDS.items():
        if isinstance(grid, VanillaGrid):
            said = find(f"{grid.base}-best-vanilla").source
            assert ("not chosen" not in said) == (family in lists)


@pytest.mark.parametrize("family", GRIDS)
def test_grids_try_what_can_be_trained_and_no_seed_of_a_result(family):
    from awp_train.checks import check_settings

    tried = list(GRIDS[family].tried())
    for config in tried:
        check_settings(config)
        assert config.seed >= 100
        assert config.log_images == config.n_validation >= 200
    # The vanilla run itself is always among them.
    base = find(GRIDS[family].base).config
    same = ("awp", "weight_decay", "averaging", "early_stopping")
    assert any(all(getattr(c, f) == getattr(base, f) for f in same) for c in tried)


@pytest.mark.parametrize("family", ["digits", "fashion_mnist-subset"])
def test_best_vanilla_tries_as_many_settings_as_awp(family):
    awp, vanilla = GRIDS[family], GRIDS[f"{family}-best-vanilla"]
    assert len(vanilla.settings) == len(awp.gammas) * len(awp.warm_ups)
    assert vanilla.seeds == awp.seeds and vanilla.n_validation == awp.n_validation
    assert vanilla.base == awp.base


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
    small = Grid("digits-rst", (2,), (0.01,), (1 / 2,), 20, (100,))
    monkeypatch.setitem(GRIDS, "digits-rst", small)
    tiny = {"n_train": 40, "batch": 20, "attack_steps": 1, "log_attack_steps": 1}
    for name in ("digits-rst", "digits-natural"):
        preset = find(name)
        changed = preset.config.model_copy(update=tiny | {"epochs": 2})
        monkeypatch.setitem(PRESETS, name, type(preset)(**(vars(preset) | {"config": changed})))
    said = choice.choose("digits-rst", out=tmp_path, workers=1)
    lines = choice.read(tmp_path / "digits-rst.csv")
    assert [(line["gamma"], line["warm_up"]) for line in lines] == [(0.0, 0), (0.01, 1)]
    assert all(line["validation_n"] == 20 and line["collapsed"] == 0 for line in lines)
    assert tuple(lines[0]) == choice.fields("digits-rst")
    assert said.count("<- chosen") == 1
