"""How a model is found, nearest names, and the pages of models that others measured."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from bench.published import LIKELY, MARK, files
from tests.board.board_pages import Open, checked, headers, html
from tests.board.board_records import (
    make_card,
    make_record,
    matched_pair,
    publish,
    write_all,
)


def models(page: str) -> list[str]:
    """The names that the links to model pages ask for."""
    found = re.findall(r'href="model\?([^"]*)"', page)
    return [parse_qs(unescape(address))["name"][0] for address in found]


def test_without_a_name_it_offers_the_highest_and_the_newest(
    open_app: Open, tmp_path: Path
) -> None:
    records = [r for seed in range(2) for r in matched_pair(seed, gain=0.1 - 0.05 * seed)]
    old = make_record(make_card("old-one"), protocol="gradient", created="2020-01-01T00:00:00Z")
    write_all(tmp_path, [*records, old])
    publish(tmp_path, *(f"Model{k}" for k in range(9)))
    page = html(open_app(tmp_path, "model"))
    offered = models(page)
    best = max(records, key=lambda record: record.worst_case).card
    assert best.name == offered[0] and best.awp is not None
    assert offered[1] in {r.card.name for r in records if r.card.awp is None}  # a row a method
    assert {f"Model{k}" for k in range(3)} <= set(offered)
    assert "Model3" not in offered
    assert MARK.capitalize() in page
    newest = offered[offered.index("Model0") - 5 : offered.index("Model0")]
    assert newest[-1] == "old-one" and len(set(newest)) == 5  # each model once
    assert models(html(open_app(tmp_path, "model", name=""))) == offered


def test_the_search_holds_our_names_and_the_published(open_app: Open, tmp_path: Path) -> None:
    write_all(
        tmp_path, [make_record(make_card("ours")), make_record(make_card("bad"), failure="x")]
    )
    publish(tmp_path, "Theirs2024")
    app = open_app(tmp_path, "model")
    assert app.selectbox(key="name").options == ["Theirs2024", "bad", "ours"]
    checked(app.selectbox(key="name").select("Theirs2024").run())
    assert MARK in html(app)
    checked(app.selectbox(key="name").select("ours").run())
    assert "Measured on digits" in html(app)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("digits-at-awp-seed0-lats", "digits-at-awp-seed0-last"),
        ("DIGITS-AT-SEED0-LAST", "digits-at-seed0-last"),
        ("wang2023beter", "Wang2023Better"),
        ("zzzzzzzz", None),
        ("<b>nobody</b>" * 50, None),
    ],
)
def test_an_unknown_name_suggests_the_nearest(
    open_app: Open, tmp_path: Path, asked: str, nearest: str | None
) -> None:
    write_all(tmp_path, matched_pair(0))
    publish(tmp_path, "Wang2023Better")
    app = open_app(tmp_path, "model", name=asked)
    assert "not here" in app.info[0].value
    page = html(app)
    assert "<b>nobody" not in page
    if nearest is None:
        assert "Nearest to" not in page
    else:
        assert models(page.split("Nearest to")[1])[0] == nearest
    checked(app.run())  # as an open page does by itself: the address has forgotten the name
    assert "not here" in app.info[0].value
    checked(app.selectbox(key="name").select("Wang2023Better").run())
    assert not app.info


# ---------------------------------------------------------------- models of others


def test_a_published_model_has_a_page(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One2024", "Two2024")
    app = open_app(tmp_path, "model", name="Two2024")
    page = html(app)
    for text in (MARK, "59.00", "58.03 – 59.96", "90.01", "https://example.org/1", "AutoAttack"):
        assert text in page
    assert "AWP: not stated." in page
    assert "model_info/cifar10/Linf/Two2024.json" in page
    assert "60.00" not in page  # the other one's
    (command,) = (code.value for code in app.code)
    said = "robustbench:cifar10/Linf/Two2024 --dataset cifar10 --threat linf:8/255"
    assert command == f"python -m bench evaluate {said}"


def test_a_published_model_names_our_record_of_it(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One2024", "ours2024")
    card = make_card("mine", link="robustbench:cifar10/Linf/One2024")
    write_all(tmp_path, [make_record(card), make_record(make_card("ours2024"))])
    app = open_app(tmp_path, "model", name="One2024")
    assert models(html(app)) == ["mine"]
    assert not app.code  # measured: nothing to type
    app = open_app(tmp_path, "model", name="ours2024")  # both have the name: ours first
    page = html(app)
    assert "Measured on digits" in page
    assert re.search(r'href="model\?name=ours2024&amp;elsewhere=ours2024"', page)
    app = open_app(tmp_path, "model", name="ours2024", elsewhere="ours2024")
    page = html(app)
    assert MARK in page and "Measured on digits" not in page
    assert models(page) == ["ours2024"]
    checked(app.selectbox(key="name").select("mine").run())
    assert "elsewhere" not in app.query_params
    checked(app.selectbox(key="name").select("ours2024").run())
    assert "Measured on digits" in html(app)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "Addepalli2021Towards_RN18",
            (f"AWP {LIKELY}", "counts as AWP nowhere. Its code: val-iisc/OAAT@"),
        ),
        ("Wu2020Adversarial", ("AWP: yes.", "cifar100, linf:8/255")),
        ("AT-AWP", ("AWP: yes.", "PGD-20", "csdongxian/AWP/blob/a7acf5d/")),
    ],
)  # fmt: skip
def test_published_models_that_come_along(
    open_app: Open, tmp_path: Path, name: str, said: tuple[str, ...]
) -> None:
    shutil.copytree(files.SHIPPED, tmp_path / "published")
    app = open_app(tmp_path, "model", name=name)
    page = html(app) + "".join(headers(app))
    for text in (MARK, *said):
        assert text in page
