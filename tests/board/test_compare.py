"""The page that compares: by its address, by name, and what it shows of two rows of one table."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from bench import digits_split, table
from bench.board import gallery, pictures
from bench.board.article import measurement_label
from bench.notation import points_interval
from bench.schema import EvaluationRecord
from bench.schema.packing import pack_ints
from bench.stats.intervals import compare_paired
from bench.table import WORST_CASE, Group
from tests.board.board_pages import Open, html
from tests.board.board_records import make_card, make_record, matched_pair, with_id, write_all

A, B = "digits-at-awp-seed0-last", "digits-at-seed0-last"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two tables: three seeds of a method with its twin and another network; and a pair elsewhere."""
    records = [
        r for seed, gain in enumerate((0.03, 0.05, 0.02)) for r in matched_pair(seed, gain=gain)
    ]
    other = make_record(make_card("stranger", train=None, seed=None), robust=0.3)
    elsewhere = matched_pair(0, dataset="fashion_mnist", threat="linf:0.1")
    write_all(tmp_path, [*records, other, *elsewhere])
    return tmp_path


def group_of(root: Path) -> Group:
    return next(group for group in table.build(root).groups if group.dataset == "digits")


def chosen(app: AppTest) -> list[str]:
    return list(app.multiselect(key="row").value)


@pytest.mark.parametrize(
    "word", ["row", "model"]
)  # "method" too, but AppTest passes another page first
@pytest.mark.parametrize("names", [(A, B), ("AT-AWP", "AT")])
def test_an_address_names_a_table_and_its_rows(
    open_app: Open, root: Path, word: str, names: tuple[str, str]
) -> None:
    label = measurement_label(group_of(root))
    app = open_app(root, "compare", measurement=label, **{word: list(names)})
    assert chosen(app) == list(names)
    assert app.selectbox(key="measurement").value == label
    assert f"{names[0]} minus {names[1]}" in html(app)
    assert "called" not in html(app)


def test_two_networks_have_the_numbers_of_their_bits(open_app: Open, root: Path) -> None:
    group = group_of(root)
    rows = {row.card.name: row for row in group.rows}
    paired = compare_paired(*(rows[name].standing[WORST_CASE] for name in (A, B)))
    app = open_app(root, "compare", measurement=measurement_label(group), row=[A, B])
    page = html(app)
    assert f"Worst case on 200 images: {points_interval(paired.difference)}" in page
    counts = (paired.both, paired.only_a, paired.only_b, paired.neither)
    cells = "".join(f"<td>{count}</td>" for count in counts)
    assert cells in page
    assert f"{paired.only_a} images that only {A} withstands" in page
    assert "as one comparison" in page
    # The fixture's images are nobody's: numbers, labels and answers are told, no picture is shown.
    assert "<img" not in page and re.search(r"image \d+: \d, taken for \d", page)


def test_three_rows_are_two_pairs_under_holm(open_app: Open, root: Path) -> None:
    label = measurement_label(group_of(root))
    app = open_app(root, "compare", measurement=label, row=[A, B, "stranger"])
    page = html(app)
    assert page.count("Holm over 2 pairs") == 2
    assert f"{A} minus {B}" in page and f"{A} minus stranger" in page
    app = open_app(root, "compare", measurement=label, row=["AT-AWP", "AT", "stranger"])
    page = html(app)
    assert "The verdict of this table, AT-AWP minus AT: " in page
    assert "compared over seeds that both have" in page  # of the method and the one network


def test_more_rows_than_fit_are_left_out_by_name(open_app: Open, root: Path) -> None:
    names = [f"digits-at{awp}-seed{seed}-last" for seed in range(3) for awp in ("", "-awp")]
    label = measurement_label(group_of(root))
    app = open_app(root, "compare", measurement=label, row=[*names, "stranger"])
    assert chosen(app) == names
    assert "left out: stranger." in html(app)


def test_without_an_address_it_opens_on_the_best_and_its_twin(open_app: Open, root: Path) -> None:
    app = open_app(root, "compare", measurement=measurement_label(group_of(root)))
    assert chosen(app) == ["AT-AWP", "AT"]
    app.selectbox(key="measurement").select_index(0).run()  # another table: its own best two
    assert not app.exception and len(chosen(app)) == 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("digits-at-awp-seed0-las", f"The nearest is {A}."),
        ("fashion_mnist-at-seed0-last", "is not in this table but in"),
        ("<b>zz</b>", "Nothing here is called &lt;b&gt;zz&lt;/b&gt;."),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(
    open_app: Open, root: Path, asked: str, told: str
) -> None:
    label = measurement_label(group_of(root))
    app = open_app(root, "compare", measurement=label, row=[B, asked])
    assert told in html(app)
    assert chosen(app) == [B]
    assert "two or more rows" in html(app)


def test_an_unknown_table_is_told_and_another_is_shown(open_app: Open, root: Path) -> None:
    label = measurement_label(group_of(root))
    app = open_app(root, "compare", measurement=label[:-1])
    assert f"The nearest is {label}." in html(app)
    assert len(chosen(app)) == 2


def test_images_are_shown_with_label_and_answer(open_app: Open, tmp_path: Path) -> None:
    images, labels = digits_split.read("test")
    split = "test[0:200]"
    sha256 = gallery.examples_sha256(images[:200], labels[:200])

    def real(record: EvaluationRecord) -> EvaluationRecord:
        fields = {name: getattr(record, name) for name in type(record).model_fields if name != "id"}
        wrong = np.where(record.clean_correct, labels[:200], (labels[:200] + 1) % 10)
        fields |= {"examples_sha256": sha256, "labels": pack_ints(labels[:200])}
        return with_id(fields | {"clean_predictions": pack_ints(wrong), "split": split})

    records = [real(record) for record in matched_pair(0)]
    write_all(tmp_path, records)
    (group,) = table.build(tmp_path).groups
    app = open_app(tmp_path, "compare", measurement=measurement_label(group), row=[A, B])
    page = html(app)
    found = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="image (\d+): (\d), ', page)
    assert 0 < len(found) <= 24
    assert all(int(label) == labels[int(place)] for place, label in found)
    assert "Clean images. Numbers count from 0 in test[0:200]." in page


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_picture_is_its_pixels(channels: int) -> None:
    picture = np.linspace(0, 1, channels * 12, dtype=np.float32).reshape(channels, 3, 4)
    address = pictures.address(picture)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
    wanted = picture.mean(axis=0) if channels == 2 else picture[0]
    assert shown.shape[:2] == (3, 4)
    first = shown if shown.ndim == 2 else shown[..., 0]
    assert np.abs(first / 255 - wanted).max() <= 1 / 255
