"""Two records are compared on the same images and attacks alone; every refusal says why."""

from __future__ import annotations

from typing import Any

import pytest

from bench.schema import AttackSpec, Column, InvalidInput, Protocol
from bench.stats.paired import common_measures, compare_records, remarks, why_not
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
