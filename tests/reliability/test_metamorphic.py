"""Scaled networks: they are equivalent, and attacks give the same verdicts on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.protocols import COLUMNS
from bench.reliability import doctor
from bench.reliability.doctor import WORST_CASE, Scaled, compared, equivalent_findings
from bench.schema import AttackSpec, Column, ThreatModel

LINF = ThreatModel.parse("linf:0.08")
FEW = slice(0, 16)


def short(name: str) -> Column:
    """A column of the protocol with fewer steps and targets."""
    most = {"steps": 15, "targets": 3, "queries": 100}
    specs = [
        AttackSpec(name=s.name, params=s.params | {k: most[k] for k in most if k in s.params})
        for s in COLUMNS[name]("linf", 10).attacks
    ]
    return Column(name=name, attacks=tuple(specs))


@pytest.fixture
def seen(monkeypatch):
    """What stands on the model, on the same under two seeds, and on both scaled forms."""
    rows = []
    real = doctor._standing

    def watched(*args):
        rows.append(real(*args))
        return rows[-1]

    monkeypatch.setattr(doctor, "_standing", watched)
    return rows


def test_scaled_networks_predict_the_same_and_keep_the_mode(fitted, digits):
    x, _ = digits
    for factor in doctor.SCALES:
        scaled = Scaled(fitted, factor)
        assert torch.allclose(scaled(x) / factor, fitted(x), rtol=1e-4, atol=1e-4)
        assert not scaled.training
    assert Scaled(nn.Sequential(fitted).train(), 2.0).training


@pytest.mark.parametrize("name", ["cw", "autoattack"])
def test_margin_attacks_and_autoattack_do_not_see_the_difference(fitted, digits, name, seen):
    x, y = digits
    found = equivalent_findings(fitted, x[FEW], y[FEW], threat=LINF, columns=[short(name)])
    assert not any(f.raised for f in found)
    original, first, second, *scaled = (row[name] for row in seen)
    assert 0 < original < len(x[FEW])  # the attack is neither idle nor perfect
    by_seed = max(abs(original - other) for other in (first, second))
    assert all(abs(original - other) <= by_seed + 1 for other in scaled)


def test_an_attack_that_a_variant_blinds_is_no_doubt_about_the_network(fitted, digits, seen):
    """Huge logits leave cross-entropy without gradients: the variant stands where the network fell."""
    columns = [short("pgd20"), short("cw")]
    found = equivalent_findings(fitted, *digits, threat=LINF, columns=columns)
    assert seen[0]["pgd20"] < seen[3]["pgd20"]
    assert not any(f.raised for f in found)  # cw still finds the worst case


@pytest.mark.parametrize(
    ("variant", "seed", "raised"),
    [(20, 20, False), (19, 20, False), (17, 18, False), (16, 18, True)],
)
def test_a_flag_is_more_than_another_seed_and_one_image(variant, seed, raised):
    """20 of 20 images stand; a variant must break two more than another seed does."""

    def standing(count):
        return {"pgd20": count, WORST_CASE: count}

    scale, worst = compared(
        standing(20), [standing(seed), standing(20)], [standing(variant), standing(20)], 20
    )
    assert (scale.name, worst.name) == ("scale-sensitive", "equivalent-breaks-more")
    assert scale.raised == worst.raised == raised
    assert scale.values == {"pgd20_more": 20 - variant, "pgd20_more_by_seed": 20 - seed, "of": 20}
    assert worst.values == {"standing": 20, "standing_equivalent": variant, "of": 20}


def test_a_network_that_hides_behind_its_scale_is_broken_through_an_equivalent_one(fitted, digits):
    x, y = digits
    hidden = Scaled(fitted, 1e4)
    found = equivalent_findings(hidden, x, y, threat=LINF, columns=[short("pgd20")])
    assert all(f.raised for f in found)
    assert found[0].values["pgd20_more"] > found[0].values["pgd20_more_by_seed"] + 3
