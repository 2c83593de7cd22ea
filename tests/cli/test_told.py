"""What a person types that is nearly right, names instead of paths, and what is told in the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.records import proven

BOARD = Path(__file__).parents[2] / "results/digits/linf-0.15"
PAIR = ("digits-at-awp-s0-last", "digits-at-s0-last")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A board of one matched pair, as committed, in the folder where a command looks for it."""
    monkeypatch.chdir(tmp_path)
    for name in PAIR:
        shutil.copytree(BOARD / name, tmp_path / "results/digits/linf-0.15" / name)
    shutil.copy(BOARD.parents[1] / proven.NAME, tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("evalute", "evaluate"),
        ("comapre", "compare"),
        ("published lst", "list"),
        ("subimt", "submit"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(typed, meant, capsys):
    with pytest.raises(SystemExit) as left:
        main(typed.split())
    assert left.value.code == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_the_gap_is_that_of_the_images_it_was_trained_on(results, capsys):
    assert main(["gap", PAIR[1], "--dataset", "cifar10"]) == 2
    said = capsys.readouterr().err
    assert "was trained on digits" in said and "leave --dataset cifar10 out" in said


def test_help_names_every_command_under_what_it_is_for(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert (
        said.index("measure a model:") < said.index("  evaluate ") < said.index("check a number:")
    )


def test_two_names_of_the_board_are_compared(results, capsys):
    assert main(["compare", *PAIR, "--protocol", "gradient"]) == 0
    assert "+3.3 [+1.5, +5.2]" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("verify", "{}", "--no-reattack"), ("gap", "{}")])
def test_a_name_of_the_board_is_a_path(words, results, capsys):
    assert main([word.format(PAIR[1]) for word in words]) == 0
    assert PAIR[1] in capsys.readouterr().out


def test_a_name_is_refused_with_the_nearest_or_with_all_it_stands_for(results, capsys):
    assert main(["doctor", "digits-at-s0-lst"]) == 2
    assert f"Did you mean {PAIR[1]!r}?" in capsys.readouterr().err
    shutil.copytree(results / "digits/linf-0.15" / PAIR[1], results / "digits/linf-0.2" / PAIR[1])
    assert main(["doctor", PAIR[1]]) == 2
    assert "stands for several" in capsys.readouterr().err


def test_a_measurement_ends_with_what_a_person_asks_of_it(results, capsys):
    assert main(["evaluate", PAIR[0], "--protocol", "gradient", "--n", "1000", "--yes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12
    assert lines[0].startswith(
        f"{PAIR[0]}, digits linf:0.15 gradient (recorded before): clean 94.5%"
    )
    assert any("+3.3 points [+1.5, +5.2] against digits-at-s0-last" in line for line in lines)
    assert any(line.split()[:4] == ["rank", "1", "of", "2"] for line in lines)
    assert any("bench verify results" in line for line in lines)
    cost = next(line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == ["cost"])
    assert cost == "174 passes an image, 259 a standing image, 3 s"
