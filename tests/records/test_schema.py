"""Threats, columns and records: exact fractions, stable identities, bits that are not contradicted."""

from __future__ import annotations

import base64
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.protocols import protocol
from bench.schema import AttackSpec, Column, EvaluationRecord, InvalidInput, ThreatModel, safe_name
from bench.schema.frozen import content_hash
from bench.schema.packing import pack_bits, pack_ints, unpack_bits, unpack_floats, unpack_ints
from tests.board.board_records import make_record


@pytest.mark.parametrize(
    ("text", "shown", "folder"),
    [
        ("linf:8/255", "linf:8/255", "linf-8_255"),
        ("LINF:0.30", "linf:0.3", "linf-0.3"),
        ("l2:128/255", "l2:128/255", "l2-128_255"),
        ("l2:1/2", "l2:0.5", "l2-0.5"),
        ("l1:12", "l1:12", "l1-12"),
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


@pytest.mark.parametrize("n", [8, 13])
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


def test_unknown_protocol_suggests_and_one_class_is_refused():
    with pytest.raises(InvalidInput, match="Did you mean 'standard'"):
        protocol("standrad")
    with pytest.raises(InvalidInput, match="at least 2 classes"):
        protocol("standard", classes=1)


@given(st.lists(st.integers(0, 65535), max_size=70))
def test_bits_and_ints_round_trip(values):
    ints = np.array(values, dtype=int)
    bits = ints % 2 == 1
    assert unpack_bits(pack_bits(bits), len(bits)).tolist() == bits.tolist()
    assert unpack_ints(pack_ints(ints), len(ints)).tolist() == values


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


@pytest.mark.parametrize("n", [1, 8, 200])
def test_counts_and_rates_are_those_of_the_bits(n):
    record = make_record(n=n)
    bits = [record.clean_correct, *map(record.standing, record.columns)]
    assert record.counts == tuple(int(part.sum()) for part in bits)
    assert record.clean_accuracy == bits[0].mean()
    assert list(record.robust_accuracy.values()) == [part.mean() for part in bits[1:]]
    assert list(record.robust_accuracy) == [c.name for c in record.protocol.columns]
    assert record.worst_case == np.all(bits, axis=0).mean() == record.worst_case_standing.mean()


@given(st.text(max_size=200))
def test_safe_name_is_a_valid_name(text):
    from pydantic import TypeAdapter

    from bench.schema import Name

    TypeAdapter(Name).validate_python("x" + safe_name(text)[:99])
