"""Equivalent networks: they are equivalent, and attacks give the same verdicts on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.protocols import COLUMNS
from bench.reliability import equivalents
from bench.schema import AttackSpec, Column, ThreatModel

LINF = ThreatModel.parse("linf:0.08")
FEW = slice(0, 16)


def short(name: str, steps: int = 15) -> Column:
    """A column of the protocol with fewer steps and targets."""
    specs = [
        AttackSpec(
            name=s.name,
            params={
                k: {"steps": min(steps, int(v)), "targets": 3, "queries": 100}.get(k, v)
                if k in ("steps", "targets", "queries")
                else v
                for k, v in s.params.items()
            },
        )
        for s in COLUMNS[name]("linf", 10).attacks
    ]
    return Column(name=name, attacks=tuple(specs))


def scaled(net: nn.Sequential, factor: float) -> nn.Sequential:
    with torch.no_grad():
        net[-1].weight.mul_(factor)
        net[-1].bias.mul_(factor)
    return net


def test_variants_are_equivalent(fitted, digits):
    x, _ = digits
    net = fitted
    found = equivalents.variants(net, x)
    assert len(found) == 5
    for variant in found:
        assert torch.equal(variant.model(x).argmax(1), variant.labels(net(x).argmax(1)))
        assert not variant.model.training
    assert equivalents.variants(net.train(), x)[0].model.training


def test_rescaling_changes_the_weights_and_not_the_function(fitted, digits):
    x, _ = digits
    net = fitted
    other = equivalents.rescale_layers(net, 100.0)
    assert torch.allclose(net(x), other(x), rtol=1e-3, atol=1e-3)
    moved = [
        not torch.allclose(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True)
    ]
    assert sum(moved) >= 6
    assert equivalents.rescale_layers(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 2.0) is None
    smooth = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    assert equivalents.rescale_layers(smooth, 2.0) is None


@pytest.mark.parametrize("name", ["cw", "autoattack"])
def test_margin_attacks_and_autoattack_do_not_see_the_difference(fitted, digits, name):
    x, y = digits
    found = equivalents.compare(fitted, x[FEW], y[FEW], threat=LINF, columns=[short(name)])
    assert equivalents.unstable(found) == []
    assert 0 < found.original.standing[name] < len(x[FEW])  # the attack is neither idle nor perfect
    assert not any(f.raised for f in equivalents.findings(found))


def test_an_attack_that_a_variant_blinds_is_no_doubt_about_the_network(fitted, digits):
    """Huge logits leave cross-entropy without gradients: the variant stands where the network fell."""
    x, y = digits
    columns = [short("pgd20"), short("cw")]
    found = equivalents.compare(fitted, x, y, threat=LINF, columns=columns)
    assert found.original.standing["pgd20"] < found.variants[0].standing["pgd20"]
    assert not any(f.raised for f in equivalents.findings(found))  # cw still finds the worst case
    assert equivalents.unstable(found) == []


@pytest.mark.parametrize(
    ("variant", "seed", "raised"),
    [(20, 20, False), (19, 20, False), (17, 18, False), (16, 18, True)],
)
def test_scale_sensitive_is_more_than_another_seed_and_one_image(variant, seed, raised):
    """20 of 20 images stand; a variant must break two more than another seed does."""

    def standing(name, count):
        return equivalents.Comparison(name, {"pgd20": 20 - count}, {"pgd20": count}, 20)

    found = equivalents.Metamorphosis(
        20, standing("as it is", 20), (standing("seed 1", seed), standing("seed 2", 20)),
        (standing("logits x 1e-4", variant), standing("logits x 1e4", 20)),
    )  # fmt: skip
    flag = equivalents.findings(found)[0]
    assert flag.name == "scale-sensitive"
    assert flag.raised == raised
    assert flag.values == {"pgd20_more": 20 - variant, "pgd20_more_by_seed": 20 - seed, "of": 20}


def test_a_network_that_hides_behind_its_scale_is_broken_through_an_equivalent_one(fitted, digits):
    x, y = digits
    found = equivalents.compare(scaled(fitted, 1e4), x, y, threat=LINF, columns=[short("pgd20")])
    raised = {f.name: f.values for f in equivalents.findings(found) if f.raised}
    assert set(raised) == {"scale-sensitive", "equivalent-breaks-more"}
    more, by_seed = (raised["scale-sensitive"][f"pgd20_more{key}"] for key in ("", "_by_seed"))
    assert more > by_seed + 3
    shrunk = next(v for v in found.variants if v.variant == "logits x 0.0001")
    assert shrunk.worst_case < found.original.worst_case
