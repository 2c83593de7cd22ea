"""The picture of the landing page is of today's numbers, or `make check` says that it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records.store import pretty_json
from tests.board import picture
from tests.board.board_records import make_card, make_record, matched_pair, publish, write_all


@pytest.fixture
def taken(tmp_path: Path) -> tuple[Path, Path]:
    """Results of a data set that is no demo beside demo data, and a picture of them."""
    results, png = tmp_path / "results", tmp_path / "docs" / "board.png"
    write_all(
        results, [*matched_pair(0), make_record(real("a")), make_record(real("b"), robust=0.5)]
    )
    png.parent.mkdir()
    png.write_bytes(b"picture")
    picture.sidecar(png).write_text(pretty_json(picture.said(results, png)))
    return results, png


def real(name: str):
    return make_card(name, dataset="fashion_mnist", objective=None)


def a_row_more(results: Path, png: Path) -> None:
    write_all(results, [make_record(real("c"), robust=0.6)])


def another_answer(results: Path, png: Path) -> None:
    (old,) = results.glob("fashion_mnist/*/a/*.json")
    old.unlink()
    write_all(results, [make_record(real("a"), robust=0.9)])


def a_fuller_table(results: Path, png: Path) -> None:
    card = [make_card(f"d{k}", dataset="mnist", objective=None) for k in range(2)]
    write_all(results, [make_record(c, robust=0.5, n=500) for c in card])


def another_twin(results: Path, png: Path) -> None:
    write_all(results, matched_pair(1))  # of demo data, but one of the comparisons


def another_picture(results: Path, png: Path) -> None:
    png.write_bytes(b"another")


def no_picture(results: Path, png: Path) -> None:
    png.unlink()


def no_sidecar(results: Path, png: Path) -> None:
    picture.sidecar(png).unlink()


def half_a_sidecar(results: Path, png: Path) -> None:
    text = picture.sidecar(png).read_text()
    picture.sidecar(png).write_text(text[: len(text) // 2])


def a_list(results: Path, png: Path) -> None:
    picture.sidecar(png).write_text("[]")


def numbers_of_others(results: Path, png: Path) -> None:
    publish(results, "Other2020")  # of cifar10, where nothing is measured here


def nothing(results: Path, png: Path) -> None:
    pass


NUMBERS = "docs/board.png shows other numbers than results/: make picture"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing, ""),
        (numbers_of_others, ""),
        (a_row_more, NUMBERS),
        (another_answer, NUMBERS),
        (a_fuller_table, NUMBERS),
        (another_twin, NUMBERS),
        (another_picture, "is not the picture that its sidecar was written for: make picture"),
        (no_picture, "board.png is missing: make picture"),
        (no_sidecar, "board.json is missing: make picture"),
        (half_a_sidecar, "board.json cannot be read: make picture"),
        (a_list, "board.json cannot be read: make picture"),
    ],
)  # fmt: skip
def test_a_stale_picture_is_said(
    taken: tuple[Path, Path], change: Callable[[Path, Path], None], said: str
) -> None:
    change(*taken)
    found = picture.stale(*taken)
    assert found == said if not said or said == NUMBERS else found.endswith(said)


def test_the_sidecar_names_what_is_shown(taken: tuple[Path, Path]) -> None:
    found = json.loads(picture.sidecar(taken[1]).read_text())
    assert found["table"].startswith("fashion_mnist, linf:")
    assert len(found["sha256"]) == 64


def test_results_without_records_have_a_picture_too(tmp_path: Path) -> None:
    assert picture.shown(tmp_path)["table"] is None
