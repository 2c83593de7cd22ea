"""The leaderboard: it lands on real data, filters by its address, and shows published numbers apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from bench import table
from bench.board.article import MOST_ON_A_PHONE
from bench.board.filters import places_of
from bench.published import LIKELY, MARK, files
from bench.reliability.flags import FLAGS
from bench.schema import Flag
from bench.table import WORST_CASE
from tests.board.board_pages import Open, checked, columns, html
from tests.board.board_records import make_card, make_record, matched_pair, publish, sha, write_all


def filters(app: AppTest) -> dict[str, str]:
    return {box.key: box.value for box in app.selectbox}


# ---------------------------------------------------------------- which table


def test_it_lands_on_real_data_with_its_rows_and_its_answer(open_app: Open, recorded: Path) -> None:
    app = open_app(recorded)
    chosen = {"dataset": "fashion_mnist", "threat": "linf:0.1", "protocol": "standard"}
    assert filters(app) == chosen
    group = table.build(recorded).groups[0]
    shown = app.dataframe[0].value
    assert list(shown["model"]) == [row.card.name for row in group.rows]
    assert list(shown["rank"]) == [row.rank for row in group.rows]
    assert list(shown["range"]) == [row.range_text for row in group.rows]
    assert list(shown["passes"]) == [row.record.passes / group.n for row in group.rows]
    rates = [100 * row.record.worst_case for row in group.rows]
    assert list(shown["worst_case"]) == pytest.approx(rates)
    page = html(app)
    assert "<strong>indication: better (3 seeds; a headline needs 6).</strong>" in page
    assert "n = 1,000" in page
    assert "not separated" in page
    assert "the logits are NaN" in page  # the failed record is named


@pytest.mark.parametrize(
    ("measured", "lands"),
    [
        ({"digits": 3}, "cifar10"),
        ({"digits": 3, "pets": 1}, "pets"),
        ({"digits": 9, "fashion_mnist": 4, "pets": 6, "mnist": 1}, "mnist"),
        ({"fashion_mnist": 4, "mnist": 1, "cifar10": 1}, "cifar10"),
    ],
)
def test_it_lands_on_what_is_measured_and_known(measured, lands, tmp_path: Path) -> None:
    publish(tmp_path, "One", "Two", "Three")
    records = [
        make_record(make_card(f"{dataset}-{k}", dataset=dataset), threat="linf:8/255")
        for dataset, count in measured.items()
        for k in range(count)
    ]
    write_all(tmp_path, records)
    published = files.load(tmp_path / files.FOLDER)
    found = places_of(table.build(tmp_path).groups, published)
    assert (found[0].dataset, found[-1].dataset == "digits") == (lands, "digits" in measured)


def test_a_shared_address_opens_the_same_view(open_app: Open, recorded: Path) -> None:
    app = open_app(recorded, dataset="digits", protocol="gradient", images="1,000 (test[0:1000])")
    assert filters(app)["dataset"] == "digits"
    assert filters(app)["protocol"] == "gradient"
    assert "<strong>Demo data</strong>" in html(app)
    assert "upper bound" in html(app)
    assert "autoattack" not in app.dataframe[0].value
    assert not app.info


def test_filters_narrow_each_other(open_app: Open, recorded: Path) -> None:
    app = open_app(recorded)
    checked(app.selectbox(key="dataset").select("digits").run())
    assert filters(app)["threat"] == "linf:0.15"
    assert app.selectbox(key="images").options == ["1,000 (test[0:1000])", "200 (test[0:200])"]
    checked(app.selectbox(key="images").select("200 (test[0:200])").run())
    assert set(app.dataframe[0].value["n"]) == {200}


@pytest.mark.parametrize(
    "address",
    [
        {"threat": "linf:0.15"},  # known, but not on the data set the page lands on
        {
            "dataset": "<script>alert(1)</script>",
            "protocol": "x" * 5000,
            "images": "-1",
            "arch": "<script>none",
            "attack": "x" * 5000,
            "published": "perhaps",
        },
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
    assert len(app.dataframe) == 1


# ---------------------------------------------------------------- our rows


def test_a_corrupt_record_is_named_and_the_rest_shown(open_app: Open, tmp_path: Path) -> None:
    made = [make_record(make_card(name)) for name in ("good", "newer", "bad")]
    good, newer, corrupt = write_all(tmp_path, made)
    newer.write_bytes(b'{"schema_version": 99}')
    corrupt.write_bytes(b"\xff")
    app = open_app(tmp_path)
    assert columns(app, "model") == [["good"]]
    page = html(app)
    assert all(said in page for said in ("schema version 99", "is not JSON"))
    assert "nothing can be said" in page  # there is no pair
    good.unlink()
    app = open_app(tmp_path)
    assert "is not JSON" in html(app)
    assert app.code


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
    for said in ("unranked: zero-gradients", "It keeps the row unranked.", "share = 0.25"):
        assert said in page
    assert FLAGS["zero-gradients"].remedy in page


def test_the_cost_of_a_row_is_that_of_its_own_record(open_app: Open, tmp_path: Path) -> None:
    """Where the best epoch is the last, two records have one id."""
    best, last = (make_card(name, weights_sha256=sha("w")) for name in ("a-best", "a-last"))
    write_all(tmp_path, [make_record(best, seconds=1), make_record(last, seconds=2)])
    shown = open_app(tmp_path).dataframe[0].value
    assert dict(zip(shown["model"], shown["seconds"], strict=True)) == {"a-best": 1, "a-last": 2}


def test_filters_hide_rows_and_change_no_rank(open_app: Open, tmp_path: Path) -> None:
    for seed in range(3):
        write_all(tmp_path, matched_pair(seed, gain=0.1))
    whole = open_app(tmp_path).dataframe[0].value.set_index("model")
    filtered = open_app(tmp_path, awp="no")
    some = filtered.dataframe[0].value.set_index("model")
    assert set(some["AWP"]) == {"no"} != set(whole["AWP"])
    for column in ("rank", "range", WORST_CASE):
        assert list(some[column]) == list(whole.loc[some.index, column])
    assert "hide 3 of 6 models" in html(filtered)
    checked(filtered.multiselect(key="awp").set_value([]).run())
    assert len(filtered.dataframe[0].value) == 6


# ---------------------------------------------------------------- published numbers


def test_published_rows_stand_alone_where_nothing_is_measured(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", "Three")
    app = open_app(tmp_path)
    assert "no records here yet" in app.info[0].value
    write_all(tmp_path, [make_record(make_card("ours"))])  # digits: a demo, never the landing page
    app = open_app(tmp_path)
    chosen = {"dataset": "cifar10", "threat": "linf:8/255", "attack": "AutoAttack"}
    assert filters(app) == chosen
    (shown,) = [frame.value for frame in app.dataframe]
    assert list(shown["model"]) == ["One", "Two", "Three"]
    assert set(shown["status"]) == {MARK}
    assert "rank" not in shown
    page = html(app)
    assert "Nothing is measured here yet on cifar10" in page
    assert "demo: digits, linf:0.15" in page  # where ours are
    assert MARK in page


def test_published_rows_stand_beside_ours_until_the_address_says_no(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", dataset="digits", eps="0.15")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    assert columns(app, "status") == [[MARK, MARK]]
    assert len(columns(app, "rank")) == 1
    ours_alone = open_app(tmp_path, published="false")
    assert len(ours_alone.dataframe) == 1
    assert MARK not in "".join(map(str, columns(ours_alone, "model")))
    assert not ours_alone.info
    checked(app.toggle(key="published").set_value(False).run())
    assert len(app.dataframe) == 1
    published = open_app(tmp_path, arch="WideResNet-0")
    assert "leave no model that is measured here" in published.info[0].value
    assert columns(published, "model") == [["One"]]


def test_likely_awp_is_a_value_of_its_own_that_changes_no_answer(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", dataset="digits", eps="0.15")
    write_all(tmp_path, [record for seed in range(2) for record in matched_pair(seed)])
    before = open_app(tmp_path)
    (tmp_path / "published" / "likely_awp.csv").write_text(
        "dataset,norm,model_id,repository,commit,file,default,arxiv\n"
        "digits,Linf,One,owner/code,1234567,train.py,--awp-gamma 0.005,2210.09852\n"
    )
    app = open_app(tmp_path)
    assert columns(before, "AWP")[1:] == [["not stated", "not stated"]]
    assert columns(app, "AWP") == [columns(before, "AWP")[0], ["likely", "not stated"]]
    assert {"likely", "not stated", "yes", "no"} == set(app.multiselect(key="awp").options)
    said, said_before = html(app), html(before)
    assert LIKELY in said
    assert LIKELY not in said_before
    answers = [page[page.index("AT-AWP minus AT") :] for page in (said, said_before)]
    assert answers[0] == answers[1]
    for column in ("robust", "worst case", "rank"):
        assert columns(app, column) == columns(before, column)
    only = open_app(tmp_path, awp="likely")
    assert columns(only, "model") == [["One"]]


def test_a_phone_lists_no_more_than_it_can_bear(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(MOST_ON_A_PHONE + 5)))
    page = html(open_app(tmp_path))
    assert page.count("<li>") == MOST_ON_A_PHONE
    assert "and 5 more" in page
