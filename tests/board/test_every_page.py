"""Every page opens on every committed table, and on tables with all that a table can hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from bench import table
from bench.board import records
from bench.board.article import image_labels, measurement_label
from bench.schema import EvaluationRecord
from bench.stats.contrasts import controls, pairs
from bench.table import Group
from tests.board.board_pages import APP, Open, checked, columns, html, opener
from tests.board.board_records import make_record, matched_pair, sha, write_all

COMMITTED = Path(__file__).parents[2] / "results"


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what was read and ranked is kept, for all tests of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def open_alone(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., AppTest]:
    """Opens a page of the committed results at an address, as a link to it does.

    Through app.py only the page that opens first takes its table from the address here.
    """
    monkeypatch.setattr("sys.argv", ["app.py", "--results", str(COMMITTED)])
    monkeypatch.setattr(records, "CACHE", cache)

    def opened(page: str, **address: str) -> AppTest:
        app = AppTest.from_file(APP.parent / f"bench/board/{page}.py", default_timeout=60)
        for key, value in address.items():
            app.query_params[key] = value
        return checked(app.run())

    return opened


@pytest.fixture(scope="module")
def tables(cache: Path) -> tuple[Group, ...]:
    return table.build(COMMITTED, cache=cache).groups


def address(group: Group, page: str) -> dict[str, str]:
    """What an address says to show a table, or the first model of it."""
    if page == "model":
        return {"name": group.rows[0].card.name, "measurement": measurement_label(group)}
    return {
        "dataset": group.dataset,
        "threat": str(group.threat),
        "protocol": group.protocol_label,
        "images": image_labels([group])[group.key],
    }


@pytest.mark.parametrize("page", ["leaderboard", "awp", "tradeoffs", "model"])
def test_a_page_opens_on_every_committed_table(
    open_alone: Callable[..., AppTest], tables: tuple[Group, ...], page: str
) -> None:
    assert len(tables) > 4
    for group in tables:
        asked = address(group, page)
        app = open_alone(page, **asked)
        shown = {box.key: box.value for box in app.selectbox if box.key in asked}
        assert shown == {key: asked[key] for key in shown}
        assert len(shown) >= (1 if page == "model" else 3)  # no box where there is one choice
        if page != "model":
            assert not app.info  # an address that no record here has is answered so
        if page == "awp":
            assert "Studies" in [header.value for header in app.header]  # the last thing shown
            compared = [len(names) for names in columns(app, "twin")]
            each = [len(control.pairs) for control in controls(group)]
            assert compared == [*each, len(pairs(group))]


def test_the_page_about_measuring_opens(open_alone: Callable[..., AppTest]) -> None:
    assert open_alone("measured").title


@pytest.mark.parametrize("recipes", [("equal-compute",), ("equal-compute", "best-vanilla")])
def test_controls_of_best_and_last_of_several_methods_are_shown_with_all_that_follows(
    open_app: Open, tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    """A recipe of a control has one a method and kept epoch."""
    for n_train in (200, 500):
        for kept in ("best", "last"):
            write_all(tmp_path, with_controls(kept, recipes, n_train=n_train))
    (group,) = table.build(tmp_path).groups
    assert len(controls(group)) == 2 * 2 * len(recipes)
    app = open_app(tmp_path, "awp")
    said = html(app)
    for recipe in recipes:
        assert said.count(f"Against {recipe}") == 4
    assert "Every pair" in [header.value for header in app.header]


def with_controls(kept: str, recipes: tuple[str, ...], *, n_train: int) -> list[EvaluationRecord]:
    """A pair, and a control of each recipe for its AWP model."""
    vanilla, perturbed = matched_pair(0, kept, n_train=n_train)
    assert vanilla.card.train is not None
    found = [vanilla, perturbed]
    for recipe in recipes:
        name = f"{vanilla.card.name}-{recipe}"
        train = vanilla.card.train.model_copy(update={"recipe": recipe, "epochs": 220})
        update = {"name": name, "weights_sha256": sha(name), "control_of": perturbed.card.name}
        card = vanilla.card.model_copy(update={**update, "train": train})
        found.append(make_record(card, robust=0.53))
    return found
