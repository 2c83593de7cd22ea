"""Threats, protocols, intervals: exact fractions, stable identities, known statistics."""

from __future__ import annotations

import base64
import math
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import optimize
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from bench.protocols import protocol
from bench.schema import AttackSpec, Column, EvaluationRecord, InvalidInput, ThreatModel, safe_name
from bench.schema.frozen import content_hash
from bench.schema.packing import pack_bits, pack_ints, unpack_bits, unpack_floats, unpack_ints
from bench.stats.intervals import compare_paired, mcnemar_exact, tango, wilson
from tests.board.board_records import make_record


@pytest.mark.parametrize(
    ("text", "shown", "folder"),
    [
        ("linf:8/255", "linf:8/255", "linf-8_255"),
        ("LINF:0.30", "linf:0.3", "linf-0.3"),
        ("l2:128/255", "l2:128/255", "l2-128_255"),
        ("l2:1/2", "l2:0.5", "l2-0.5"),
        ("l1:12", "l1:12", "l1-12"),
        ("linf:0.031", "linf:0.031", "linf-0.031"),
    ],
)
def test_threat_text(text, shown, folder):
    threat = ThreatModel.parse(text)
    assert str(threat) == shown
    assert threat.folder == folder
    assert ThreatModel.parse(str(threat)) == threat
    assert ThreatModel.model_validate_json(threat.model_dump_json()) == threat


@given(st.integers(1, 254))
def test_fractions_of_255_are_exact(k):
    threat = ThreatModel.parse(f"linf:{k}/255")
    assert ThreatModel.model_validate({"norm": "linf", "eps": k / 255}) == threat
    assert threat.fraction == Fraction(k, 255)
    assert threat.epsilon == k / 255


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linf:8", "Did you mean 8/255"),
        ("linf:-1/255", "positive"),
        ("linf:0", "positive"),
        ("l2:128", "Did you mean 128/255"),
        ("8/255", "norm:eps"),
        ("l3:1", "norm:eps"),
        ("linf:eight", "fraction"),
        ("linf:1/0", "fraction"),
        ("linf:1e999999999", "fraction"),
    ],
)
def test_wrong_threats_are_explained(text, words):
    with pytest.raises(InvalidInput, match=words):
        ThreatModel.parse(text)


def test_column_ids_name_what_is_measured():
    standard, gradient = protocol("standard"), protocol("gradient")
    ids = {c.name: c.column_id for c in standard.columns}
    assert all(ids[c.name] == c.column_id for c in gradient.columns)  # the same column
    assert len(set(ids.values())) == 4
    assert protocol("standard", norm="l2").columns[1].column_id != ids["pgd20"]
    few = {k: protocol("autoattack", classes=k).columns[0].column_id for k in (2, 3, 4, 9, 10, 100)}
    assert len({few[k] for k in (2, 3, 4, 9, 10)}) == 5
    assert few[10] == few[100]


def test_a_column_id_is_the_hash_of_its_attacks_however_often_it_is_asked():
    values = (1, 1.0, True, "1", "True", 0.1 + 0.2, 0.3)
    columns = [
        Column(name="x", attacks=(AttackSpec(name="pgd", params={"a": value}),)) for value in values
    ]
    for _ in range(2):
        ids = [column.column_id for column in columns]
        assert len(set(ids)) == len(values)
        assert ids == [
            content_hash([spec.model_dump(mode="json") for spec in column.attacks])[:12]
            for column in columns
        ]


@pytest.mark.parametrize("n", [5, 8, 13])
def test_a_record_that_contradicts_its_bits_is_refused(n):
    record = make_record(n=n, protocol="gradient").model_dump(mode="json")
    after = record["columns"]["cw"]["outcomes"][-1]
    bits = unpack_bits(after["standing"], n)
    # What fills the last byte says nothing.
    full = np.concatenate([bits, np.ones(-n % 8, dtype=bool)])
    after["standing"] = pack_bits(full)
    assert (EvaluationRecord.model_validate(record).standing("cw") == bits).all()
    for wrong in (~bits, np.ones(n, dtype=bool), np.zeros(n, dtype=bool), np.append(bits, [0] * 8)):
        after["standing"] = pack_bits(wrong)
        with pytest.raises(ValidationError, match="stands again|are not its bits|expected bits"):
            EvaluationRecord.model_validate(record)


def test_an_image_that_stands_again_is_refused_where_the_counts_agree():
    record = make_record(n=50, protocol="gradient")
    raw = record.model_dump(mode="json")
    bits = record.standing("cw").copy()
    bits[record.clean_correct.argmin()] = (
        True  # a clean error was never attacked, so none is broken
    )
    raw["columns"]["cw"]["outcomes"][-1]["standing"] = pack_bits(bits)
    with pytest.raises(ValidationError, match="cw: an image stands again"):
        EvaluationRecord.model_validate(raw)


def test_a_column_without_an_attack_is_refused():
    record = make_record(n=5, protocol="gradient").model_dump(mode="json")
    empty = Column(name="cw", attacks=())
    record["protocol"]["columns"][-1] = empty.model_dump(mode="json")
    record["columns"]["cw"] = {"column_id": empty.column_id, "outcomes": []}
    with pytest.raises(ValidationError, match="cw: no attack ran"):
        EvaluationRecord.model_validate(record)


def test_l1_is_refused_where_columns_are_not_defined():
    with pytest.raises(InvalidInput, match="Under l1 use the protocol autoattack"):
        protocol("standard", norm="l1")
    assert protocol("autoattack", norm="l1").columns[0].attacks[0].params["restarts"] == 5


def test_unknown_protocol_suggests_and_one_class_is_refused():
    with pytest.raises(InvalidInput, match="Did you mean 'standard'"):
        protocol("standrad")
    with pytest.raises(InvalidInput, match="at least 2 classes"):
        protocol("standard", classes=1)


@given(st.lists(st.booleans(), max_size=70))
def test_bits_round_trip(bits):
    assert unpack_bits(pack_bits(np.array(bits, dtype=bool)), len(bits)).tolist() == bits


@given(st.lists(st.integers(0, 65535), max_size=70))
def test_ints_round_trip(values):
    assert unpack_ints(pack_ints(np.array(values, dtype=int)), len(values)).tolist() == values


def test_packed_bytes_are_those_of_every_record_written_so_far():
    """A round trip would not see the other byte order."""
    assert (
        pack_bits(np.array([1, 0, 0, 0, 0, 0, 0, 1, 1])) == base64.b64encode(b"\x81\x80").decode()
    )
    ints, floats = (
        base64.b64encode(zlib.compress(raw)).decode() for raw in (b"\1\0\2\1", b"\0\0\0\x3f")
    )
    assert unpack_ints(ints, 2).tolist() == [1, 258]
    assert unpack_floats(floats, 1).tolist() == [0.5]


def test_packed_numbers_never_inflate_beyond_n():
    bomb = pack_ints(np.zeros(10_000_000, dtype=int))
    assert len(bomb) < 40_000
    with pytest.raises(ValueError, match="expected 10 packed numbers"):
        unpack_ints(bomb, 10)


@given(st.text(max_size=200))
def test_safe_name_is_a_valid_name(text):
    from pydantic import TypeAdapter

    from bench.schema import Name

    TypeAdapter(Name).validate_python("x" + safe_name(text)[:99])


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (140, 200), (1000, 1000)])
def test_wilson_equals_statsmodels(k, n):
    low, high = proportion_confint(k, n, method="wilson")
    ours = wilson(k, n)
    assert ours.low == pytest.approx(low, abs=1e-12)
    assert ours.high == pytest.approx(high, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (5, 1), (10, 5), (30, 31)])
def test_mcnemar_equals_statsmodels(a, b):
    expected = mcnemar([[50, a], [b, 50]], exact=True).pvalue if a + b else 1.0
    assert mcnemar_exact(a, b) == pytest.approx(min(1.0, expected))


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (9, 1, 30), (43, 0, 44), (5, 5, 60)])
def test_tango_ends_are_where_the_score_test_turns(b, c, n):
    """At each end the score statistic, with the likelihood maximised numerically, is 1.96."""

    def statistic(delta):
        def loss(q):  # P(only b) = q + delta, P(only c) = q
            p = np.array([q + delta, q, 1 - 2 * q - delta])
            return -np.sum(np.array([b, c, n - b - c]) * np.log(np.clip(p, 1e-300, None)))

        q = optimize.minimize_scalar(
            loss,
            bounds=(max(0, -delta), (1 - delta) / 2),
            method="bounded",
            options={"xatol": 1e-12},
        ).x
        return (b - c - n * delta) / math.sqrt(n * (2 * q + delta - delta**2))

    ours = tango(b, c, n)
    assert statistic(ours.low) == pytest.approx(1.95996, abs=1e-3)
    assert statistic(ours.high) == pytest.approx(-1.95996, abs=1e-3)


def test_tango_without_discordant_images():
    """The closed form z^2 / (n + z^2)."""
    z = 1.959964**2
    assert tango(0, 0, 54).high == pytest.approx(z / (54 + z), abs=1e-6)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
def test_tango_is_antisymmetric_and_contains_its_estimate(b, c, rest):
    n = b + c + rest
    if n == 0:
        return
    forth, back = tango(b, c, n), tango(c, b, n)
    assert forth.low - 1e-9 <= forth.estimate <= forth.high + 1e-9
    assert forth.low == pytest.approx(-back.high, abs=1e-6)
    assert -1 <= forth.low <= forth.high <= 1


def test_tango_covers():
    """2,000 simulated pairs: the 95 % interval holds the truth 93 to 97 times in a hundred."""
    rng, hits = np.random.default_rng(0), 0
    for b, c, _ in rng.multinomial(200, [0.10, 0.05, 0.85], size=2000):
        ours = tango(int(b), int(c), 200)
        hits += ours.low <= 0.05 <= ours.high
    assert 0.93 <= hits / 2000 <= 0.97


def test_paired_comparison_counts():
    a = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    b = np.array([1, 0, 0, 1, 0, 1], dtype=bool)
    found = compare_paired(a, b)
    assert (found.both, found.only_a, found.only_b, found.neither) == (2, 2, 1, 1)
    assert found.difference.estimate == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="same images"):
        compare_paired(a, b[:5])
