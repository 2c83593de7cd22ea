"""The pages about AWP, trade-offs, published numbers and one model: what they show, and how they bear
bad input."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from bench import pairs, table
from bench.board import awp, bars, comparison, confusions, gallery, security, studies, withstood
from bench.board.article import MOST_ON_A_PHONE
from bench.board.pareto import Point, front
from bench.controls import controls
from bench.intervals import Interval, compare_paired, wilson
from bench.published import MARK
from bench.results import sha256_of
from bench.schema import AwpConfig, EvaluationRecord, TrainConfig, pack_floats, pack_ints
from bench.table import WORST_CASE

from .board_pages import Open, checked, html, opener
from .board_records import make_card, make_record, matched_pair, sha, with_id, write_all

HOSTILE = "<script>alert(1)</script>[x](javascript:alert(3)) \u202e=1+1" + "A" * 10_000
_HEADINGS = (
    "model_id,title,authors_short,venue,year,architecture,eps,additional_data,clean_acc,"
    "reported_acc,autoattack_acc,external_acc,best_known_robust_acc,unreliable,link"
)


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(monkeypatch)


def publish(root: Path, *models: str, dataset: str = "cifar10", eps: str = "8/255") -> None:
    """A table of published numbers: each model one point below the one before."""
    lines = [
        f"{name},A title,Someone et al.,ICML 2024,2024,WideResNet-{k},{eps},{k % 2 == 0},"
        f"90.{k:02d},{60 - k}.00,{60 - k}.00,,{60 - k}.00,False,https://example.org/{k}"
        for k, name in enumerate(models)
    ]
    folder = root / "published"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([_HEADINGS, *lines]) + "\n"
    (folder / f"robustbench_{dataset}_linf.csv").write_text(text, encoding="utf-8")


def columns(app: AppTest, name: str) -> list[list[object]]:
    """A column of every data frame that has it."""
    return [list(frame.value[name]) for frame in app.dataframe if name in frame.value]


# ---------------------------------------------------------------- published numbers


def test_published_rows_stand_alone_where_nothing_is_measured(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One", "Two", "Three")
    write_all(tmp_path, [make_record(make_card("ours"))])  # digits: a demo, never the landing page
    app = open_app(tmp_path)
    assert {box.key: box.value for box in app.selectbox} == {
        "dataset": "cifar10",
        "threat": "linf:8/255",
        "attack": "AutoAttack",
    }
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
    assert len(app.dataframe) == 2
    assert columns(app, "status") == [[MARK, MARK]]
    assert len(columns(app, "rank")) == 1
    ours_alone = open_app(tmp_path, published="false")
    assert len(ours_alone.dataframe) == 1
    assert MARK not in "".join(map(str, columns(ours_alone, "model")))
    assert not ours_alone.info
    checked(app.toggle(key="published").set_value(False).run())
    assert len(app.dataframe) == 1


def test_a_folder_of_published_numbers_alone_says_how_to_measure(
    open_app: Open, tmp_path: Path
) -> None:
    publish(tmp_path, "One")
    app = open_app(tmp_path)
    assert columns(app, "model") == [["One"]]
    assert "no records here yet" in app.info[0].value


def test_hostile_published_names_are_text(open_app: Open, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>[x](javascript:alert(3)) \u202e"
    publish(tmp_path, hostile, "'=1+1")
    app = open_app(tmp_path)
    page = html(app)
    assert not set(re.findall(r"<\s*(\w+)", page)) & {"script", "img", "iframe"}
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page + "".join(map(str, columns(app, "model")))
    assert not re.search(r"""href\s*=\s*["']?\s*javascript""", page)


# ---------------------------------------------------------------- filters


def test_filters_hide_rows_and_change_no_rank(open_app: Open, tmp_path: Path) -> None:
    for seed in range(3):
        write_all(tmp_path, matched_pair(seed, gain=0.1))
    (group,) = table.build(tmp_path).groups
    app = open_app(tmp_path)
    assert not app.info
    whole = app.dataframe[0].value.set_index("model")
    filtered = open_app(tmp_path, awp="no")
    some = filtered.dataframe[0].value.set_index("model")
    assert set(some["AWP"]) == {"no"} != set(whole["AWP"])
    for column in ("rank", "range", WORST_CASE):
        assert list(some[column]) == list(whole.loc[some.index, column])
    assert list(some["range"]) == [
        row.range_text for row in group.rows if row.card.name in some.index
    ]
    assert "hide 3 of 6 models" in html(filtered)
    checked(filtered.multiselect(key="awp").set_value([]).run())
    assert len(filtered.dataframe[0].value) == 6


def test_a_nonsense_filter_of_rows_falls_back_with_a_note(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("a"))])
    app = open_app(tmp_path, arch="<b>none</b>", attack="x" * 5000, published="perhaps")
    assert all(name in app.info[0].value for name in ("arch", "attack", "published"))
    assert "<b>" not in app.info[0].value
    assert columns(app, "model") == [["a"]]


def test_filters_that_leave_nothing_say_so(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One", dataset="digits", eps="0.15")
    write_all(tmp_path, [make_record(make_card("a"))])
    app = open_app(tmp_path, arch="WideResNet-0")
    assert "leave no model that is measured here" in app.info[0].value
    assert columns(app, "status") == [[MARK]]


# ---------------------------------------------------------------- bars


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=20))
def test_bars_share_an_axis_and_stay_on_it(counts: list[tuple[int, int]]) -> None:
    intervals = [wilson(min(right, n), n) for right, n in counts]
    ends = bars.axis(intervals)
    assert 0 <= ends[0] < ends[1] <= 1
    assert max(interval.high for interval in intervals) <= ends[1] + 1e-9
    for interval, perturbed in zip(intervals, [True, False, None] * 20, strict=False):
        address = bars.bar(interval, ends, perturbed=perturbed)
        picture = ElementTree.fromstring(unquote(address.removeprefix("data:image/svg+xml,")))
        line = picture[1].attrib["d"]
        low, high = (float(x) for x in re.findall(r"[\d.]+", line)[::2])
        assert 0 <= low <= high <= float(picture.attrib["width"])
    best = max(intervals, key=lambda i: i.estimate)
    assert ends[0] <= best.low + 1e-9


# ---------------------------------------------------------------- did AWP help


def test_the_sentence_over_all_methods_also_says_no(tmp_path: Path) -> None:
    said = {}
    for name, gain in (("up", 0.1), ("none", 0.0), ("down", -0.1)):
        for seed in range(3):
            write_all(tmp_path / name, matched_pair(seed, "best", gain=gain, n=400))
        methods = pairs.methods(table.build(tmp_path / name).groups[0])
        said[name] = awp.overall(methods)
    assert said["up"] == "Best against best: AWP helped in these runs."
    assert said["down"] == "Best against best: AWP hurt in these runs."
    assert "no effect shown" in said["none"] or "too few" in said["none"]
    assert "no method can be judged" in awp.overall([])


def test_the_page_about_awp_lists_every_method_and_pair(open_app: Open, tmp_path: Path) -> None:
    for seed in range(2):
        for kept in ("best", "last"):
            write_all(tmp_path, matched_pair(seed, kept))
    app = open_app(tmp_path, "awp")
    page = html(app)
    assert "Demo data" in page
    assert "includes robust overfitting" in page
    by_method, by_pair = app.dataframe[0].value, app.dataframe[1].value
    assert list(by_method["method"]) == ["AT-AWP − AT, best", "AT-AWP − AT, last"]
    assert len(by_pair) == 4
    (group,) = table.build(tmp_path).groups
    best, last = pairs.methods(group)
    assert by_method["worst case"][0].startswith(
        f"{100 * best.differences[WORST_CASE].estimate:+.1f}"
    )
    chosen = open_app(tmp_path, "awp", compared="AT-AWP − AT, last")
    assert chosen.selectbox(key="compared").value == "AT-AWP − AT, last"
    assert last.name == "AT-AWP"
    assert "None in this table" in page  # no stronger control


def test_without_pairs_the_page_about_awp_says_what_to_do(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("alone"))])
    app = open_app(tmp_path, "awp")
    assert "nothing can be said yet" in html(app)
    assert "make train-all" in app.code[0].value


def with_controls(seeds: int) -> list[EvaluationRecord]:
    """Pairs, and for each AWP model a control of its compute."""
    found = []
    for seed in range(seeds):
        vanilla, perturbed = matched_pair(seed)
        assert vanilla.card.train is not None
        train = vanilla.card.train.model_copy(update={"recipe": "equal-compute", "epochs": 220})
        card = make_card(
            f"digits-at-equal-compute-seed{seed}-last",
            train=TrainConfig.model_validate(train.model_dump()),
            seed=seed,
            control_of=perturbed.card.name,
        )
        found += [vanilla, perturbed, make_record(card, robust=0.53)]
    return found


def test_controls_are_gathered_over_seeds_and_compared_as_twins_are(tmp_path: Path) -> None:
    write_all(tmp_path, with_controls(3))
    (group,) = table.build(tmp_path).groups
    (control,) = controls(group)
    assert control.recipe == "equal-compute"
    assert control.method.seeds == 3
    assert [p.vanilla.card.control_of for p in control.method.pairs] == [
        p.awp.card.name for p in control.method.pairs
    ]
    for pair in control.method.pairs:
        expected = compare_paired(pair.awp.standing[WORST_CASE], pair.vanilla.standing[WORST_CASE])
        assert pair.comparisons[WORST_CASE] == expected
    assert control.sentence().startswith("Against equal-compute")
    assert [m.seeds for m in pairs.methods(group)] == [3]  # twins are still the twins


def test_a_control_of_nothing_is_no_control(tmp_path: Path) -> None:
    records = [r for r in with_controls(1) if r.card.awp is None]
    write_all(tmp_path, records)
    assert controls(table.build(tmp_path).groups[0]) == ()


def test_the_page_about_awp_shows_controls(open_app: Open, tmp_path: Path) -> None:
    write_all(tmp_path, with_controls(2))
    app = open_app(tmp_path, "awp")
    assert "Against equal-compute" in html(app)
    assert any("equal-compute" in str(name) for names in columns(app, "twin") for name in names)


# ---------------------------------------------------------------- studies


def test_a_study_is_shown_as_harmless_html() -> None:
    text = (
        f"# name\n\nWhat **is** it? {HOSTILE}\n\n| a | b |\n| --- | --- |\n| 1 | <b>2</b> |\n- x\n"
    )
    shown = str(studies.as_html(text))
    tags = set(re.findall(r"<\s*(\w+)", shown))
    assert tags == {"div", "h4", "p", "table", "tr", "th", "td", "ul", "li"}
    assert "\u202e" not in shown
    assert "<th>a</th><th>b</th>" in shown
    assert "<td>1</td><td>&lt;b&gt;2&lt;/b&gt;</td>" in shown
    assert len(shown) < 4000


def test_studies_are_listed_where_there_are_some(open_app: Open, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "digits-methods.md").write_text("# digits-methods\n\nDoes it help?\n")
    (tmp_path / "studies" / "broken.md").write_bytes(b"\xff\xfe\x00")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path, "awp")
    assert "Does it help?" in html(app)
    assert [e.label for e in app.expander if "digits methods" in e.label or "digits-m" in e.label]


# ---------------------------------------------------------------- one model


def test_two_models_are_compared_on_the_same_images(open_app: Open, tmp_path: Path) -> None:
    records = matched_pair(0)
    write_all(tmp_path, records)
    (group,) = table.build(tmp_path).groups
    a, b = group.rows
    app = open_app(tmp_path, "model", name=a.card.name, versus=b.card.name)
    shown = next(f.value for f in app.dataframe if "only this" in f.value)
    expected = comparison.compare(a, b, group.measures)
    assert list(shown["only this"]) == [c.only_a for c in expected.values()]
    assert list(shown["neither"]) == [c.neither for c in expected.values()]
    assert expected[WORST_CASE] == compare_paired(a.standing[WORST_CASE], b.standing[WORST_CASE])
    wrong = open_app(tmp_path, "model", name=a.card.name, versus="nobody", column="nothing")
    assert {"model that is not in this table", "column that this table"} <= {
        said for said in ("model that is not in this table", "column that this table")
        if any(said in info.value for info in wrong.info)
    }  # fmt: skip


def test_answers_under_attack_are_those_of_the_record() -> None:
    record = make_record(make_card("a"), n=300)
    for column in record.columns:
        answered = confusions.answers(record, column)
        counts = confusions.confusion(record.label_array, answered, 10)
        assert counts.sum() == record.n
        assert np.trace(counts) == record.standing(column).sum()
        assert list(counts.sum(axis=1)) == list(np.bincount(record.label_array, minlength=10))


def test_the_security_curve_meets_the_record_at_its_radius(open_app: Open, tmp_path: Path) -> None:
    record = make_record(make_card("a"), protocol="curve")
    assert security.distances(record) is None
    stands = record.worst_case_standing
    near = np.where(stands, 0.2, 0.1) * record.clean_correct
    column = record.columns["curve"].model_copy(update={"distances": pack_floats(near)})
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    measured = with_id({**fields, "columns": {**record.columns, "curve": column}})
    found = security.distances(measured)
    assert found is not None
    line = security.figure(measured, found).data[-1]
    at = {round(x, 6): y for x, y in zip(line.x, line.y, strict=True)}
    assert at[0.0] == pytest.approx(100 * measured.clean_accuracy)
    assert at[0.15] == pytest.approx(100 * measured.worst_case)
    assert all(a >= b for a, b in pairwise(line.y))
    write_all(tmp_path, [measured])
    app = open_app(tmp_path, "model", name="a")
    assert "upper bound at every radius" in html(app)


def with_evidence(root: Path) -> tuple[EvaluationRecord, Path, np.ndarray]:
    """A record on the first real digits, with evidence of its FGSM column, and those images."""
    images, labels = gallery._digits()
    images, labels = images[:60], labels[:60]
    record = make_record(make_card("a"), n=60)
    right = record.clean_correct
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    fields |= {
        "labels": pack_ints(labels),
        "clean_predictions": pack_ints(np.where(right, labels, (labels + 1) % 10)),
        "examples_sha256": gallery._sha256(images, labels),
    }
    broken = np.flatnonzero(record.adversarial_predictions("fgsm") >= 0).astype(np.int32)
    steps = np.full((len(broken) - 1, 1, 8, 8), 127, dtype=np.int8)
    scale = np.full(len(steps), 0.15 / 127, dtype=np.float32)
    adversarial = (images[broken] + np.float32(0.15)).clip(0, 1)
    (path,) = write_all(root, [with_id(fields)])
    evidence = path.with_suffix(".evidence.npz")
    np.savez_compressed(
        evidence,
        **{"fgsm/index": broken, "fgsm/steps": steps, "fgsm/scale": scale},
        **{"fgsm/exact": adversarial[-1:]},
    )
    path.unlink()
    record = with_id({**fields, "evidence_sha256": sha256_of(evidence)})
    (path,) = write_all(root, [record])
    return record, path, adversarial


def test_the_gallery_decodes_what_the_evidence_holds(open_app: Open, tmp_path: Path) -> None:
    record, path, adversarial = with_evidence(tmp_path)
    evidence = path.with_suffix(".evidence.npz")
    found = gallery.read_examples(evidence, "fgsm", record, most=1000)
    assert not isinstance(found, str)
    broken = np.flatnonzero(record.adversarial_predictions("fgsm") >= 0)
    assert sorted(e.index for e in found) == list(broken)
    for example in found:
        assert example.adversarial == pytest.approx(
            adversarial[list(broken).index(example.index)], abs=1e-6
        )
        assert np.abs(example.adversarial - example.clean).max() <= 0.15 + 1e-6
        assert example.after == record.adversarial_predictions("fgsm")[example.index]
        assert example.label == record.label_array[example.index]
    classes = [example.label for example in found]
    first = len(set(classes))
    assert len(set(classes[:first])) == first  # every class once before any twice
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert len(app.get("image")) == 3 * 6
    assert "python -m bench verify" in html(app)


def test_other_evidence_than_the_record_names_is_not_shown(open_app: Open, tmp_path: Path) -> None:
    record, path, _ = with_evidence(tmp_path)
    evidence = path.with_suffix(".evidence.npz")
    other = record.model_copy(update={"evidence_sha256": sha("other")})
    assert "not the one that it names" in str(gallery.read_examples(evidence, "fgsm", other))
    assert "cannot be read" in str(gallery.read_examples(evidence, "cw", record))
    evidence.write_bytes(b"PK\x03\x04 not an archive")
    broken = record.model_copy(update={"evidence_sha256": sha256_of(evidence)})
    assert "cannot be read" in str(gallery.read_examples(evidence, "fgsm", broken))
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert "not the one that it names" in html(app)


def test_every_attack_has_its_line_in_the_order_of_the_columns(tmp_path: Path) -> None:
    write_all(tmp_path, [make_record(make_card("a"))])
    (group,) = table.build(tmp_path).groups
    record = group.rows[0].record.whole
    shown = withstood.attack_table(group, record).to_pydict()
    assert shown["attack"] == ["fgsm", "pgd", "pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert [a - b for a, b in zip(shown["attacked"], shown["broken"], strict=True)][-1] == int(
        record.standing("autoattack").sum()
    )


# ---------------------------------------------------------------- trade-offs

coordinates = st.integers(0, 12).map(float)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=30), st.booleans())
def test_nothing_beats_the_front_and_it_beats_everything_else(
    drawn: list[tuple[float, float]], more_is_better: bool
) -> None:
    points = [Point(x, y, str(k), None, k, None) for k, (x, y) in enumerate(drawn)]

    def beats(a: Point, b: Point) -> bool:
        as_good = (a.x >= b.x if more_is_better else a.x <= b.x) and a.y >= b.y
        return as_good and (a.x, a.y) != (b.x, b.y)

    kept = front(points, more_is_better=more_is_better)
    expected = [p for p in points if not any(beats(q, p) for q in points)]
    assert sorted(kept, key=lambda p: p.place) == expected


def test_trade_offs_show_ours_and_the_published(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, "One", dataset="digits", eps="0.15")
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path, "tradeoffs")
    assert len(app.get("plotly_chart")) == 1
    page = html(app)
    assert "On the front" in [h.value for h in app.header]
    assert "name=digits-at" in page
    for axis in ("parameters", "evaluation, passes an image", "evaluation, seconds"):
        shown = open_app(tmp_path, "tradeoffs", against=axis)
        assert shown.selectbox(key="against").value == axis
        assert len(shown.get("plotly_chart")) == 1
    nothing = open_app(tmp_path, "tradeoffs", against="training, seconds")
    assert "nothing to draw" in nothing.info[0].value
    assert len(open_app(tmp_path, "tradeoffs", against="colour").info) == 1


# ---------------------------------------------------------------- every page


@pytest.mark.parametrize("page", ["", "awp", "model", "tradeoffs", "measured"])
def test_a_page_that_raises_tells_the_visitor_kindly_and_the_operator_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path, matched_pair(0))
    monkeypatch.setattr("streamlit.title", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("bench.board.article.title", lambda *a, **k: 1 / 0)
    monkeypatch.setattr("sys.argv", ["app.py", "--results", str(tmp_path)])
    app = AppTest.from_file(Path(__file__).parents[1] / "app.py", default_timeout=20)
    app.run()
    if page:
        app.switch_page(f"bench/board/{page}.py").run()
    assert not app.exception
    assert "could not be shown" in app.error[0].value
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert "ZeroDivisionError" not in html(app) + app.error[0].value


@pytest.mark.parametrize("page", ["", "awp", "model", "tradeoffs", "measured"])
def test_hostile_cards_are_text_on_every_page(open_app: Open, tmp_path: Path, page: str) -> None:
    text = HOSTILE[:2000]
    common = {"arch": text, "authors": text, "licence": text, "link": "javascript:alert(4)"}
    vanilla = make_card("a-last", **common)
    perturbed = make_card("a-awp-last", awp=AwpConfig(gamma=0.01), pair="a-last", **common)
    write_all(tmp_path, [make_record(vanilla), make_record(perturbed, robust=0.7)])
    app = open_app(tmp_path, page, **({"name": "a-last"} if page == "model" else {}))
    shown = html(app)
    assert not set(re.findall(r"<\s*(\w+)", shown)) & {"script", "img", "iframe", "svg", "object"}
    assert not re.search(r"""href\s*=\s*["']?\s*javascript""", shown)
    assert "\u202e" not in shown


def test_a_phone_lists_no_more_than_it_can_bear(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(MOST_ON_A_PHONE + 5)))
    page = html(open_app(tmp_path))
    assert page.count("<li>") == MOST_ON_A_PHONE
    assert "and 5 more" in page


def test_an_interval_is_drawn_without_rows() -> None:
    assert bars.axis([]) == (0.0, 1.0)
    assert bars.heading((0.2, 0.75)) == "20 – 75 %"
    assert "svg" in bars.bar(Interval(0.01, 0.0, 0.02), (0.5, 0.7), perturbed=True)


def test_another_page_shows_the_table_chosen_before(open_app: Open, tmp_path: Path) -> None:
    publish(tmp_path, *(f"Model{k}" for k in range(20)))
    write_all(tmp_path, matched_pair(0))
    app = open_app(tmp_path)
    assert app.selectbox(key="dataset").value == "cifar10"
    checked(app.selectbox(key="dataset").select("digits").run())
    checked(app.switch_page("bench/board/tradeoffs.py").run())
    assert app.selectbox(key="dataset").value == "digits"
    assert "Demo data" in html(app)
