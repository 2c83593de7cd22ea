"""The landing page: the table that says most, one row a method, its address, published apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from bench import table
from bench.board.article import MOST_ON_A_PHONE
from bench.board.filters import ELSEWHERE, places_of
from bench.board.method_table import MOST
from bench.notation import percent
from bench.published import LIKELY, MARK, files
from bench.reliability.flags import FLAGS
from bench.schema import Flag
from bench.stats import contrasts
from bench.stats.method_rows import method_table
from tests.board.board_pages import APP, Open, checked, columns, filters, html, methods
from tests.board.board_records import (
    make_card,
    make_record,
    matched_pair,
    publish,
    sha,
    write_all,
)


def names(app: AppTest) -> list[str]:
    return [row["name"] for row in methods(app)]


# ---------------------------------------------------------------- which table


def test_it_lands_on_real_data_with_its_methods_and_its_answer(
    open_app: Open, recorded: Path
) -> None:
    app = open_app(recorded)
    chosen = {"dataset": "fashion_mnist", "threat": "linf:0.1", "protocol": "standard"}
    assert filters(app) == chosen
    group = table.build(recorded).groups[0]
    pairs = contrasts.pairs(group)
    wanted = method_table(group, contrasts.answers(group, pairs), pairs).rows
    shown = methods(app)
    assert [row["name"] for row in shown] == [row.name for row in wanted]
    for said, row in zip(shown, wanted, strict=True):
        assert said["rank"] == (row.range_text.replace("-", "–") or "none")
        assert said["robust"].startswith(percent(row.rate().estimate, group.n))
        assert said["checks"].split()[: len(row.badges)] == list(row.badges)
        assert all(run.card.name in said["all"] for run in (*row.rows, *row.others))
    page = html(app)
    assert "n = 1,000" in page
    assert "board-forest" in page and "nothing shown" in page  # the answer
    assert "the logits are NaN" in page  # the failed record is named


@pytest.mark.parametrize(
    ("measured", "lands"),
    [
        ({"digits": 3}, "digits"),
        ({"digits": 3, "pets": 1}, "pets"),
        ({"digits": 9, "fashion_mnist": 4, "pets": 6, "mnist": 1}, "pets"),
        ({"fashion_mnist": 4, "mnist": 4}, "mnist"),
        ({"fashion_mnist": 4, "mnist": 4, "cifar10": 4}, "cifar10"),
        ({}, "cifar10"),
    ],
)
def test_it_lands_on_what_is_measured_and_says_most(measured, lands, tmp_path: Path) -> None:
    publish(tmp_path, "One", "Two", "Three")
    records = [
        make_record(make_card(f"{dataset}-{k}", dataset=dataset), threat="linf:8/255")
        for dataset, count in measured.items()
        for k in range(count)
    ]
    write_all(tmp_path, records)
    published = files.load(tmp_path / files.FOLDER)
    found = places_of(table.build(tmp_path).groups, published)
    assert found[0].dataset == lands
    assert [bool(place.groups) for place in found] == sorted(
        (bool(place.groups) for place in found), reverse=True
    )


@pytest.mark.parametrize(
    ("fuller", "other"),
    [
        ({"protocol": "standard", "n": 200}, {"protocol": "gradient", "n": 1000}),
        ({"protocol": "fast", "n": 1000}, {"protocol": "standard", "n": 200}),
        ({"protocol": "standard", "n": 1000}, {"protocol": "standard", "n": 200}),
    ],
)
def test_of_several_tables_the_one_that_says_most_opens(
    open_app: Open, tmp_path: Path, fuller: dict, other: dict
) -> None:
    write_all(tmp_path, [*matched_pair(0, **other), *matched_pair(1, **other)])
    write_all(tmp_path, matched_pair(0, **fuller))
    write_all(tmp_path, [make_record(make_card("alone"), protocol="fast", n=5000)])
    app = open_app(tmp_path)
    assert filters(app)["protocol"] == fuller["protocol"]
    assert f"n = {fuller['n']:,}" in html(app)


def test_a_shared_address_opens_the_same_view(open_app: Open, recorded: Path) -> None:
    app = open_app(recorded, dataset="digits", protocol="gradient", images="1,000 (test[0:1000])")
    assert filters(app)["dataset"] == "digits"
    assert filters(app)["protocol"] == "gradient"
    page = html(app)
    assert "<strong>Demo data</strong>" in page
    assert "upper bounds" in page and "robust, at most" in page
    assert "AutoAttack</th>" not in page
    assert not app.info


def test_filters_narrow_each_other(open_app: Open, recorded: Path) -> None:
    app = open_app(recorded)
    checked(app.button_group(key="dataset").set_value("digits").run())
    assert filters(app)["threat"] == "linf:0.15"
    images = app.button_group(key="images")
    assert images.options == ["1,000 (test[0:1000])", "200 (test[0:200])"]
    checked(images.set_value("200 (test[0:200])").run())
    assert "n = 200" in html(app)


@pytest.mark.parametrize(
    "address",
    [
        {"threat": "linf:0.15"},  # known, but not on the data set the page lands on
        {
            "dataset": "<script>alert(1)</script>",
            "protocol": "x" * 5000,
            "images": "-1",
            "arch": "<script>none",
        },
        {"protocol": ELSEWHERE},  # nothing is published on it
    ],
)
def test_nonsense_in_the_address_falls_back_with_a_note(
    open_app: Open, recorded: Path, address: dict[str, str]
) -> None:
    app = open_app(recorded, **address)
    assert filters(app)["dataset"] == "fashion_mnist"
    assert len(app.info) == 1
    assert all(key in app.info[0].value for key in address)
    assert "script" not in app.info[0].value
    assert methods(app)


@pytest.mark.parametrize(
    ("source", "linked"), [("https://example.org/board", True), ("javascript:alert(1)", False)]
)
def test_the_foot_says_of_when_the_records_are_and_where(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, linked: bool
) -> None:
    write_all(tmp_path, [make_record()])
    open_app(tmp_path)
    monkeypatch.setattr("sys.argv", ["app.py", "--results", str(tmp_path), "--source", source])
    app = checked(AppTest.from_file(APP, default_timeout=20).run())
    page = html(app)
    assert "1 record, the newest of 2026-11-20" in page
    assert (f'href="{source}"' in page) == linked
    cited = page.rpartition('<pre class="board-command"')[2].partition(">")[2]
    assert cited.startswith("@misc{") and "Records up to 2026-11-20" in cited
    assert (source in cited) == linked


# ---------------------------------------------------------------- our rows


def test_a_row_opens_to_its_seeds_and_leads_where_it_says(open_app: Open, tmp_path: Path) -> None:
    for seed in range(2):
        write_all(tmp_path, matched_pair(seed, "best"))
        write_all(tmp_path, matched_pair(seed, "last"))
    awp, vanilla = methods(open_app(tmp_path))
    assert "2 seeds, best and last, every attack" in awp["all"]
    assert awp["all"].count('<tr><th scope="row">') == 4
    assert "compare?measurement=digits+linf%3A0.15+standard+n%3D200&amp;row=AT-AWP&amp;row=AT" in (
        awp["minus twin"] and awp["all"]
    )
    assert vanilla["minus twin"] == "–"
    assert 'href="https://arxiv.org/abs/2004.05884"' in awp["all"]
    assert 'href="https://arxiv.org/abs/1706.06083"' in vanilla["all"]
    assert '<input type="checkbox" name="row" value="AT-AWP"' in awp["all"]


def test_a_corrupt_record_is_named_and_the_rest_shown(open_app: Open, tmp_path: Path) -> None:
    made = [make_record(make_card(name)) for name in ("good", "newer", "bad")]
    good, newer, corrupt = write_all(tmp_path, made)
    newer.write_bytes(b'{"schema_version": 99}')
    corrupt.write_bytes(b"\xff")
    app = open_app(tmp_path)
    assert names(app) == ["AT"]
    page = html(app)
    assert all(said in page for said in ("schema version 99", "is not JSON"))
    assert "no network here has a vanilla twin" in page  # there is no pair
    good.unlink()
    app = open_app(tmp_path)
    assert "is not JSON" in html(app)
    assert app.code


def test_a_doubtful_row_is_shown_last_with_its_reason(open_app: Open, tmp_path: Path) -> None:
    flag = Flag(name="zero-gradients", message="The gradient vanishes.", values={"share": 0.25})
    masked = make_record(make_card("masked", train=None), robust=0.9, flags=(flag,))
    write_all(tmp_path, [make_record(make_card("sound")), masked])
    sound, doubtful = methods(open_app(tmp_path))
    assert (sound["rank"], doubtful["name"], doubtful["rank"]) == ("1", "masked", "none")
    assert "unranked: zero-gradients" in doubtful["checks"]
    page = html(open_app(tmp_path, "model", name="masked"))
    for said in ("unranked: zero-gradients", "It keeps the row unranked.", "share = 0.25"):
        assert said in page
    assert FLAGS["zero-gradients"].remedy in page


def test_every_network_is_a_toggle_away_with_its_own_cost(open_app: Open, tmp_path: Path) -> None:
    """Where the best epoch is the last, two records have one id."""
    best, last = (make_card(name, weights_sha256=sha("w")) for name in ("a-best", "a-last"))
    write_all(tmp_path, [make_record(best, seconds=1), make_record(last, seconds=2)])
    app = open_app(tmp_path)
    assert not app.dataframe
    checked(app.toggle(key="runs").set_value(True).run())
    shown = app.dataframe[0].value
    assert dict(zip(shown["model"], shown["seconds"], strict=True)) == {"a-best": 1, "a-last": 2}
    assert len(open_app(tmp_path, runs="true").dataframe) == 1


def test_filters_hide_rows_and_change_no_rank(open_app: Open, tmp_path: Path) -> None:
    for seed in range(3):
        write_all(tmp_path, matched_pair(seed, gain=0.1))
    whole = {row["name"]: row for row in methods(open_app(tmp_path))}
    filtered = open_app(tmp_path, awp="no")
    (only,) = methods(filtered)
    assert only["name"] == "AT" and len(whole) == 2
    for cell in ("rank", "robust", "clean"):
        assert only[cell] == whole["AT"][cell]
    assert "hide 1 of 2 methods" in html(filtered)
    checked(filtered.multiselect(key="awp").set_value([]).run())
    assert len(methods(filtered)) == 2
    none = open_app(tmp_path, awp="no", method="AT-AWP")
    assert "leave no method" in none.info[0].value


def test_a_long_table_is_shown_in_parts(open_app: Open, tmp_path: Path) -> None:
    cards = [make_card(f"net-{k:03d}", train=None) for k in range(MOST + 5)]
    write_all(tmp_path, [make_record(card, robust=0.3 + 0.005 * k) for k, card in enumerate(cards)])
    app = open_app(tmp_path)
    assert len(names(app)) == MOST
    (more,) = [button for button in app.button if "more" in button.label]
    assert more.label == "Show 5 more"
    checked(more.click().run())
    assert len(names(app)) == MOST + 5


# ---------------------------------------------------------------- published numbers


def test_published_rows_stand_alone_where_nothing_is_measured(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", "Three")
    app = open_app(tmp_path)
    assert "no records here yet" in app.info[0].value
    write_all(tmp_path, [make_record(make_card("ours"))])
    app = open_app(tmp_path, dataset="cifar10")
    chosen = {"dataset": "cifar10", "threat": "linf:8/255", "protocol": ELSEWHERE}
    assert filters(app) == chosen | {"attack": "AutoAttack"}
    (shown,) = [frame.value for frame in app.dataframe]
    assert list(shown["model"]) == ["One", "Two", "Three"]
    assert set(shown["status"]) == {MARK}
    assert "rank" not in shown
    assert MARK.capitalize() in html(app)


def test_published_rows_are_a_tab_beside_ours(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One", "Two", dataset="digits", eps="0.15")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    assert not app.dataframe and len(methods(app)) == 2
    checked(app.button_group(key="protocol").set_value(ELSEWHERE).run())
    assert columns(app, "status") == [[MARK, MARK]]
    assert not methods(app)
    beside = open_app(tmp_path, protocol=ELSEWHERE, arch="WideResNet-0")
    assert columns(beside, "model") == [["One"]] and not beside.info
    other = open_app(tmp_path, protocol=ELSEWHERE, attack="x" * 5000)
    assert "attack" in other.info[0].value


def test_likely_awp_is_a_value_of_its_own_that_changes_no_answer(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", dataset="digits", eps="0.15")
    write_all(tmp_path, [record for seed in range(2) for record in matched_pair(seed)])
    ours = html(open_app(tmp_path))
    before = open_app(tmp_path, protocol=ELSEWHERE)
    (tmp_path / "published" / "likely_awp.csv").write_text(
        "dataset,norm,model_id,repository,commit,file,default,arxiv\n"
        "digits,Linf,One,owner/code,1234567,train.py,--awp-gamma 0.005,2210.09852\n"
    )
    app = open_app(tmp_path, protocol=ELSEWHERE)
    assert columns(before, "AWP") == [["not stated", "not stated"]]
    assert columns(app, "AWP") == [["likely", "not stated"]]
    assert {"likely", "not stated"} == set(app.multiselect(key="awp").options)
    assert LIKELY in html(app)
    assert LIKELY not in html(before)
    assert columns(app, "robust") == columns(before, "robust")
    cut = "Page made"  # whose minute may change meanwhile
    assert html(open_app(tmp_path)).split(cut)[0] == ours.split(cut)[0]
    only = open_app(tmp_path, protocol=ELSEWHERE, awp="likely")
    assert columns(only, "model") == [["One"]]


def test_a_phone_lists_no_more_than_it_can_bear(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(MOST_ON_A_PHONE + 5)))
    write_all(tmp_path, [make_record(make_card("ours"))])
    page = html(open_app(tmp_path, dataset="cifar10"))
    assert page.count("<li>") - 3 == MOST_ON_A_PHONE  # three say how to hand in a network
    assert "and 5 more" in page
