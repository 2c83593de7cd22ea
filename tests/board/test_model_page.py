"""The page of a model: how it is found, its numbers, how to load it, its images, models of others."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch

from bench import datasets, digits_split, table
from bench.__main__ import main
from bench.board import charts, gallery
from bench.board.article import measurement_label
from bench.gap import NAME
from bench.notation import points_interval
from bench.published import LIKELY, MARK, files
from bench.readers import idx
from bench.records import store
from bench.records.reproduce import import_first, in_python, reproduce, weights_note
from bench.records.store import pretty_json, sha256_of
from bench.schema import EvaluationRecord
from bench.schema.packing import pack_floats, pack_ints
from bench.sources.checkpoint import load
from bench.stats import contrasts
from bench.table import WORST_CASE
from tests.board.board_pages import Open, checked, headers, html
from tests.board.board_records import (
    a_gap,
    make_card,
    make_record,
    matched_pair,
    prove,
    publish,
    sha,
    with_id,
    write_all,
    write_curve,
)


def test_it_shows_where_numbers_come_from(open_app: Open, tmp_path: Path) -> None:
    vanilla, awp = matched_pair(0, "best", split="test[1000:1200]", environment={"batch": "256"})
    column = awp.columns["fgsm"].model_copy(update={"distances": pack_floats(np.ones(awp.n))})
    columns = {**awp.columns, "fgsm": column}
    paths = write_all(tmp_path, [vanilla, awp.model_copy(update={"columns": columns})])
    write_curve(paths[1].parent)
    (paths[0].parent / "weights.safetensors").write_bytes(b"")
    app = open_app(tmp_path, "model", name=awp.card.name)
    record = store.read(paths[1])
    page = html(app)
    for text in (
        f'<h1 class="board-title">{awp.card.name}</h1>',
        record.id,
        record.card.weights_sha256,
        record.examples_sha256,
        "best (83 of 100)",
        f"name={vanilla.card.name}",  # a link to the twin
        "upper bound at every radius",
    ):
        assert text in page
    command = next(code.value for code in app.code if "bench evaluate" in code.value)
    said = "--dataset digits --split 'test[1000:1200]' --threat linf:0.15 --protocol standard"
    assert f"bench evaluate var/checkpoints/{awp.card.name} {said} --n 200 --seed 0" in command
    assert "--batch 256" in command
    assert len(app.get("plotly_chart")) == 5  # attacks, radii, classes, confusion, training
    after_each = app.dataframe[0].value
    steps = ["fgsm", "pgd", "pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(after_each["attack"]) == steps
    left = after_each["attacked"] - after_each["broken"]
    assert list(left)[-1] == record.standing("autoattack").sum()
    each = after_each["attacked"] * 40 / left  # the fixture's attacks go 20 times there and back
    assert list(after_each["passes a standing image"]) == [round(one) for one in each]
    each_way = 20 * int(after_each["attacked"].sum())
    assert f"<span>passes an image</span><b>{2 * each_way / record.n:,.0f}</b>" in page
    said = f"{each_way / record.n:,.0f} forward + {each_way / record.n:,.0f} backward"
    whole = 2 * each_way / record.worst_case_count
    assert f"{said}, {whole:,.0f} a standing image, 42 s" in page
    app = open_app(tmp_path, "model", name=vanilla.card.name)
    command = next(code.value for code in app.code if "bench evaluate" in code.value)
    assert str(paths[0].parent) in command  # where its weights are


def test_history_keeps_withdrawn_and_superseded_records(open_app: Open, tmp_path: Path) -> None:
    card = make_card("a")
    records = [make_record(card, seed=seed) for seed in range(3)]
    paths = write_all(tmp_path, [*records, make_record(make_card("b"), failure="NaN logits")])
    prove(tmp_path, *records)
    store.withdraw(paths[0], "wrong eps")
    app = open_app(tmp_path, "model", name="a")
    history = app.dataframe[-1].value.set_index("record")["state"]
    said = ["withdrawn: wrong eps", "in the table", "another record speaks for the model"]
    assert [history[record.id] for record in records] == said
    app = open_app(tmp_path, "model", name="b")
    assert "in no table" in app.info[0].value
    assert list(app.dataframe[0].value["state"]) == ["failed: NaN logits"]


def test_a_model_in_two_tables_can_be_switched(open_app: Open, recorded: Path) -> None:
    name, measurement = "digits-at-seed0-last", "digits linf:0.15 gradient n=1000"
    app = open_app(recorded, "model", name=name, measurement=measurement)
    assert app.selectbox(key="measurement").value == measurement
    page = html(app).replace("&amp;", "&")
    assert "Measured on digits, linf:0.15, gradient" in page
    assert "./?dataset=digits&threat=linf%3A0.15&protocol=gradient" in page
    app = open_app(recorded, "model", name=name, measurement="nonsense")
    assert "no such measurement" in app.info[0].value


def test_a_name_means_the_known_row(open_app: Open, tmp_path: Path) -> None:
    """Also where another of the name stands above it and is newer: its page is one choice further."""
    records = matched_pair(0)
    awp, other = (record.card for record in records[::-1])
    forged = make_record(
        awp.model_copy(update={"weights_sha256": sha("x")}), robust=0.9, created="2099"
    )
    write_all(tmp_path, [*records, forged])
    prove(tmp_path, *records, how="measured")
    (group,) = table.build(tmp_path).groups
    measurement = measurement_label(group)
    app = open_app(tmp_path, "model", name=awp.name, measurement=measurement)
    assert records[1].id in html(app) and forged.id not in html(app)
    assert app.selectbox(key="measurement").options == [
        measurement, f"{measurement} record={forged.id}"
    ]  # fmt: skip


def linked(page: str, text: str) -> dict[str, list[str]]:
    """What the address of the link with a text says."""
    (address,) = re.findall(rf'href="compare\?([^"]*)"[^>]*>{re.escape(text)}</a>', page)
    return parse_qs(unescape(address))


def test_it_leads_to_the_page_that_compares(open_app: Open, tmp_path: Path) -> None:
    """A twin in a sentence; any other model by choice, which old addresses made with `versus`."""
    write_all(tmp_path, [*matched_pair(0), make_record(make_card("third"))])
    (group,) = table.build(tmp_path).groups
    (pair,) = contrasts.pairs(group)
    vanilla, awp = pair.vanilla.card.name, pair.awp.card.name
    for name in (awp, vanilla):
        app = open_app(tmp_path, "model", name=name)
        page = html(app)
        worst = pair.comparisons[WORST_CASE]
        assert f"<strong>{points_interval(worst.difference)}</strong>" in page
        asked = {"measurement": [measurement_label(group)], "row": [awp, vanilla]}
        assert linked(page, "compare the two image by image") == asked
        assert "Compare with" not in page  # nothing chosen yet: no link
        checked(app.selectbox(key="versus").select("third").run())
        asked["row"] = [name, "third"]
        assert linked(html(app), "Compare with third") == asked
    old = open_app(tmp_path, "model", name=awp, versus=vanilla)
    assert linked(html(old), f"Compare with {vanilla}")["row"] == [awp, vanilla]
    checked(old.switch_page("bench/board/compare.py").run())
    wrong = open_app(tmp_path, "model", name=awp, versus="nobody", column="nothing")
    said = " ".join(info.value for info in wrong.info)
    assert "model that is not in this table" in said
    assert "column that this table does not have" in said


# ---------------------------------------------------------------- finding a model


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


def test_every_block_of_the_style_sheet_is_closed() -> None:
    """A brace that a merge loses takes what follows into a block for phones."""
    text = Path(gallery.__file__).with_name("style.css").read_text()
    depth = 0
    for line in text.splitlines():
        assert depth == 0 or not line.startswith(("@media", "/* ----")), line
        depth += line.count("{") - line.count("}")
    assert depth == 0


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


# ---------------------------------------------------------------- loading it

COMMITTED = Path("results/digits/linf-0.15/digits-at-awp-s0-best")


def test_the_line_for_committed_weights_runs(open_app: Open, tmp_path: Path) -> None:
    """On 20 images, by the protocol of gradients; the network answers as its record says."""
    folder = tmp_path.joinpath(*COMMITTED.parts)
    shutil.copytree(COMMITTED, folder)
    app = open_app(tmp_path / "results", "model", name=COMMITTED.name)
    line = next(code.value for code in app.code if "load_model" in code.value)
    path = folder / "05d1b9d28525f2d8.json"
    record = store.read(path)
    assert line == in_python(record, path)
    asked = (f"load_model('{folder}')", "load('digits', n=1000)", "protocol='standard'")
    assert all(text in line for text in asked)
    found = run_line(line.replace("n=1000", "n=20").replace("'standard'", "'gradient'"))
    assert (found.n, found.threat) == (20, record.threat)
    assert (found.clean_prediction_array == record.clean_prediction_array[:20]).all()
    for column in ("fgsm", "pgd20", "cw"):
        assert abs(found.standing(column).sum() - record.standing(column)[:20].sum()) <= 1


def run_line(code: str) -> EvaluationRecord:
    """What the last line of some Python gives."""
    *before, last = code.splitlines()
    names: dict[str, object] = {}
    exec("\n".join(before), names)
    found = eval(last, names)
    assert isinstance(found, EvaluationRecord)
    return found


@pytest.mark.parametrize(
    ("fields", "expected", "note"),
    [
        ({}, "load_model('var/checkpoints/a')", "weights are not here: sha256"),
        (
            {"link": "robustbench:cifar10/Linf/One2024"},
            "zoo.load('robustbench:cifar10/Linf/One2024')[0]",
            "zoo has the weights",
        ),
        (
            {"file_sha256": sha("file"), "link": "https://example.org/it.pt"},
            "foreign('FILE', arch='small_cnn', dataset='digits', name='a'",
            f"https://example.org/it.pt, sha256 {sha('file')}",
        ),
    ],
)
def test_the_line_says_where_other_weights_come_from(
    fields: dict[str, str], expected: str, note: str
) -> None:
    record = make_record(make_card("a", **fields), split="test[200:400]", seed=3)
    path = Path("nowhere/x.json")
    line = in_python(record, path)
    compile(line, "line", "exec")
    assert expected in line
    assert "load('digits', 'test[200:400]', n=200), threat='linf:0.15'" in line
    assert line.endswith("protocol='standard', seed=3)")
    assert note in weights_note(record, path)


def test_the_line_for_a_file_of_others_runs(tmp_path: Path) -> None:
    model, card = load(COMMITTED)
    torch.save(model.net.state_dict(), tmp_path / "it.pt")
    card = card.model_copy(update={"file_sha256": sha("file")})
    record = make_record(card, protocol="gradient", n=4)
    line = in_python(record, tmp_path / "x.json")
    found = run_line(line.replace("'FILE'", repr(str(tmp_path / "it.pt"))))
    command = import_first(record, tmp_path / "x.json").replace("FILE", str(tmp_path / "it.pt"))
    _, _, _, *words = shlex.split(command)
    with contextlib.chdir(tmp_path):
        assert main(words) == 0
    _, imported = load(tmp_path / "var" / "checkpoints" / card.name)
    assert imported.weights_sha256 == card.weights_sha256
    assert f"var/checkpoints/{card.name}" in reproduce(record, tmp_path / "x.json")
    digits = datasets.load("digits", n=4)
    assert (found.clean_prediction_array == model(digits.x).argmax(1).numpy()).all()


# ---------------------------------------------------------------- the security curve


@pytest.mark.parametrize(
    ("written", "known", "expected"),
    [
        ([{}], True, 0),
        ([{"threat": "linf:0.1"}, {}], True, 1),  # of two the one at the radius of the row
        ([{"threat": "linf:0.1"}], True, 0),
        ([{"split": "test[200:400]"}], True, None),  # other images
        ([{"threat": "l2:0.15"}], True, None),  # another norm
        ([{}], False, None),  # one that was handed in says nothing of a row measured here
        ([], True, None),
    ],
)
def test_a_curve_record_speaks_for_the_same_weights_and_images(
    open_app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    written: list[dict[str, Any]], known: bool, expected: int | None,
) -> None:  # fmt: skip
    row = make_record(make_card("a"))
    curves = [make_record(row.card, protocol="curve", **fields) for fields in written]
    other = make_record(make_card("b"), protocol="curve")
    write_all(tmp_path, [row, other, *curves])
    prove(tmp_path, row, other, *(curves if known else []), how="measured")
    drawn: list[str] = []
    monkeypatch.setattr(charts, "security_curve", lambda record: drawn.append(record.id))
    open_app(tmp_path, "model", name="a")  # which opens on the table, not on the curve
    assert drawn == [row.id if expected is None else curves[expected].id]


# ---------------------------------------------------------------- adversarial examples


@pytest.fixture
def shown(tmp_path: Path) -> tuple[EvaluationRecord, Path, np.ndarray]:
    """A record on the first real digits, with evidence of its FGSM column, and those images."""
    images, labels = (each[:60] for each in digits_split.read("test"))
    record = make_record(make_card("a"), n=60)
    right = record.clean_correct
    fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
    fields |= {
        "labels": pack_ints(labels),
        "clean_predictions": pack_ints(np.where(right, labels, (labels + 1) % 10)),
        "examples_sha256": gallery.examples_sha256(images, labels),
    }
    broken = np.flatnonzero(record.adversarial_predictions("fgsm") >= 0).astype(np.int32)
    steps = np.full((len(broken) - 1, 1, 8, 8), 127, dtype=np.int8)
    scale = np.full(len(steps), 0.15 / 127, dtype=np.float32)
    adversarial = (images[broken] + np.float32(0.15)).clip(0, 1)
    (path,) = write_all(tmp_path, [with_id(fields)])
    evidence = path.with_suffix(".evidence.npz")
    np.savez_compressed(
        evidence,
        **{"fgsm/index": broken, "fgsm/steps": steps, "fgsm/scale": scale},
        **{"fgsm/exact": adversarial[-1:]},
    )
    path.unlink()
    record = with_id({**fields, "evidence_sha256": sha256_of(evidence)})
    write_all(tmp_path, [record])
    return record, evidence, adversarial


def test_the_gallery_decodes_what_the_evidence_holds(
    open_app: Open, tmp_path: Path, shown: tuple[EvaluationRecord, Path, np.ndarray]
) -> None:
    record, evidence, adversarial = shown
    found = gallery.read_examples(evidence, "fgsm", record, most=1000)
    assert not isinstance(found, str)
    broken = list(np.flatnonzero(record.adversarial_predictions("fgsm") >= 0))
    assert sorted(e.index for e in found) == broken
    for example in found:
        expected = adversarial[broken.index(example.index)]
        assert example.adversarial == pytest.approx(expected, abs=1e-6)
        assert np.abs(example.adversarial - example.clean).max() <= 0.15 + 1e-6
        assert example.after == record.adversarial_predictions("fgsm")[example.index]
        assert example.label == record.label_array[example.index]
    classes = [example.label for example in found]
    first = len(set(classes))
    assert len(set(classes[:first])) == first  # every class once before any twice
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert len(app.get("image")) == 3 * 6
    assert any("python -m bench verify" in code.value for code in app.code)


def test_other_evidence_than_the_record_names_is_not_shown(
    open_app: Open, tmp_path: Path, shown: tuple[EvaluationRecord, Path, np.ndarray]
) -> None:
    record, evidence, _ = shown
    other = record.model_copy(update={"evidence_sha256": sha("other")})
    assert "not the one that it names" in str(gallery.read_examples(evidence, "fgsm", other))
    assert "cannot be read" in str(gallery.read_examples(evidence, "cw", record))
    evidence.write_bytes(b"PK\x03\x04 not an archive")
    broken = record.model_copy(update={"evidence_sha256": sha256_of(evidence)})
    assert "cannot be read" in str(gallery.read_examples(evidence, "fgsm", broken))
    app = open_app(tmp_path, "model", name="a", column="FGSM")
    assert "not the one that it names" in html(app)


@pytest.mark.parametrize(
    ("dataset", "first", "kept"),
    [("mnist", 0, 10), ("fashion_mnist", 0, 10), ("fashion_mnist-5to9", 5, 5)],
)
def test_the_clean_images_are_those_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, first: int, kept: int
) -> None:
    """By the hash in the record; other images, a damaged file or none give no picture at all."""
    name = dataset.split("-")[0]
    monkeypatch.setattr(idx, "DATA_ROOT", tmp_path)
    monkeypatch.setattr(idx, "DEBIAN", {})
    gallery.images_here.clear()
    blank = make_record(make_card("a", dataset=dataset, class_count=kept), n=4, split="test[1:5]")
    assert gallery.clean_images(blank) is None
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    (tmp_path / name).mkdir()
    for file, array in zip(idx.names("test"), (images, labels), strict=True):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4) for n in array.shape)
        (tmp_path / name / file).write_bytes(head + array.tobytes())
    gallery.images_here.clear()
    chosen = np.flatnonzero((labels >= first) & (labels < first + kept))[1:5]
    wanted = images[chosen][:, None]
    sha256 = gallery.examples_sha256(wanted, labels[chosen].astype(np.int64) - first)
    record = blank.model_copy(update={"examples_sha256": sha256})
    found = gallery.clean_images(record)
    assert found is not None and found.dtype == np.float32
    assert (found == wanted.astype(np.float32) / 255).all()
    assert gallery.clean_images(blank) is None  # which names other images
    (tmp_path / name / idx.names("test")[0]).write_bytes(b"damaged")
    gallery.images_here.clear()
    assert gallery.clean_images(record) is None
    gallery.images_here.clear()


# ---------------------------------------------------------------- training


def test_a_broken_gap_is_named_and_the_rest_shown(open_app: Open, tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [make_record(make_card("a"))])
    (path.parent / NAME).write_text('{"weights_sha256": "<script>"}')
    page = html(open_app(tmp_path, "model", name="a"))
    assert "is not a valid gap" in page
    assert "<script>" not in page


def test_a_gap_of_other_weights_is_not_shown(open_app: Open, tmp_path: Path) -> None:
    record = make_record(make_card("a"))
    (path,) = write_all(tmp_path, [record])
    other = a_gap(record.card).model_copy(update={"weights_sha256": sha("other")})
    (path.parent / NAME).write_text(pretty_json(other))
    assert "Training" not in headers(open_app(tmp_path, "model", name="a"))
