"""A constant answer cannot be broken: whoever measures it, and however, it is no classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench import AutoAttack, datasets, evaluate, models, table
from bench.__main__ import main
from bench.protocols import PROTOCOL_NAMES, undefined_columns
from bench.records import store
from bench.reliability import doctor
from bench.reliability.flags import FLAGS, answer_findings, unranking
from bench.schema import AttackOutcome, ColumnOutcome
from bench.schema.packing import pack_bits, pack_ints
from tests.board.board_records import make_card, make_record, other_version, write_all
from tests.measure.short_protocols import QUICK


class Constant(nn.Module):
    """Logits that hardly look at the image, as those of a collapsed training do."""

    def __init__(self, answer: int, classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(64, classes)
        with torch.no_grad():
            self.last.weight.mul_(1e-3)
            self.last.bias.zero_()
            self.last.bias[answer] = 1.0

    def forward(self, x):
        return self.last(x.flatten(1))


def flags_of(model, x, y, *, protocol=QUICK, **more):
    record = evaluate(model.eval(), x, y, threat="linf:0.02", protocol=protocol, **more)
    return {flag.name for flag in record.flags}, record


def answers(labels, predictions):
    found = answer_findings(np.asarray(labels), np.asarray(predictions))
    return {finding.name for finding in found if finding.raised}


# ---------------------------------------------------------------- measured


@pytest.mark.parametrize(("classes", "share"), [(10, 0.213), (1000, 0.6)])
def test_a_constant_answer_is_unranked_however_many_outputs_it_has(classes, share):
    """With more outputs than labels, or unequal labels, it is well above one in K."""
    y = torch.arange(40) % 9 + 1
    y[: round(share * 40)] = 0
    found, record = flags_of(Constant(0, classes), torch.rand(40, 1, 8, 8), y)
    assert record.worst_case == record.clean_accuracy == pytest.approx(share, abs=0.02)
    assert "constant-answer" in found
    assert {"constant-answer", "chance-level"} <= set(unranking(record))


@pytest.mark.parametrize(
    "logits",
    [
        lambda x: 0 * x.flatten(1),
        lambda x: torch.nan * x.flatten(1),
        lambda x: x.new_ones(len(x), 7),
    ],
    ids=["all equal", "nan", "no gradient"],
)
def test_logits_that_say_nothing_are_a_constant_answer(logits):
    record = evaluate(
        logits, torch.rand(40, 1, 8, 8), torch.arange(40) % 7, threat="linf:0.1", protocol=QUICK
    )
    assert {"constant-answer", "chance-level"} <= {flag.name for flag in record.flags}


@pytest.mark.parametrize("name", [n for n in PROTOCOL_NAMES if not undefined_columns(n, "linf")])
def test_it_is_said_under_every_protocol(name):
    """Of a class that no image carries: nothing is right, so nothing needs to be attacked."""
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    found, record = flags_of(Constant(10, 11), x, y, protocol=name, engine="reference")
    assert record.failure is None
    assert "constant-answer" in found


def test_autoattack_by_its_own_interface_says_it(capsys):
    adversary = AutoAttack(Constant(10, 11).eval(), eps=0.03, version="rand")
    adversary.run_standard_evaluation(torch.rand(12, 1, 8, 8), torch.arange(12) % 10)
    assert "constant-answer" in unranking(adversary.record)
    assert "warning, constant-answer: " in capsys.readouterr().out


def test_the_preflight_says_it(fitted, digits):
    x, y = digits
    checks = {c.name: c for c in doctor.examine(Constant(3, 1000).eval(), x, y, threat="l1:5")}
    assert checks["constant-answer"].state == checks["clean accuracy"].state == "fail"
    assert "a constant answer has" in checks["clean accuracy"].figure
    one = {c.name: c for c in doctor.examine(fitted, x[y == 3], y[y == 3], threat="l1:5")}
    assert one["one-label"].state == "fail"
    assert one["constant-answer"].state == "ok"


# ---------------------------------------------------------------- sound networks are not accused


@pytest.mark.parametrize("n", [1, 2, 3, 8, 64])
def test_a_sound_network_is_not_accused_on_few_images(fitted, n):
    data = datasets.load("digits", n=n)
    found = answers(data.labels, fitted(data.x).argmax(1))
    assert found == ({"one-label"} if n == 1 else set())


@pytest.mark.parametrize(("n", "classes"), [(4, 2), (8, 4), (20, 10), (29, 10)])
def test_a_mediocre_network_is_not_accused_on_few_images(n, classes):
    """Right on every second image, wrong in different ways."""
    labels = np.arange(n) % classes
    predictions = np.where(np.arange(n) // classes % 2 == 0, labels, (labels + 1) % classes)
    assert answers(labels, predictions) == set()


def test_images_of_one_label_tell_nothing_and_accuse_nobody(net, images):
    x = images[:60]
    y = net(x).argmax(1)
    x, y = x[y == y.mode().values], y[y == y.mode().values]
    found, record = flags_of(net, x, y)
    assert record.clean_accuracy == 1
    assert found == {"one-label"}
    assert FLAGS["one-label"].unrankable  # a constant network would be first in such a table


@pytest.mark.parametrize(("majority", "recall"), [(0.5, 0.6), (0.9, 0.6), (0.9, 0.9)])
def test_unequal_labels_alone_accuse_nobody(majority, recall):
    labels = (np.arange(1000) >= 1000 * majority).astype(int)
    found = np.where(np.arange(1000) % 10 < 10 * recall, labels, 0)
    assert answers(labels, found) == set()


def test_too_unequal_labels_are_said_to_be():
    labels = np.array([1] * 3 + [0] * 97)
    assert answers(labels, labels) == {"one-label"}
    assert "one-label" in answers(labels, 0 * labels)


# ---------------------------------------------------------------- recorded


def constant_record(name="constant", *, share=0.6, **fields):
    """A record that carries no flag: of a network that gives one class to everything, ever.

    share of the images are of that class; None: the images are those of make_record.
    """
    made = make_record(make_card(name), **fields)
    labels, answer = made.label_array, int(np.bincount(made.label_array).argmax())
    if share is not None:
        labels, answer = np.arange(made.n) % 9 + 1, 0
        labels[: round(share * made.n)] = 0
    standing = labels == answer

    def unbroken(spec):
        return AttackOutcome(
            spec=spec, engine="ours", attacked=int(standing.sum()), broken=0,
            standing=pack_bits(standing), adversarial_predictions=pack_ints(np.zeros(0, dtype=int)),
            largest_perturbation=0,
        )  # fmt: skip

    columns = {
        name: ColumnOutcome(
            column_id=column.column_id, outcomes=tuple(unbroken(o.spec) for o in column.outcomes)
        )
        for name, column in made.columns.items()
    }
    return other_version(
        made,
        labels=pack_ints(labels),
        clean_predictions=pack_ints(0 * labels + answer),
        columns=columns,
    )


def test_a_record_without_the_flag_is_judged_by_its_own_bits(tmp_path):
    """Older ones, and those of somebody who left the flag out; from the file and from the index."""
    write_all(tmp_path / "r", [make_record(robust=0.05), constant_record(share=None)])
    for _ in range(2):
        (group,) = table.build(tmp_path / "r", cache=tmp_path / "cache").groups
        first, last = group.rows
        assert (first.rank, last.rank) == (1, None)
        assert last.rates["worst_case"].estimate > first.rates["worst_case"].estimate
        assert {"constant-answer", "chance-level"} <= set(last.texts["flags"].split(", "))
        assert "constant-answer" in last.unranked
        assert last.record.flags == ()


# ---------------------------------------------------------------- submitted


@pytest.fixture
def constant_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}
    net = models.build("small_cnn", arguments).net
    *_, last = net.children()
    with torch.no_grad():
        last.weight.mul_(1e-6)
        last.bias.copy_(torch.eye(10)[3])
    torch.save(net.state_dict(), "net.pt")
    return "net.pt"


def test_a_constant_answer_cannot_be_submitted(constant_weights, capsys, tmp_path):
    """Though every third image is of its class: more than one in ten is right."""
    data = datasets.load("digits", n=200)
    kept = (data.labels == 3) | (torch.arange(200) % 3 == 0)
    np.save("images.npy", (data.images[kept].permute(0, 2, 3, 1)).numpy())
    np.save("labels.npy", data.labels[kept].numpy())
    call = ["submit", constant_weights, "--arch", "small_cnn", "--arch-arg", "width=4"]
    call += ["--dataset", "digits", "--name", "s", "--protocol", "gradient"]
    assert main([*call, "--data", "arrays:.", "--dataset-name", "digits-unequal"]) == 2
    assert "a constant answer is no classifier" in capsys.readouterr().err
    assert not store.collect(tmp_path / "results").records
