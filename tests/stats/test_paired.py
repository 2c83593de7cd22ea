"""Two records are compared on the same images and attacks alone; every refusal says why."""

from __future__ import annotations

from typing import Any

import pytest

from bench.schema import AttackSpec, Column, InvalidInput, Protocol
from bench.stats.paired import (
    broken_by_each,
    common_measures,
    compare_records,
    remarks,
    why_not,
)
from bench.table import WORST_CASE
from tests.board.board_records import asked_by, make_card, make_record, sha, with_id


def record(name: str = "a", robust: float = 0.6, **fields: Any):
    return make_record(make_card(name), robust=robust, **fields)


def test_records_are_counted_on_the_same_images():
    a, b = record("a", 0.6), record("b", 0.5)
    found = compare_records(a, b)
    first, second = a.worst_case_standing, b.worst_case_standing
    assert (found.only_a, found.only_b) == ((first & ~second).sum(), (second & ~first).sum())
    assert found.difference.estimate == pytest.approx(0.1)
    assert compare_records(b, a).difference.low == pytest.approx(-found.difference.high, abs=1e-9)
    assert common_measures(a, b) == (WORST_CASE, "fgsm", "pgd20", "cw", "autoattack", "clean")
    assert compare_records(a, b, "clean").difference.estimate == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 100}, "n differs: 200 and 100 images"),
        ({"examples_sha256": sha("others")}, "the images differ"),
        ({"threat": "linf:0.1"}, "the threats differ: linf:0.15 and linf:0.1"),
        ({"protocol": "gradient"}, "protocol means other attacks"),
        ({"failure": "NaN"}, "a measurement that failed: NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(fields, reason):
    a, b = record("a"), record("b", **fields)
    assert reason in why_not(a, b)
    with pytest.raises(InvalidInput, match=f"a and b cannot be compared by worst_case: .*{reason}"):
        compare_records(a, b)
    assert reason.split(":")[0] in why_not(b, a)


def test_two_protocols_break_what_their_records_say():
    a, b = record("a", 0.6), record("a", 0.5, protocol="fast", seed=1)
    first, second = broken_by_each(a, b)
    assert (first == (a.clean_correct & b.clean_correct & ~a.worst_case_standing)).all()
    assert (second == (a.clean_correct & b.clean_correct & ~b.worst_case_standing)).all()
    assert first.sum() > 0 and second.sum() > 0
    assert not (first & ~b.clean_correct).any()  # an error unattacked is no protocol's doing


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("b", {}, "the networks differ: a .* and b"),
        ("a", {"protocol": "standard", "seed": 1}, "both records are of one protocol, standard"),
        ("a", {"n": 100}, "n differs: 200 and 100 images"),
        ("a", {"split": "test[200:400]"}, "the images differ"),
        ("a", {"threat": "linf:0.1"}, "the threats differ: linf:0.15 and linf:0.1"),
        ("a", {"protocol": "autoattack-rand"}, "the protocols judge differently"),
        ("a", {"failure": "NaN"}, "a measurement that failed: NaN"),
    ],
)
def test_what_shows_nothing_of_two_protocols_is_refused_with_the_reason(name, fields, reason):
    a, b = record("a"), record(name, **{"protocol": "fast", **fields})
    with pytest.raises(InvalidInput, match=reason):
        broken_by_each(a, b)
    with pytest.raises(InvalidInput, match=reason.split(":")[0]):
        broken_by_each(b, a)


def test_columns_of_one_name_and_other_attacks_are_refused():
    a = record("a")
    weak = Column(name="pgd20", attacks=(AttackSpec(name="pgd", params={"steps": 2}),))
    values = {name: getattr(a, name) for name in type(a).model_fields}
    b = asked_by(record("b"), Protocol(name="x", version=1, columns=(weak,)))
    assert "column pgd20 means other attacks" in why_not(a, b, "pgd20")
    assert f"record {b.id} has no column cw; it has pgd20" in why_not(a, b, "cw")
    assert common_measures(a, b) == ("clean",)
    loose = values | {"protocol": a.protocol.model_copy(update={"linf_tolerance": 0.1})}
    assert "judge differently" in why_not(a, with_id(loose), "cw")


def test_the_same_column_of_two_protocols_is_the_same_column():
    a, b = record("a"), record("b", protocol="gradient")
    assert common_measures(a, b) == ("fgsm", "pgd20", "cw", "clean")
    assert compare_records(a, b, "pgd20").n == 200


def test_another_engine_or_seed_is_said():
    a, b = record("a"), record("b", seed=3, engine="reference", engine_version="9")
    assert common_measures(a, b)
    assert remarks(a, b) == (
        "engine differs: ours and reference",
        "engine version differs: 0.1.0 and 9",
        "seed differs: 0 and 3",
    )
    assert remarks(a, a) == ()
