"""What is tried to choose settings, what is kept of it, and that presets are what was chosen."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from awp_train import choice, presets, run_choice
from awp_train.__main__ import main
from awp_train.checks import check_settings
from awp_train.choice import expected_best
from awp_train.grids import AWP, GRIDS, Grid
from awp_train.presets import CHOSEN, every, find
from awp_train.spaces import ARMS, KINDS, Drawn, Range, Round
from bench.schema import AwpConfig, BenchError, InvalidInput

EVERY_LIST = sorted((Path(__file__).parents[2] / "results" / "choices").glob("*.csv"))
LISTS = [path for path in EVERY_LIST if path.stem in GRIDS]
TINY = {"n_train": 40, "batch": 20, "attack_steps": 1, "log_attack_steps": 1, "epochs": 1}


@pytest.mark.parametrize("path", EVERY_LIST, ids=lambda p: p.stem)
def test_all_that_is_declared_is_listed_once(path):
    """A list of drawn settings grows as they are tried; a grid is committed whole."""
    what, lines = choice.declared(path.stem), choice.read(path)
    listed = [tuple(line[c] for c in (*what.columns, "seed")) for line in lines]
    tried = [(*setting, config.seed) for setting, config in what.tried()]
    assert len(set(listed)) == len(listed) and set(listed) <= set(tried)
    assert choice.is_whole(path.stem, lines) == (len(listed) == len(tried))
    if path.stem in ARMS and not choice.is_whole(path.stem, lines):
        return
    assert sorted(listed) == sorted(tried)
    assert choice.summary(path.stem, lines).count("<- chosen") == 1


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_the_preset_is_the_chosen_one(path):
    grid, lines = GRIDS[path.stem], choice.read(path)
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


@pytest.fixture
def tiny(monkeypatch):
    """Presets of digits whose runs take no time."""
    digits = presets.family("digits")
    for name in ("digits-rst", "digits-natural", "digits-at", "digits-at-awp"):
        preset = digits[name]
        awp = preset.config.awp and preset.config.awp.model_copy(update={"warm_up": 0})
        config = preset.config.model_copy(update=TINY | {"awp": awp})
        monkeypatch.setitem(digits, name, replace(preset, config=config))


def tried(name: str, home: Path, **given: object) -> str:
    folders = {"out": home / "lists", "home": home / "work", "workers": 1}
    return run_choice.choose([name], **folders | given)


def test_a_grid_is_tried_with_its_teachers_and_written_as_it_goes(tmp_path, monkeypatch, tiny):
    small = Grid("digits-rst", AWP, ((1, 0.0, 0), (1, 0.01, 0)), 20, (100,))
    monkeypatch.setitem(GRIDS, "digits-rst", small)
    said = tried("digits-rst", tmp_path)
    lines = choice.read(tmp_path / "lists/digits-rst.csv")
    assert [(line["gamma"], line["warm_up"]) for line in lines] == [(0.0, 0), (0.01, 0)]
    assert all(line["validation_n"] == 20 and line["collapsed"] == 0 for line in lines)
    assert tuple(lines[0]) == (*AWP, "seed", *choice.COUNTS)
    assert said.count("<- chosen") == 1


# ---------------------------------------------------------------- drawn settings


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_draws_lie_in_their_space_one_in_each_part_and_can_be_trained(arm):
    first = arm.rounds[0]
    drawn = arm.settings[: first.draws]
    for field, values in zip(arm.columns, zip(*drawn, strict=True), strict=True):
        span = first.ranges[field]
        assert all(span.low <= v <= span.high for v in values)
        for part, value in enumerate(sorted(values)):  # rounded to three digits
            assert part - 0.05 < span.share(value) * first.draws < part + 1.05
    assert first.ranges["weight_decay"] == Range(5e-4, 5e-2)  # the same for all
    seeds = set()
    for setting, config in arm.tried():
        check_settings(config)
        seeds.add(config.seed)
        for field, value in zip(arm.columns, setting, strict=True):
            where = config.awp if field.startswith("awp.") else config
            assert getattr(where, field.removeprefix("awp.")) == value
        assert config.log_images == config.n_validation and config.log_every == config.epochs
    assert min(seeds) >= 100


def test_arms_that_are_compared_have_as_many_draws_seeds_and_images():
    """A name is the images, the method and the kind; kinds of one method are compared."""
    for kind in KINDS:
        assert f"digits-trades-{kind}" in ARMS and f"fashion_mnist-subset-at-{kind}" in ARMS
    for name, arm in ARMS.items():
        images = next(name.removesuffix(f"-{k}") for k in sorted(KINDS, key=len, reverse=True)
                      if name.endswith(f"-{k}"))  # fmt: skip
        tuned = ARMS[f"{images}-tuned"]
        assert (arm.rounds[0].draws, arm.seeds, arm.n_validation) == (
            tuned.rounds[0].draws, tuned.seeds, tuned.n_validation
        )  # fmt: skip
        own = {field for field, _ in arm.fixed if not field.startswith("a")}
        assert own == {field for field, _ in tuned.fixed}


def test_draws_follow_from_the_name_and_stay_when_the_space_is_widened():
    arm = ARMS["digits-at-awp-tuned"]
    # Written down here, so that no other Python or edit draws anew what was tried.
    assert arm.settings[0] == (0.00286, 0.00567)
    assert replace(arm, name="another").settings != arm.settings
    strip = Round({**arm.rounds[0].ranges, "weight_decay": Range(5e-2, 0.2)}, 3)
    wider = replace(arm, rounds=(*arm.rounds, strip))
    assert wider.settings[:8] == arm.settings
    assert len(wider.settings) == 11 and all(5e-2 <= s[0] <= 0.2 for s in wider.settings[8:])


@pytest.mark.parametrize(
    ("decay", "said"),
    [
        (0.0005, ("weight_decay at the low edge",)),
        (0.005, ()),
        (0.049, ("weight_decay at the high edge",)),
    ],
)
def test_a_choice_at_an_edge_is_said_until_the_space_is_wider(decay, said):
    arm = ARMS["digits-at-tuned"]
    assert arm.edges((decay,)) == said
    whole = (
        Round({"weight_decay": Range(5e-5, 5e-4)}, 1),
        Round({"weight_decay": Range(5e-2, 0.5)}, 1),
    )
    assert replace(arm, rounds=(*arm.rounds, *whole)).edges((decay,)) == ()
    text = choice.summary(arm.name, [line(60, weight_decay=decay), line(50, weight_decay=0.004)])
    assert ("widen" in text) == bool(said) and "not all that is declared" in text


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_expected_best_of_k_is_the_mean_over_all_subsets(n):
    rates = [((7 * i) % 11) / 11 for i in range(n)]
    for k, found in enumerate(expected_best(rates), start=1):
        best = [max(some) for some in itertools.combinations(rates, k)]
        assert found == pytest.approx(sum(best) / len(best))
    assert expected_best(rates)[-1] == pytest.approx(max(rates))
    assert expected_best([0.5] * n) == pytest.approx([0.5] * n)  # ties too
    assert expected_best([]) == ()


# ---------------------------------------------------------------- kept, and gone on with


@pytest.fixture
def arm(monkeypatch, tiny):
    """Two draws of AT-AWP on two seeds, under a name that a command can be given."""
    own = replace(ARMS["digits-at-awp-tuned"], n_validation=20,
                  rounds=(Round(ARMS["digits-at-awp-tuned"].rounds[0].ranges, 2),))  # fmt: skip
    monkeypatch.setitem(ARMS, own.name, own)
    return own


def counting(
    monkeypatch, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt
):
    """Counts of tries without training; one of them is interrupted or fails."""
    calls: list[str] = []

    def fake(job, report):
        calls.append(job.name)
        if len(calls) == stop_at:
            raise error("here")
        n = job.config.n_validation
        return {"validation_n": n, "validation_robust_correct": n // 2, "collapsed": 0}

    monkeypatch.setattr(run_choice, "try_one", fake)
    return calls


def test_an_interrupted_choice_goes_on_with_what_is_missing(tmp_path, monkeypatch, arm, capsys):
    path = tmp_path / f"lists/{arm.name}.csv"
    calls = counting(monkeypatch, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        tried(arm.name, tmp_path, again="the call")
    assert len(choice.read(path)) == 2
    assert "Go on with: the call" in capsys.readouterr().err
    again = counting(monkeypatch)
    tried(arm.name, tmp_path)
    assert "4 tries, 2 of them there already" in capsys.readouterr().err
    assert calls[2:] == again[:1] and len(again) == 2 and not set(calls[:2]) & set(again)
    whole = path.read_text()
    assert choice.is_whole(arm.name, choice.read(path))
    for _ in range(2):  # nothing is left to do, and the file stays as it is
        again = counting(monkeypatch)
        tried(arm.name, tmp_path)
        assert not again and path.read_text() == whole
    # A wider space asks for its own draws alone.
    wider = replace(arm, rounds=(*arm.rounds, Round(arm.rounds[0].ranges, 1)))
    monkeypatch.setitem(ARMS, arm.name, wider)
    again = counting(monkeypatch)
    tried(arm.name, tmp_path)
    assert len(again) == 2 and set(whole.splitlines()) < set(path.read_text().splitlines())


def test_a_try_that_fails_stops_no_other_and_is_tried_again(tmp_path, monkeypatch, arm, capsys):
    calls = counting(monkeypatch, stop_at=2, error=BenchError)
    with pytest.raises(BenchError, match="1 of 4 tries failed"):
        tried(arm.name, tmp_path)
    assert f"error: {arm.name}: here" in capsys.readouterr().err
    assert len(choice.read(tmp_path / f"lists/{arm.name}.csv")) == 3
    assert (again := counting(monkeypatch)) == []
    tried(arm.name, tmp_path)
    assert again == [calls[1]]


def test_arms_are_tried_from_the_command_line(tmp_path, arm, capsys, monkeypatch):
    """With real runs, which open no test image."""
    monkeypatch.setattr("awp_train.train.gap_file", None)
    folders = ["--out", str(tmp_path / "lists"), "--runs", str(tmp_path / "work")]
    assert main(["choose", "all", "--only", "digits-at-awp-tuned", "--workers", "1", *folders]) == 0
    said = capsys.readouterr()
    assert "estimated time" in said.err and said.out.count("<- chosen") == 1
    assert "the best of k tries, mean over all subsets: 1: " in said.out
    lines = choice.read(tmp_path / f"lists/{arm.name}.csv")
    assert {(line["weight_decay"], line["awp.gamma"]) for line in lines} == set(arm.settings)
    # Without the list the networks are still there: nothing is trained again.
    (tmp_path / f"lists/{arm.name}.csv").unlink()
    monkeypatch.setattr("awp_train.train.step", None)
    monkeypatch.setattr("awp_train.plan.estimated_seconds", lambda config: 1.0)
    assert main(["choose", arm.name, "--workers", "1", *folders]) == 0
    assert choice.read(tmp_path / f"lists/{arm.name}.csv") == lines
    assert not capsys.readouterr().err.count("error")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits-at-tunde"], "Did you mean 'digits-at-tuned'?"),
        (["all", "--only", "digit"], "--only: no arm named 'digit'"),
        (["digits-at-tuned", "--workers", "-1"], "--workers must be at least 1, got -1"),
        (["fashion_mnist-59000-at-tuned"], "To start it: python -m awp_train choose"),
    ],
)
def test_wrong_calls_are_told_what_to_do(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("awp_train.plan.estimated_seconds", lambda config: 4 * 3600.0)
    folders = ["--out", str(tmp_path / "lists"), "--runs", str(tmp_path / "work")]
    assert main(["choose", *words, *folders]) == 2
    assert said in capsys.readouterr().err


def test_two_processes_do_not_try_the_same(tmp_path, arm, monkeypatch):
    def meanwhile(job, report):
        with pytest.raises(InvalidInput, match=f"works on the choice {arm.name}"):
            tried(arm.name, tmp_path)
        return {"collapsed": 1}

    monkeypatch.setattr(run_choice, "try_one", meanwhile)
    tried(arm.name, tmp_path)


HEAD = ",".join(("weight_decay", "seed", *choice.COUNTS)) + "\n"
BROKEN = {
    "another list": ("a,b\n1,2\n", "expected the columns weight_decay, seed"),
    "nothing": ("", "expected the columns"),
    "torn": (HEAD + "0.001,100,50,3", "line 2: a cell is missing"),
    "too much": (HEAD + "0.001,100,50,30,40,200,190,0,7\n", "line 2: a cell is missing"),
    "no seed": (HEAD + "0.001,,50,30,40,200,190,0\n", "expected a value of seed, got none"),
    "half a seed": (HEAD + "0.001,1.5,50,30,40,200,190,0\n", "expected counts, got {'seed': 1.5}"),
    "words": (HEAD + "0.001,100,50,many,40,200,190,0\n", "expected counts, got {'valid"),
    "a word for a decay": (
        HEAD + "much,100,50,30,40,200,190,0\n",
        "positive numbers, got {'weight",
    ),
    "no number": (HEAD + "nan,100,50,30,40,200,190,0\n", "positive numbers"),
    "negative": (HEAD + "0.001,100,50,-3,40,200,190,0\n", "expected counts"),
    "more than there are": (HEAD + "0.001,100,50,51,40,200,190,0\n", "at most 50 validation"),
    "no counts": (HEAD + "0.001,100,,,,,,0\n", "expected validation images"),
    "twice": (HEAD + 2 * "0.001,100,50,30,40,200,190,0\n", "line 3: a try stands there twice"),
    "bytes": ("\0\xff", "expected the columns"),
    "a quote without end": (HEAD + '"0.001,100\n', "expected the columns"),
    "a field too long": (HEAD + "1" * 200_000, "expected the columns"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_list_that_cannot_be_read_is_named_and_left_in_place(text, said, tmp_path):
    path = tmp_path / "lists/digits-at-tuned.csv"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said) as refused:
        tried("digits-at-tuned", tmp_path)
    assert str(path) in str(refused.value) and "left in place" in str(refused.value)
    assert path.read_text() == text
    assert isinstance(ARMS["digits-at-tuned"], Drawn)
