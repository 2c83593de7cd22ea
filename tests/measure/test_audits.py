"""Audits: which images are drawn, what their bits say, and all of AutoAttack where it was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench import evidence
from bench.measure import shards
from bench.measure.evaluate import Measurement, measure
from bench.protocols import protocol
from bench.records import entry, store
from bench.schema import AuditRule, Column, EvaluationRecord, InvalidInput, OutOfTime
from bench.schema.packing import pack_bits, unpack_bits
from bench.schema.record import drawn
from bench.verify import claims_of
from tests.conftest import small_net
from tests.measure.short_protocols import AUDITED, interrupted_at, run

WEAK = AUDITED.columns[1]


@pytest.fixture(scope="session")
def audited(few) -> Measurement:
    return run(small_net(), few, AUDITED)


def test_a_sample_of_what_stands_is_attacked_and_its_hits_stand_all_the_same(audited):
    record = audited.record
    (numbers,) = record.audits
    standing = record.standing("weak")
    assert (numbers.standing, numbers.drawn) == (int(standing.sum()), 20)
    assert 0 < numbers.hits < 20
    assert np.count_nonzero(record.audit_hits) == numbers.hits
    assert standing[record.audit_hits].all()  # they lower what is known, never the column's bits
    assert np.array_equal(record.never_broken, record.worst_case_standing & ~record.audit_hits)
    search = [o.attacked for column in record.columns.values() for o in column.outcomes]
    assert search == [70, 70]  # the audit's passes are its own


def test_the_hits_are_those_of_the_stronger_attacks_alone(audited, few):
    """What they do to an image depends on nothing but the image and the seed."""
    alone = AUDITED.model_copy(
        update={"columns": (Column(name="stronger", attacks=WEAK.audit.attacks),)}
    )
    bits = run(small_net(), few, alone).record.standing("stronger")
    audit = audited.record.columns["weak"].audit
    sampled = unpack_bits(audit.sampled, audited.record.n)
    assert np.array_equal(audited.record.audit_hits, sampled & ~bits)


def test_nobody_picks_the_sample():
    standing = np.arange(50) % 3 > 0
    chosen = drawn(standing, 10, "weights", "images", "plan")
    assert chosen.sum() == 10 and standing[chosen].all()
    assert np.array_equal(chosen, drawn(standing, 10, "weights", "images", "plan"))
    for asked in (("other", "images", "plan"), ("weights", "images", "other")):
        assert not np.array_equal(chosen, drawn(standing, 10, *asked))
    other = standing.copy()
    other[np.flatnonzero(chosen)[0]] = False
    assert (chosen & ~drawn(other, 10, "weights", "images", "plan")).sum() > 1
    many = [drawn(np.ones(40, bool), 10, str(k)).astype(int) for k in range(400)]
    assert np.abs(np.mean(many, 0) - 0.25).max() < 0.1  # each as often as any other


def _tampered(record: EvaluationRecord, **update: object) -> EvaluationRecord:
    raw = record.model_dump()
    audit = raw["columns"]["weak"]["audit"]
    audit |= update
    return EvaluationRecord.model_validate(raw)


def test_a_record_with_another_audit_does_not_load(audited):
    record = audited.record
    whole = record.model_dump()
    assert EvaluationRecord.model_validate(whole) == record
    sampled = unpack_bits(record.columns["weak"].audit.sampled, record.n)
    left = np.flatnonzero(record.standing("weak") & ~sampled)[0]
    other = sampled.copy()
    other[[np.flatnonzero(sampled)[0], left]] = other[[left, np.flatnonzero(sampled)[0]]]
    with pytest.raises(ValueError, match="not the one that was to be drawn"):
        _tampered(record, sampled=pack_bits(other))
    outcomes = whole["columns"]["weak"]["audit"]["outcomes"]
    with pytest.raises(ValueError, match="attacks of its audit"):
        _tampered(record, outcomes=outcomes[:1])
    first = outcomes[0] | {"standing": pack_bits(sampled)}
    with pytest.raises(ValueError, match="are not its bits"):
        _tampered(record, outcomes=[first, *outcomes[1:]])
    del whole["columns"]["weak"]["audit"]
    with pytest.raises(ValueError, match="lacks its audit"):
        EvaluationRecord.model_validate(whole)
    with pytest.raises(ValueError, match="has an audit"):
        EvaluationRecord.model_validate(record.model_dump() | {"audit": "none"})
    with pytest.raises(ValueError, match="not the one that was to be drawn"):
        EvaluationRecord.model_validate(record.model_dump() | {"audit": "all"})


def test_the_evidence_proves_the_hits(audited):
    names = [claim.name for claim in claims_of(audited.record)]
    assert names == ["fgsm", "weak", "weak/audit"]
    proof = evidence.from_bytes(audited.evidence)["weak/audit"]
    assert sorted(proof.index) == np.flatnonzero(audited.record.audit_hits).tolist()


def test_an_entry_knows_the_audit(audited, tmp_path):
    path = store.write(audited.record, tmp_path)
    found = entry.read(path)
    assert found.audits == audited.record.audits
    assert np.array_equal(found.never_broken, audited.record.never_broken)


@pytest.mark.parametrize("attack", [3, 5, 8])  # while the columns run, and in the audit
def test_an_interrupted_audit_goes_on_to_the_identical_record(
    attack, audited, images, tmp_path, monkeypatch
):
    interrupted_at(attack, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(small_net(), images, AUDITED, work=tmp_path)
    resumed = run(small_net(), images, AUDITED, work=tmp_path)
    assert store.same_answer(resumed.record, audited.record)
    assert resumed.evidence == audited.evidence
    assert not list(tmp_path.iterdir())


def test_an_audit_that_is_late_says_so(images, tmp_path, monkeypatch):
    late = []

    def tick(self: shards.Shards) -> None:
        late.append(1)
        if len(list(self.folder.glob("*.npz"))) > 4:  # 2 shards of 2 columns are finished
            raise OutOfTime("the time allowed is over")

    monkeypatch.setattr(shards.Shards, "tick", tick)
    with pytest.raises(OutOfTime, match="audit of 20 is not; the same command goes on"):
        run(small_net(), images, AUDITED, work=tmp_path)


def test_two_processes_audit_alike(audited, images):
    shared = run(small_net(), images, AUDITED, workers=2)
    assert store.same_answer(shared.record, audited.record)
    assert shared.evidence == audited.evidence


# ---------------------------------------------------------------- how much is audited


@pytest.fixture(scope="session")
def all_of_it(few) -> tuple[Measurement, Measurement]:
    """Every standing image audited by AutoAttack; and AutoAttack measured alone."""
    auto = protocol("autoattack")
    column = WEAK.model_copy(update={"audit": AuditRule(attacks=auto.columns[0].attacks, few=3)})
    asked = AUDITED.model_copy(update={"columns": (column,)})
    x = few[:24]
    return run(small_net(), x, asked, audit="all"), run(small_net(), x, auto)


def test_an_audit_of_all_is_the_measurement_of_autoattack(all_of_it):
    found, alone = all_of_it
    (numbers,) = found.record.audits
    assert numbers.drawn == numbers.standing
    assert store.same_answer(found.plain.record, alone.record)
    assert found.plain.record.id == alone.record.id
    assert found.plain.record.flags == alone.record.flags
    assert found.plain.evidence == alone.evidence
    both = found.record.standing("weak") & alone.record.standing("autoattack")
    assert np.array_equal(found.record.never_broken, both)


def test_another_size_is_another_question(all_of_it, audited, images):
    assert all_of_it[0].record.audit == "all"
    none = run(small_net(), images, AUDITED, audit="none").record
    assert none.audits == () and none.id != audited.record.id
    assert np.array_equal(none.standing("weak"), audited.record.standing("weak"))
    assert EvaluationRecord.model_validate(none.model_dump()) == none


def test_there_must_be_something_to_audit(net, images):
    with pytest.raises(InvalidInput, match="no column that is audited"):
        run(net, images, audit="all")
    with pytest.raises(InvalidInput, match="audit: Input should be 'sample', 'all' or 'none'"):
        run(net, images, AUDITED, audit="half")


# ---------------------------------------------------------------- masked gradients, and bad input


class Saturated(nn.Module):
    """The network with logits so large that its gradient vanishes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(1e6 * self.net(x).double(), 1).float()


def test_where_gradients_are_masked_all_of_it_runs(images):
    record = run(Saturated(), images, AUDITED).record
    assert record.failure is None and record.audits == ()
    ran = [o.spec for o in record.columns["weak"].outcomes]
    assert ran == [*WEAK.attacks, *WEAK.audit.attacks]
    assert (
        record.columns["weak"].outcomes[1].attacked == record.columns["weak"].outcomes[0].attacked
    )
    assert EvaluationRecord.model_validate(record.model_dump()) == record


@pytest.mark.parametrize(
    ("kind", "stands"),
    [("one image", 1), ("none right", 0), ("none stands", 0), ("fewer than drawn", 15)],
)
def test_few_images(kind, stands, images):
    net = small_net()
    near = net(images).topk(2).values.diff().abs()[:, 0].argsort()  # the easiest to break first
    x = images[near[:6]] if kind == "none stands" else images[near[-max(stands, 3) :]]
    x = x[-1:] if kind == "one image" else x
    y = (net(x).argmax(1) + (kind == "none right")) % 10
    eps = "linf:0.9" if kind == "none stands" else "linf:0.0001"
    record = measure(net, x, y, threat=eps, protocol=AUDITED).record
    assert record.failure is None
    (numbers,) = record.audits
    assert numbers.standing == numbers.drawn == stands
    assert EvaluationRecord.model_validate(record.model_dump()) == record


@pytest.mark.parametrize("fault", ["raises", "returns NaN"])
def test_a_network_that_fails_in_the_audit_alone(fault, images, monkeypatch):
    """An exception is a failed record; NaN is broken, as for every column."""
    real = shards.Shards._attack

    class Faulty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.now = small_net(), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.now and fault == "raises":
                raise RuntimeError("no memory left")
            return self.net(x) * (float("nan") if self.now else 1.0)

    net = Faulty().eval()

    def attack(self, shard, column, *rest):
        net.now = column.name == "audit"
        try:
            return real(self, shard, column, *rest)
        finally:
            net.now = False

    monkeypatch.setattr(shards.Shards, "_attack", attack)
    y = net(images).argmax(1)
    record = measure(net, images, y, threat="linf:0.02", protocol=AUDITED).record
    if fault == "raises":
        assert "no memory left" in record.failure
    else:
        assert record.failure is None
        assert record.audits[0].hits == 20
