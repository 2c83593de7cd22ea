"""Comparing until sure: only finished images count, masked gradients convince nobody, runs go on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import datasets, until_sure
from bench.measure import shards
from bench.measure.evaluate import evaluate
from bench.schema import AttackSpec, Column, InvalidInput, ModelCard, OutOfTime, Protocol
from bench.sources.unregistered import unregistered
from bench.until_sure import BLOCK, Comparison, compare_until_sure, image_order

PGD = AttackSpec(name="pgd", params={"steps": 4})
SQUARE = AttackSpec(name="square", params={"queries": 150})


def short(*attacks: AttackSpec) -> Protocol:
    return Protocol(name="short", version=1, columns=(Column(name="all", attacks=attacks),))


class Masked(nn.Module):
    """The same answers as a network, and no gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).detach() + 0 * x.sum()


def card(net: nn.Module, name: str) -> ModelCard:
    found = unregistered(net, "digits")
    weights = name.encode().hex().ljust(64, "0")
    return found.model_copy(update={"name": name, "class_count": 10, "weights_sha256": weights})


@pytest.fixture
def data():
    return datasets.load("digits", n=128)


@pytest.fixture
def weaker(fitted) -> nn.Module:
    """The fitted network with noise on its last layer: wrong on more images, clean and attacked."""
    net = copy.deepcopy(fitted)
    with torch.no_grad():
        net[-1].weight.add_(0.35 * torch.randn(net[-1].weight.shape))
    return net


@pytest.fixture
def run(fitted, data, tmp_path) -> Callable[..., Comparison]:
    def compare(other: nn.Module, **knobs) -> Comparison:
        knobs = {"threat": "linf:0.03", "protocol": short(PGD), "work": tmp_path / "w"} | knobs
        pair = [(net, card(net, name)) for net, name in ((fitted, "a"), (other, "b"))]
        return compare_until_sure(*pair, data.x, data.labels, **knobs)

    return compare


@pytest.fixture
def attacks(monkeypatch) -> list[tuple[np.ndarray, str]]:
    """What is attacked from here on: (block, attack)."""
    real, done = shards.Shards._attack, []

    def watched(self, shard, column, spec, standing):
        done.append((shard, spec.name))
        return real(self, shard, column, spec, standing)

    monkeypatch.setattr(shards.Shards, "_attack", watched)
    return done


def test_the_order_is_public_and_a_permutation():
    order = image_order(1000, "ab" * 32, 0)
    assert sorted(order) == list(range(1000))
    assert (order == image_order(1000, "ab" * 32, 0)).all()
    assert (order != image_order(1000, "ab" * 32, 1)).any()
    assert (order != image_order(1000, "cd" * 32, 0)).any()
    # As `printf "0 <64 zeros> <place>" | sha256sum` sorts them.
    assert image_order(5, "0" * 64, 0).tolist() == [2, 4, 0, 3, 1]


def test_it_stops_at_the_first_look_that_separates(run, weaker, attacks):
    found = run(weaker)
    look = found.look
    assert look.separated
    assert look.only_a > look.only_b
    assert look.difference.low > 0
    assert look.images <= found.measured < found.n == 128
    assert found.measured % BLOCK == 0
    assert found.passes_saved == round(found.passes / found.measured * (128 - found.measured))
    assert max(int(block[-1]) for block, _ in attacks) + 1 == found.measured


def test_the_bits_are_those_of_a_whole_evaluation(run, fitted, weaker, data):
    """At the end of all images the counts are those of two records: the same bits, another order."""
    protocol = short(PGD, AttackSpec(name="square", params={"queries": 10}))
    found = run(weaker, protocol=protocol, stop=False)
    whole = [
        evaluate(net, data.x, data.labels, threat="linf:0.03", protocol=protocol)
        for net in (fitted, weaker)
    ]
    a, b = (record.worst_case_standing for record in whole)
    assert (found.look.images, found.measured, found.passes_saved) == (128, 128, 0)
    assert (found.look.only_a, found.look.only_b) == ((a & ~b).sum(), (~a & b).sum())
    # Square looks further ahead where fewer images are together: passes differ a little, bits do not.
    assert found.passes == pytest.approx(
        sum(
            outcome.forward_passes + outcome.backward_passes
            for record in whole
            for outcome in record.columns["all"].outcomes
        ),
        rel=0.1,
    )


def test_equal_answers_are_not_separated_and_the_budget_ends(run, fitted):
    found = run(copy.deepcopy(fitted), max_n=40)
    assert not found.look.separated
    assert (found.look.images, found.measured) == (40, 64)
    assert (found.look.only_a, found.look.only_b) == (0, 0)


def test_going_on_gives_the_numbers_of_one_go_and_repeats_nothing(run, weaker, attacks, tmp_path):
    knobs = {"level": 1e-4, "stop": False, "protocol": short(AttackSpec(name="fgsm"))}
    one_go = run(weaker, max_n=100, work=tmp_path / "once", **knobs)
    attacks.clear()
    first = run(weaker, max_n=40, **knobs)
    assert (first.look.images, first.prior, first.measured) == (40, 0, 64)
    before = list(attacks)
    second = run(weaker, max_n=100, **knobs)
    assert second.look == one_go.look
    assert (second.passes, second.measured, second.prior) == (one_go.passes, 128, 64)
    assert len(attacks) == 8  # 2 models x 4 blocks x 1 attack, each once
    assert not set(map(repr, attacks[len(before) :])) & set(map(repr, before))
    again = run(weaker, max_n=100, **knobs)
    assert (again.look, again.prior, len(attacks)) == (one_go.look, 128, 8)


def test_workers_give_the_same_look(run, weaker, tmp_path):
    alone = run(weaker, work=tmp_path / "1")
    assert run(weaker, workers=2, work=tmp_path / "2").look == alone.look


# ---------------------------------------------------------------- masked gradients


def test_a_masked_network_that_falls_at_square_is_not_called_better(run, fitted):
    look = run(Masked(fitted), threat="linf:0.25", protocol=short(PGD, SQUARE), max_n=64).look
    assert (look.images, look.separated) == (64, False)
    assert look.only_b <= 6  # PGD alone left it standing on nearly all that the open network lost


def test_no_image_counts_before_the_last_attack_is_through(run, fitted, monkeypatch):
    """Time ends in the masked network's Square: whatever PGD left standing there is no evidence."""
    real, told = shards.Shards._attack, []

    def stops(self, shard, column, spec, standing):
        if shard[0] >= BLOCK and spec.name == "square":
            raise OutOfTime("the time allowed is over")
        return real(self, shard, column, spec, standing)

    monkeypatch.setattr(shards.Shards, "_attack", stops)
    with pytest.raises(OutOfTime, match="goes on from the finished images"):
        run(
            Masked(fitted),
            threat="linf:0.25",
            protocol=short(PGD, SQUARE),
            told=lambda share, look: told.append(look),
        )
    assert [look.images for look in told] == [BLOCK]
    assert not told[0].separated


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"max_n": 0}, r"1\.\.128"),
        ({"max_n": 129}, r"1\.\.128"),
        ({"level": 1.0}, "level must lie between"),
        ({"protocol": "autoattack-rand"}, "randomised"),
        ({"threat": "linf:8"}, "8/255"),
    ],
)
def test_wrong_calls_say_what_to_do(run, weaker, knobs, said):
    with pytest.raises(InvalidInput, match=said):
        run(weaker, **knobs)


def test_a_model_is_not_compared_with_itself(fitted, data):
    model = (fitted, card(fitted, "a"))
    with pytest.raises(InvalidInput, match="same weights"):
        compare_until_sure(model, model, data.x, data.labels, threat="linf:0.03")
    two = card(fitted, "b").model_copy(update={"class_count": 5})
    with pytest.raises(InvalidInput, match="10 and 5 classes"):
        compare_until_sure(model, (fitted, two), data.x, data.labels, threat="linf:0.03")


def test_nothing_is_written_but_parts_and_whose_they_are(run, weaker, tmp_path):
    run(weaker, max_n=32)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    files = [path for path in written if path.suffix == ".npz"]
    assert len(files) == 2
    assert {path.with_name("logits.npy") for path in files} == set(written) - set(files)
    assert until_sure.BLOCK == 32
    assert isinstance(np.load(files[0])["standing"], np.ndarray)
