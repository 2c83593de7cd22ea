"""Figures of others: what they mean in images, and when they and a record cannot both be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bench.records import entry, store
from bench.reliability.figures import contradictions, sentence, short, stated
from bench.schema import Figure, ModelCard
from bench.schema.packing import pack_bits
from tests.board.board_records import make_card, make_record, sha

BALL = "linf:0.15"


def figure(what: str = "proven", **fields: Any) -> Figure:
    """One of 200 images of digits, under the threat of the records here."""
    given: dict[str, Any] = {"what": what, "n": 200, "dataset": "digits", "source": "a paper"}
    return Figure.model_validate(given | ({} if what == "clean" else {"threat": BALL}) | fields)


# ---------------------------------------------------------------- the noun


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        ({"count": 97}, (97, 97)),
        ({"share": "0.485"}, (97, 97)),
        ({"share": "0.942", "n": 10_000}, (9_415, 9_425)),
        ({"share": "0.9420", "n": 10_000}, (9_420, 9_420)),
        ({"share": "0.50"}, (99, 101)),
        ({"share": "0.5"}, (99, 101)),  # no share is read as coarser than a percent
        ({"share": "1"}, (199, 200)),
        ({"share": "0"}, (0, 1)),
        ({"share": "0.942", "n": None}, None),
        ({"count": 0}, (0, 0)),
        ({"count": 200}, (200, 200)),
    ],
)
def test_a_value_is_the_counts_that_it_was_rounded_from(value, counts):
    assert figure(**value).counts == counts


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "a count of n images, or a share"),
        ({"count": 97, "share": "0.485"}, "a count of n images, or a share"),
        ({"count": 97, "n": None}, "97 of no images"),
        ({"count": 201}, "201 of 200 images"),
        ({"count": -1}, "greater than or equal to 0"),
        ({"count": 0.5}, "valid integer"),
        ({"count": 10**30, "n": 10**30}, "10000000"),
        ({"count": 0, "n": 0}, "greater than or equal to 1"),
        ({"share": "0.333"}, "no whole number of 200 images"),
        *(({"share": text}, "pattern") for text in ("NaN", "Infinity", "1e-9", "-0.1", "1.1", "94.2%")),
        *(({"share": text}, "pattern") for text in ("0." + "9" * 10**6, "0.1\n", "٠.١", "", ".5")),
        ({"share": 0.485}, "valid string"),
        ({"count": 97, "threat": None}, "needs a threat"),
        ({"count": 97, "threat": "linf:8"}, "Did you mean 8/255"),
        ({"what": "clean", "count": 97, "threat": BALL}, "has no threat"),
        ({"count": 97, "attack": "PGD"}, "names no attack"),
        ({"what": "attacked", "count": 97, "attack": "a" * 101}, "at most 100"),
        ({"count": 97, "source": "  "}, "at least 1"),
        ({"count": 97, "source": "s" * 501}, "at most 500"),
        ({"count": 97, "dataset": "../x"}, "pattern"),
        ({"what": "robust", "count": 97}, "'clean', 'attacked' or 'proven'"),
        ({"count": 97, "kind": "x"}, "Extra inputs"),
        ({"count": 97, "examples_sha256": "A" * 64}, "pattern"),
    ],
)  # fmt: skip
def test_a_figure_that_cannot_be_is_refused(fields, said):
    with pytest.raises((ValidationError, ValueError), match=said):
        figure(**fields)


def test_a_card_without_figures_keeps_its_bytes_and_one_with_them_comes_back():
    plain = make_card()
    assert not {"figures", "file_sha256"} & json.loads(plain.model_dump_json()).keys()
    card = make_card(
        figures=(figure(count=97), figure("clean", share="0.95")), file_sha256="a" * 64
    )
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    with pytest.raises(ValidationError, match="at most 40"):
        make_card(figures=(figure(count=97),) * 41)
    assert make_record(card).id == make_record(plain).id  # a card is no part of the question


# ---------------------------------------------------------------- against a record


def judged(record: Any) -> list[tuple[int | None, str]]:
    """What was measured in each figure's place, and how the contradiction ends."""
    return [(each.measured, each.contradiction.rpartition(": ")[2]) for each in stated(record)]


OUTSIDE = "an adversarial image here is none, or the figure is not of this network"
WEAKER = "the attacks here are weaker"
OTHER = "other weights, normalisation or images"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (figure(count=120), (120, "")),
        (figure(count=119), (120, "")),
        (figure(count=121), (120, OUTSIDE)),
        (figure(share="0.605"), (120, OUTSIDE)),
        (figure(share="0.61"), (120, OUTSIDE)),
        (figure(share="0.60"), (120, "")),
        (figure("attacked", count=120), (120, "")),
        (figure("attacked", count=121), (120, "")),
        (figure("attacked", count=119, attack="PGD-20"), (120, WEAKER)),
        (figure("attacked", share="0.6"), (120, "")),
        (figure("clean", count=190), (190, "")),
        (figure("clean", share="0.95"), (190, "")),
        (figure("clean", count=189), (190, OTHER)),
        (figure("clean", count=191), (190, OTHER)),
        (figure(count=200, threat="linf:0.1"), (None, "")),
        (figure(count=200, threat="l2:0.15"), (None, "")),
        (figure(count=999, n=1000), (None, "")),
        (figure(share="1", n=None), (None, "")),
        (figure(count=200, dataset="mnist"), (None, "")),
        (figure(count=200, examples_sha256="0" * 64), (None, "")),
        (figure(count=121, examples_sha256=sha("digits test[0:200]")), (120, OUTSIDE)),
    ],
)
def test_a_figure_is_held_against_a_record_of_the_same_threat_and_images(said, answer):
    record = make_record(make_card(figures=(said,)), robust=0.6)
    assert record.worst_case_count == 120 and record.counts[0] == 190
    assert judged(record) == [answer]
    (found,) = stated(record)
    for text in (sentence(found), found.contradiction):
        assert "%" not in text


def test_of_several_figures_of_a_kind_the_sharpest_is_told():
    figures = [figure("attacked", count=k, source=f"s{k}") for k in (110, 90, 100, 150)]
    figures += [figure(count=k, source=f"s{k}") for k in (130, 140, 135, 20)]
    record = make_record(make_card(figures=tuple(figures)), robust=0.6)
    denied = [bool(each.contradiction) for each in stated(record)]
    assert denied == [True, True, True, False] * 2
    attacked, proven = contradictions(record)
    assert "leaves 90 of 200 (s90)" in attacked and "140 of 200 (s140)" in proven


def test_a_card_without_figures_is_held_against_nothing():
    assert stated(make_record()) == ()


def test_other_images_of_the_same_number_are_no_answer():
    card = make_card(figures=(figure(count=200), figure("clean", count=0)))
    assert judged(make_record(card, split="test[200:400]")) == [(None, "")] * 2


def test_a_failed_record_is_no_answer():
    record = make_record(make_card(figures=(figure(count=200),)))
    failed = record.model_copy(update={"failure": "it raised", "columns": {}})
    assert judged(failed) == [(None, "")]


def test_of_several_columns_the_images_count_that_stand_under_all():
    """Each column alone leaves more images than all together."""
    record = make_record(robust=0.6, protocol="gradient")
    bits = record.standing("cw")
    bits[np.flatnonzero(record.worst_case_standing)[0]] = False
    bits[np.flatnonzero(record.clean_correct & ~bits)[-1]] = True
    last = record.columns["cw"].outcomes[-1].model_copy(update={"standing": pack_bits(bits)})
    cw = record.columns["cw"].model_copy(update={"outcomes": (last,)})
    record = record.model_copy(update={"columns": {**record.columns, "cw": cw}})
    least = record.worst_case_count
    assert least < min(record.counts[1:])
    figures = tuple(figure("attacked", count=count) for count in (least, least - 1))
    card = record.card.model_copy(update={"figures": figures})
    assert judged(record.model_copy(update={"card": card})) == [(least, ""), (least, WEAKER)]


def test_what_an_audit_broke_stands_no_more():
    record = make_record(
        make_card(figures=(figure(count=118), figure("attacked", count=117))),
        robust=0.6, protocol="fast", hits=3,
    )  # fmt: skip
    assert (record.worst_case_count, int(record.never_broken.sum())) == (120, 117)
    assert judged(record) == [(117, OUTSIDE), (117, "")]


def test_an_entry_of_a_table_says_what_its_record_says(tmp_path: Path):
    card = make_card(
        figures=(figure(count=121), figure("attacked", count=119, attack="a <b>\x1b[2J"))
    )
    record = make_record(card)
    found = stated(entry.read(store.write(record, tmp_path)))
    assert found == stated(record)
    assert contradictions(record) == (
        "120 of 200 images stand here, but 121 of 200 (a paper) are proven to: " + OUTSIDE,
        "120 of 200 images stand here, but a <b> [2J leaves 119 of 200 (a paper): " + WEAKER,
    )
    assert short(found) == "contradicted: proven ≥ 121; contradicted: attacked ≤ 119"
