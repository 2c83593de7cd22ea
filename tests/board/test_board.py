"""The pages, run headless: they filter, stay kind to bad input, show hostile text as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from bench import table
from bench.board import records
from bench.board.article import link
from bench.records import store
from bench.reliability.flags import FLAGS
from bench.schema import Flag, ModelCard
from tests.board.board_pages import Open, checked, html, opener
from tests.board.board_records import (
    make_card,
    make_record,
    matched_pair,
    write_all,
    write_curve,
    write_example,
)


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("example")
    write_example(root)
    return root


def markdown(app: AppTest) -> Iterator[str]:
    """All that the page hands to Streamlit's Markdown."""
    for kind in ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error"):
        yield from (element.value for element in app.get(kind))


def filters(app: AppTest) -> dict[str, str]:
    return {box.key: box.value for box in app.selectbox}


# ---------------------------------------------------------------- leaderboard


def test_the_leaderboard_lands_on_real_data_with_its_rows_and_its_answer(
    open_app: Open, example: Path
) -> None:
    app = open_app(example)
    assert filters(app) == {
        "dataset": "fashion_mnist",
        "threat": "linf:0.1",
        "protocol": "standard",
    }
    group = table.build(example).groups[0]
    shown = app.dataframe[0].value
    assert list(shown["model"]) == [row.card.name for row in group.rows]
    assert list(shown["rank"]) == [row.rank for row in group.rows]
    rates = [100 * row.record.worst_case for row in group.rows]
    assert list(shown["worst_case"]) == pytest.approx(rates)
    assert "<strong>indication: better (3 seeds; a headline needs 6).</strong>" in html(app)
    assert "n = 1,000" in html(app)
    assert list(shown["range"]) == [row.range_text for row in group.rows]
    assert "not separated" in html(app)
    assert "the logits are NaN" in html(app)  # the failed record is named


def test_a_shared_address_opens_the_same_view(open_app: Open, example: Path) -> None:
    app = open_app(example, dataset="digits", protocol="gradient", images="1,000 (test[0:1000])")
    assert filters(app)["dataset"] == "digits"
    assert filters(app)["protocol"] == "gradient"
    assert "<strong>Demo data</strong>" in html(app)
    assert "upper bound" in html(app)
    assert "autoattack" not in app.dataframe[0].value
    assert not app.info


def test_filters_narrow_each_other(open_app: Open, example: Path) -> None:
    app = open_app(example)
    checked(app.selectbox(key="dataset").select("digits").run())
    assert filters(app)["threat"] == "linf:0.15"
    assert app.selectbox(key="images").options == ["1,000 (test[0:1000])", "200 (test[0:200])"]
    checked(app.selectbox(key="images").select("200 (test[0:200])").run())
    assert set(app.dataframe[0].value["n"]) == {200}


@pytest.mark.parametrize(
    "address",
    [
        {"dataset": "<script>alert(1)</script>"},
        {"threat": "linf:0.15"},  # known, but not on the data set the page lands on
        {"protocol": "x" * 5000, "images": "-1"},
    ],
)
def test_nonsense_in_the_address_falls_back_with_a_note(
    open_app: Open, example: Path, address: dict[str, str]
) -> None:
    app = open_app(example, **address)
    assert filters(app)["dataset"] == "fashion_mnist"
    assert len(app.info) == 1
    assert all(key in app.info[0].value for key in address)
    assert "script" not in app.info[0].value


@pytest.mark.parametrize("page", ["", "model", "tradeoffs"])
def test_no_records_is_a_kind_page(open_app: Open, tmp_path: Path, page: str) -> None:
    app = open_app(tmp_path / "not there", page)
    assert "no records here yet" in app.info[0].value
    assert all(word in app.code[0].value for word in ("make demo", "make train-all", "evaluate"))


def test_one_record_and_a_corrupt_one(open_app: Open, tmp_path: Path) -> None:
    _, corrupt = write_all(tmp_path, [make_record(make_card(name)) for name in ("good", "bad")])
    corrupt.write_text('{"schema_version": 99}')
    app = open_app(tmp_path)
    assert list(app.dataframe[0].value["model"]) == ["good"]
    assert "schema version 99" in html(app)
    assert "nothing can be said" in html(app)  # there is no pair


def test_only_corrupt_records_still_say_what_is_wrong(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record()])
    path.write_bytes(b"\xff\x00")
    app = open_app(tmp_path)
    assert "is not JSON" in html(app)
    assert app.code


def test_a_new_record_shows_without_a_restart(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("first"))])
    app = open_app(tmp_path)
    write_all(tmp_path, [make_record(make_card("second"), robust=0.7)])
    checked(app.run())
    assert list(app.dataframe[0].value["model"]) == ["first"]  # one look serves all for a moment
    records.last_look.clear()
    checked(app.run())
    assert list(app.dataframe[0].value["model"]) == ["second", "first"]


def test_an_open_page_asks_often_enough() -> None:
    assert records.LOOKS_LAST + records.LOOK_AGAIN < 10  # seconds, with some left to read and draw


def test_a_page_is_made_from_one_state_of_the_folder(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "last_look", lambda root: records.folder_state(Path(root)))
    write_all(tmp_path, matched_pair(0))
    build, group = table.build, list[table.Group]()

    def slow_build(root: Path, **options: Any) -> table.Leaderboard:
        board = build(root, **options)
        group.append(board.groups[0])
        if len(group) == 1:  # a record comes while the page is being made
            write_all(tmp_path, matched_pair(1))
        return board

    monkeypatch.setattr(table, "build", slow_build)
    app = open_app(tmp_path)
    assert [len(shown.rows) for shown in group] == [2, 4]
    assert [len(shown.value) for shown in app.dataframe] == [4]


def test_a_record_that_goes_meanwhile_is_a_kind_page(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    app = open_app(tmp_path, "model", name="a")
    path.unlink()
    checked(app.run())
    assert "gone" in app.info[0].value


def test_a_doubtful_row_is_shown_last_with_its_reason(open_app: Open, tmp_path: Path) -> None:
    flag = Flag(name="zero-gradients", message="The gradient vanishes.", values={"share": 0.25})
    masked = make_record(make_card("masked"), robust=0.9, flags=(flag,))
    write_all(tmp_path, [make_record(make_card("sound")), masked])
    app = open_app(tmp_path)
    shown = app.dataframe[0].value
    assert list(shown["model"]) == ["sound", "masked"]
    assert shown["rank"][0] == 1
    assert shown["rank"].isna()[1]
    assert list(shown["flags"]) == ["", "unranked: zero-gradients"]
    assert "without a rank" in html(app)
    page = html(open_app(tmp_path, "model", name="masked"))
    assert "unranked: zero-gradients" in page
    assert "It keeps the row unranked." in page
    assert FLAGS["zero-gradients"].remedy in page


# ---------------------------------------------------------------- model


def test_the_model_page_shows_where_numbers_come_from(open_app: Open, tmp_path: Path) -> None:
    vanilla, awp = matched_pair(0, "best")
    flag = Flag(name="zero-gradients", message="The gradient vanishes.", values={"share": 0.25})
    paths = write_all(tmp_path, [vanilla, make_record(awp.card, robust=0.56, flags=(flag,))])
    write_curve(paths[1].parent)
    app = open_app(tmp_path, "model", name=awp.card.name)
    page = html(app)
    record = store.read(paths[1])
    for text in (
        f'<h1 class="board-title">{awp.card.name}</h1>',
        record.id,
        record.card.weights_sha256,
        record.examples_sha256,
        "zero-gradients",
        "share = 0.25",
        "best (83 of 100)",
        f"name={vanilla.card.name}",  # a link to the twin
    ):
        assert text in page
    assert any(
        f"bench evaluate var/checkpoints/{awp.card.name} --dataset digits --threat linf:0.15 "
        "--protocol standard --n 200 --seed 0" in code.value
        for code in app.code
    )
    assert len(app.get("plotly_chart")) == 4  # attacks, classes, confusion, training
    after_each = app.dataframe[0].value
    steps = ["fgsm", "pgd", "pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(after_each["attack"]) == steps


def test_the_model_page_finds_weights_beside_the_record(open_app: Open, tmp_path: Path) -> None:
    record = make_record(split="test[1000:1200]", environment={"batch": "256"})
    (path,) = write_all(tmp_path, [record])
    (path.parent / "weights.safetensors").write_bytes(b"")
    app = open_app(tmp_path, "model", name=record.card.name)
    command = next(code.value for code in app.code if "bench evaluate" in code.value)
    assert str(path.parent) in command
    assert "--split 'test[1000:1200]'" in command
    assert "--batch 256" in command


def test_history_keeps_withdrawn_and_superseded_records(open_app: Open, tmp_path: Path) -> None:
    card = make_card("a")
    records = [make_record(card, seed=seed) for seed in range(3)]
    paths = write_all(tmp_path, records)
    store.withdraw(paths[0], "wrong eps")
    app = open_app(tmp_path, "model", name="a")
    history = app.dataframe[-1].value.set_index("record")["state"]
    assert history[records[0].id] == "withdrawn: wrong eps"
    assert history[records[1].id] == "in the table"
    assert history[records[2].id] == "another record speaks for the model"


def test_a_model_without_a_standing_record_has_a_history(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("a"), failure="NaN logits")])
    app = open_app(tmp_path, "model", name="a")
    assert "in no table" in app.info[0].value
    assert list(app.dataframe[0].value["state"]) == ["failed: NaN logits"]


def test_a_model_in_two_tables_can_be_switched(open_app: Open, example: Path) -> None:
    app = open_app(
        example,
        "model",
        name="digits-at-seed0-last",
        measurement="digits linf:0.15 gradient n=1000",
    )
    assert app.selectbox(key="measurement").value == "digits linf:0.15 gradient n=1000"
    assert "gradient protocol" in html(app)
    assert "./?dataset=digits&threat=linf%3A0.15&protocol=gradient" in html(app).replace(
        "&amp;", "&"
    )
    app = open_app(example, "model", name="digits-at-seed0-last", measurement="nonsense")
    assert "no such measurement" in app.info[0].value


def test_an_unknown_model_falls_back_with_a_note(open_app: Open, example: Path) -> None:
    app = open_app(example, "model", name="<b>nobody</b>")
    assert "no record here has" in app.info[0].value
    assert not app.dataframe


# ---------------------------------------------------------------- how it is measured


def test_how_it_is_measured_needs_no_records(open_app: Open, tmp_path: Path) -> None:
    app = open_app(tmp_path, "measured")
    page = html(app)
    for text in ("can only be lower", "CW-inf (margin PGD-100)", "square(queries=5000", *FLAGS):
        assert text in page
    checked(app.selectbox(key="norm").select("l1").run())
    assert "large_steps=True" in html(app)


# ---------------------------------------------------------------- hostile text

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> [x](javascript:alert(3)) \u202e$a$"


def hostile_card() -> ModelCard:
    return make_card(
        "a._b_www.evil.com",
        arch=HOSTILE,
        authors=HOSTILE,
        link="javascript:alert(4)",
        licence=HOSTILE,
        extra_data=HOSTILE,
        commit=HOSTILE,
        selected_on=None,
    )


@pytest.mark.parametrize("page", ["", "model"])
def test_hostile_text_is_shown_and_cannot_run(open_app: Open, tmp_path: Path, page: str) -> None:
    record = make_record(
        hostile_card(),
        split=HOSTILE,
        engine_version=HOSTILE,
        created=HOSTILE,
        environment={HOSTILE: HOSTILE},
        flags=(Flag(name="x", message=HOSTILE, values={HOSTILE: HOSTILE}),),
    )
    failed = make_record(make_card("failed"), failure=HOSTILE)
    write_all(tmp_path, [record, failed])
    app = open_app(tmp_path, page, **({"name": record.card.name} if page else {}))
    page_html = html(app)
    tags = set(re.findall(r"<\s*(\w+)", page_html))
    assert not tags & {"script", "img", "iframe", "svg", "object"}
    assert not re.search(r"""href\s*=\s*["']?\s*javascript""", page_html)
    assert "\u202e" not in page_html
    assert "&lt;script&gt;" in page_html
    assert not any("alert" in text or "evil" in text for text in markdown(app))


@pytest.mark.parametrize(
    ("url", "leads"),
    [
        ("https://example.org/a?b=1", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)//https://example.org", False),
        ("data:text/html,<script>", False),
        ("https:///no-host", False),
        ("//example.org", False),
        ("https://[broken", False),
        ('https://a.org/"onmouseover="alert(1)', True),
        ("", False),
    ],
)
def test_only_web_addresses_become_links(url: str, leads: bool) -> None:
    shown = str(link(url))
    assert ("<a href=" in shown) == leads
    assert '"onmouseover' not in shown
    assert "<script" not in shown
