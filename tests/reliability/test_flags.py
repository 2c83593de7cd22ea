"""Flags: each is in the catalogue, raised by what it is about, and by nothing healthy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.cli.tables import _listing
from bench.judge import Watched
from bench.reliability import probes
from bench.reliability.checks import model_findings
from bench.reliability.flags import FLAGS, column_findings, finding, raised
from bench.reliability.probes import BUDGET, probe_findings
from bench.schema import AttackOutcome, AttackSpec, ColumnOutcome, ThreatModel
from bench.schema.packing import pack_bits
from bench.streams import Streams

LINF = ThreatModel.parse("linf:0.05")
ROOT = Path(__file__).parents[2]


def names(found):
    return {flag.name for flag in found}


def model_flags(model, x, y):
    return raised(model_findings(model, x, y))


def probe(model, x, y, threat=LINF, **more):
    streams = Streams.for_images(x, 0)
    return raised(probe_findings(model, x, y, threat, streams=streams, **more))


# ---------------------------------------------------------------- the catalogue


def test_every_flag_is_raised_somewhere():
    """Outside the catalogue too: a finding of another name fails when it is raised."""
    named = set()
    for path in (ROOT / "bench/reliability").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") != "get":
                named |= {a.value for a in node.args if isinstance(a, ast.Constant)}
            if isinstance(node, ast.Tuple):
                named |= {e.value for e in node.elts if isinstance(e, ast.Constant)}
    assert set(FLAGS) <= named


def test_every_flag_says_what_it_means_and_what_to_do():
    for flag in FLAGS.values():
        assert flag.meaning.endswith(".")
        assert flag.remedy.endswith(".")
    assert all(name in _listing() and flag.meaning in _listing() for name, flag in FLAGS.items())


# ---------------------------------------------------------------- clean checks


def test_a_healthy_network_has_no_flags(net, labelled):
    x, y = labelled
    assert model_flags(net, x, y) == []
    assert {f.name for f in model_findings(net, x, y)} <= set(FLAGS)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_checks_do_not_depend_on_the_scale_of_the_logits(net, labelled, scale):
    x, y = labelled
    noisy = model_flags(lambda z: scale * (net(z) + 0.1 * torch.randn(len(z), 10)), x, y)
    assert "randomised" in names(noisy)
    assert "batch-dependent" in names(
        model_flags(lambda z: scale * (net(z) - net(z).mean(0)), x, y)
    )
    quiet = names(model_flags(lambda z: scale * net(z) + 100, x, y))
    assert not {"randomised", "batch-dependent"} & quiet


def test_clean_checks_leave_the_model_as_it_was(make_net, labelled):
    net = make_net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert {"train-mode", "batch-dependent", "state-changes"} <= names(model_flags(net, *labelled))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_gradients_in_forward_are_seen_and_never_stick(net, labelled):
    x, y = labelled

    def defended(z):
        with torch.enable_grad():
            w = z.detach().requires_grad_()
            net(w).logsumexp(1).sum().backward()
        return net(z - 0.01 * w.grad.sign())

    assert "gradients-in-forward" in names(model_flags(defended, x, y))
    assert model_flags(net, x, y) == []  # the next model is not accused


def test_a_model_that_refuses_a_single_image_depends_on_its_batch(net, labelled):
    def fussy(z):
        if len(z) == 1:
            raise ValueError("more than one, please")
        return net(z)

    (flag,) = model_flags(fussy, *labelled)
    assert flag.name == "batch-dependent"
    assert "more than one, please" in flag.values["alone"]


# ---------------------------------------------------------------- counts


def column(*broken: tuple[str, int], n: int = 100) -> ColumnOutcome:
    outcomes = [
        AttackOutcome(
            spec=AttackSpec(name=name), engine="ours", attacked=n, broken=count,
            standing=pack_bits(torch.zeros(n, dtype=torch.bool).numpy()),
            adversarial_predictions="", largest_perturbation=0,
        )
        for name, count in broken
    ]  # fmt: skip
    return ColumnOutcome(column_id="0" * 12, outcomes=tuple(outcomes))


def test_counts_raise_flags_only_where_the_difference_is_clear():
    def said(clean=90, **columns):
        chance = finding("chance-level", {"clean": clean, "n": 100, "classes": 10})
        return names(raised([chance, *column_findings(columns, 100)]))

    weak, strong = column(("fgsm", 40)), column(("pgd", 45))
    assert said(fgsm=weak, pgd20=strong) == set()
    assert said(fgsm=strong, pgd20=column(("pgd", 44))) == set()  # a single image says nothing
    assert said(fgsm=strong, pgd20=weak) == {"one-step-stronger"}
    assert said(pgd20=strong, pgd100=weak) == {"more-steps-weaker"}
    assert said(**{"pgd20-last": strong}, pgd100=weak) == {"more-steps-weaker"}
    assert said(clean=10) == said(clean=15) == {"chance-level"}  # 15 of 100 may be luck
    assert said(clean=20) == set()
    assert said(autoattack=column(("apgd-ce", 40), ("square", 1))) == set()
    assert said(autoattack=column(("apgd-ce", 40), ("square", 2))) == {"square-breaks-more"}
    assert said(square=column(("square", 40))) == set()  # nothing white-box came before it


# ---------------------------------------------------------------- probes


@pytest.mark.parametrize("threat", ["linf:8/255", "l2:0.5"])
def test_probes_find_nothing_in_a_healthy_network(net, labelled, threat):
    x, y = labelled
    assert probe(net, x, y, ThreatModel.parse(threat), source=net) == []


def test_probes_keep_their_budget(labelled):
    """A network that nothing breaks costs most: every attack runs to its end."""
    x, _ = labelled
    y = torch.zeros(len(x), dtype=torch.int64)

    def unbreakable(z):
        return torch.nn.functional.pad(z.flatten(1).mean(1, keepdim=True) + 1, (0, 9))

    watched = Watched(unbreakable)
    found = probe_findings(watched, x, y, LINF, streams=Streams.for_images(x, 0))
    forward, backward = watched.forward_passes, watched.backward_passes
    assert 0.5 * BUDGET < (forward + 2 * backward) / len(x) <= BUDGET
    assert "unbounded-fails" in {f.name for f in found if f.raised}


def test_probes_are_deterministic_and_skip_what_they_cannot_do(net, labelled):
    x, y = (each[:12] for each in labelled)
    streams = Streams.for_images(x, 0)
    first = probe_findings(net, x, y, LINF, streams=streams)
    assert first == probe_findings(net, x, y, LINF, streams=streams)
    assert probe_findings(net, x, y, ThreatModel.parse("l1:5"), streams=streams) == []
    assert probe_findings(net, x, (net(x).argmax(1) + 1) % 10, LINF, streams=streams) == []


def hidden(net):
    """The gradient of another function: what a badly made differentiable stand-in does."""

    def forward(z):
        return net(z).detach() - 3 * (net(z) - net(z).detach())

    return forward


def test_a_misleading_gradient_is_seen_by_what_ignores_it(net, labelled):
    """Attacks follow the gradient away from the boundary; noise, Square and another model do not."""
    x, y = labelled
    found = names(probe(hidden(net), x, y, source=net))
    assert {"transfer-stronger", "unbounded-fails", "noise-stronger"} & found
    assert "transfer-stronger" in found
    assert "transfer-stronger" not in names(probe(hidden(net), x, y))  # no second model given


def test_a_gradient_that_vanishes_away_from_the_image_is_seen(net, labelled):
    """One step is led well, many are not: the loss is flat once the image has moved."""
    x, y = labelled

    class Trap(nn.Module):
        def forward(self, z):
            far = (z.detach()[:, None] - x[None]).abs().flatten(2).amax(2).amin(1) > 1e-6
            logits = net(z)
            return torch.where(far[:, None], logits.detach() + 0 * logits, logits)

    found = names(probe(Trap().eval(), x, y))
    assert "one-step-stronger" in found


def test_a_shell_that_is_safe_further_out_is_not_monotone(fitted, digits):
    x, y = digits
    net = fitted

    def shell(z):
        far = (z.detach()[:, None] - x[None]).abs().flatten(2).amax(2).amin(1) > 0.051
        return torch.where(far[:, None], net(z) + 1e3 * nn.functional.one_hot(y_of(z), 10), net(z))

    def y_of(z):
        return y[(z.detach()[:, None] - x[None]).abs().flatten(2).amax(2).argmin(1)]

    threat = ThreatModel.parse("linf:0.1")
    assert "not-monotone" in names(probe(shell, x, y, threat))


def test_restarts_that_matter_are_said(net, labelled, monkeypatch):
    """An attack whose first start always fails."""
    x, y = labelled
    real = probes.pgd

    def unlucky(problem, *, steps, **more):
        return problem.x if steps == probes.STEPS else real(problem, steps=steps, **more)

    monkeypatch.setattr(probes, "pgd", unlucky)
    assert "restarts-matter" in names(probe(net, x, y))
