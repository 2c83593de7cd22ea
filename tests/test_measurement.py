"""The measurement: judged examples, records that hold, runs that continue, known answers."""

from __future__ import annotations

import copy
import logging
import os

import numpy as np
import pytest
import torch
from torch import nn

from bench import evaluate, evidence, measurement, results, shards
from bench.attacks.geometry import admissible
from bench.judge import Judge
from bench.measurement import measure
from bench.protocols import protocol
from bench.schema import (
    AttackSpec,
    Column,
    ConflictingRecord,
    EvaluationRecord,
    InvalidInput,
    OutOfTime,
    Protocol,
    ThreatModel,
)

QUICK = Protocol(
    name="tiny",
    version=1,
    columns=(
        Column(name="fgsm", attacks=(AttackSpec(name="fgsm", params={"relative_step": 1.0}),)),
        Column(
            name="mixed",
            attacks=(
                AttackSpec(name="pgd", params={"steps": 3}),
                AttackSpec(name="pgd", params={"steps": 10, "loss": "margin"}),
                AttackSpec(name="square", params={"queries": 30, "p_init": 0.8, "restarts": 1}),
            ),
        ),
    ),
)


@pytest.fixture
def data():
    """300 images, more than a shard, that the network mostly gets right."""
    x = torch.rand(300, 1, 8, 8)
    return x, None


def run(net, x, **more):
    y = net(x).argmax(1)
    y[:10] = (y[:10] + 1) % 10
    return measure(net, x, y, threat="linf:0.02", protocol=QUICK, **more)


def test_record_round_trip_and_properties(net, data, tmp_path):
    found = run(net, data[0])
    record = found.record
    assert 0 < record.worst_case <= record.robust_accuracy["mixed"] < record.clean_accuracy
    assert record.clean_accuracy == 290 / 300
    path = results.write(record, tmp_path)
    again = results.read(path)
    assert again == record
    assert results.same_answer(again, record)
    assert results.write(record, tmp_path) == path  # the identical record again: nothing happens
    assert list(again.robust_accuracy) == ["fgsm", "mixed"]


def test_every_broken_bit_is_in_the_evidence(net, data, tmp_path):
    found = run(net, data[0])
    (tmp_path / "e.npz").write_bytes(found.evidence)
    y = torch.from_numpy(found.record.label_array)
    for name, proof in evidence.read(tmp_path / "e.npz").items():
        broken = found.record.clean_correct & ~found.record.standing(name)
        assert sorted(proof.index) == np.flatnonzero(broken).tolist()
        index = torch.from_numpy(proof.index).long()
        images = proof.decode(data[0])
        verdict = Judge(net)(images, y[index])
        assert verdict.broken.all()
        assert admissible(data[0][index], images, found.record.threat, QUICK).all()
        predicted = found.record.adversarial_predictions(name)[proof.index]
        assert predicted.tolist() == verdict.predictions.tolist()


def test_interrupted_run_continues_to_the_identical_record(net, data, tmp_path, monkeypatch):
    whole = run(net, data[0])
    real, calls = shards.Job._attack, []

    def dies(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(shards.Job, "_attack", dies)
    with pytest.raises(KeyboardInterrupt):
        run(net, data[0], work=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 3
    resumed = run(net, data[0], work=tmp_path)
    assert len(calls) == 4 + 8 - 3  # 2 shards x 4 attacks, 3 of them finished before
    assert results.same_answer(resumed.record, whole.record)
    assert resumed.evidence == whole.evidence
    assert not list(tmp_path.iterdir())


def test_damaged_part_is_computed_again(net, data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(measurement.shutil, "rmtree", lambda *a, **k: None)
    whole = run(net, data[0], work=tmp_path)
    part = sorted(tmp_path.rglob("*.npz"))[2]
    part.write_bytes(part.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = run(net, data[0], work=tmp_path)
    assert results.same_answer(again.record, whole.record)
    assert "damaged" in caplog.text


def test_a_different_answer_is_refused_and_both_are_shown(net, data, tmp_path):
    record = run(net, data[0]).record
    path = results.write(record, tmp_path)
    before = path.read_bytes()
    other = record.model_copy(update={"flags": (*record.flags, _flag())})
    with pytest.raises(ConflictingRecord) as caught:
        results.write(other, tmp_path)
    assert "recorded:" in str(caught.value)
    assert "measured:" in str(caught.value)
    assert path.read_bytes() == before
    assert results.read(path.with_suffix(".refused.json")).id == record.id
    assert any("refused" in p for p in results.collect(tmp_path).problems)


def _flag():
    from bench.schema import Flag

    return Flag(name="made-up", message="another answer")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "is not JSON"),
        (lambda raw: b"<html>", "is not JSON"),
        (lambda raw: raw.replace(b'"seed": 0', b'"seed": 1'), "id is not that of its content"),
        (lambda raw: raw.replace(b'"schema_version": 2', b'"schema_version": 3'), "Update"),
        (lambda raw: raw.replace(b'"n": 300', b'"n": 299'), "not a valid record"),
        (lambda raw: raw.replace(b'"n": 300', b'"n": ' + b"3" * 5000), "is not JSON"),
        (lambda raw: raw.replace(b'"broken": ', b'"broken": 1'), "not a valid record"),
    ],
)
def test_corrupt_record_is_named_and_left(net, data, tmp_path, damage, words):
    path = results.write(run(net, data[0]).record, tmp_path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(InvalidInput, match=words):
        results.read(path)
    held = results.collect(tmp_path)
    assert not held.records
    assert str(path) in held.problems[0]
    assert path.read_bytes() == damaged


def test_withdrawn_record_stays_in_the_history(net, data, tmp_path):
    record = run(net, data[0]).record
    path = results.write(record, tmp_path)
    results.withdraw(path, "the threat was wrong")
    held = results.collect(tmp_path)
    assert held.withdrawn == {record.id: "the threat was wrong"}
    assert held.records == (record,)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    results.write_atomic(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        results.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- processes, deadline, half precision


def test_workers_give_the_identical_record(net, data, tmp_path):
    """Forked processes see the model as it is in memory; nothing is pickled, not even a lambda."""
    alone = run(lambda z: net(z), data[0])
    reports = []
    together = run(
        lambda z: net(z), data[0], workers=2, work=tmp_path,
        report=lambda share, text: reports.append((share, text)),
    )  # fmt: skip
    assert results.same_answer(alone.record, together.record)
    assert together.evidence == alone.evidence
    assert reports[-1][0] == pytest.approx(1)
    assert f"{len(data[0])}/{len(data[0])} images done" in reports[-1][1]
    bounds = [float(text.split("at most ")[1].split("%")[0]) for _, text in reports]
    assert bounds == sorted(bounds, reverse=True)  # an upper bound only falls
    assert bounds[-1] == round(100 * together.record.worst_case, 1)
    assert not list(tmp_path.iterdir())


def test_worker_that_dies_is_said_and_finished_parts_stay(net, data, tmp_path, monkeypatch):
    real = shards.Job._attack

    def dies(self, shard, column, spec, standing):
        if 0 not in shard and spec.name == "square":
            os._exit(9)
        return real(self, shard, column, spec, standing)

    monkeypatch.setattr(shards.Job, "_attack", dies)
    record = run(net, data[0], workers=2, work=tmp_path).record
    assert "a worker process was killed" in record.failure


@pytest.mark.parametrize("workers", [1, 2])
def test_deadline_keeps_what_is_finished_and_says_what_is_missing(
    workers, net, data, tmp_path, monkeypatch
):
    whole = run(net, data[0])
    real = shards.Job._attack

    def late(self, shard, column, spec, standing):
        if spec.name == "square":
            self.deadline = 0.0
        return real(self, shard, column, spec, standing)

    with monkeypatch.context() as patched:
        patched.setattr(shards.Job, "_attack", late)
        with pytest.raises(
            OutOfTime, match=r"of 8 shards x attacks are finished.*goes on from here"
        ):
            run(net, data[0], work=tmp_path, workers=workers, max_seconds=600)
    finished = list(tmp_path.rglob("*.npz"))
    assert finished
    assert results.same_answer(run(net, data[0], work=tmp_path).record, whole.record)


def test_the_answer_does_not_depend_on_how_many_rows_are_in_the_model(net, data):
    few, many = run(net, data[0], batch=16).record, run(net, data[0], batch=512).record
    for name in few.columns:
        assert few.standing(name).tolist() == many.standing(name).tolist()
    assert few.id == many.id


def test_mixed_precision_is_offered_or_refused_with_the_reason(net, data, monkeypatch):
    exact = run(net, data[0])
    monkeypatch.setattr("bench.prepare._unsupported", lambda device: "this is a test")
    refused = run(net, data[0], precision="mixed").record
    assert "float32: this is a test" in refused.environment["searched"]
    assert refused.standing("mixed").tolist() == exact.record.standing("mixed").tolist()
    assert refused.id != exact.record.id
    monkeypatch.setattr("bench.prepare._unsupported", lambda device: None)
    for scale in (0.01, 1, 100):  # thresholds are relative to the model's own logits
        found = run(nn.Sequential(net, Scaled(scale)).eval(), data[0], precision="mixed").record
        assert "bfloat16 search, float32 verdicts" in found.environment["searched"]
        assert found.worst_case <= exact.record.worst_case + 0.002


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, logits):
        return logits * self.scale


def test_uint8_survivors_are_counted(net):
    """Steps of 8/255 on 8-bit images stay on the grid, so every broken image survives rounding."""
    x = (torch.rand(60, 1, 8, 8) * 255).round() / 255
    y = net(x).argmax(1)
    record = measure(net, x, y, threat="linf:20/255", protocol=QUICK).record
    (fgsm,) = record.columns["fgsm"].outcomes
    assert fgsm.broken == fgsm.uint8_survivors > 5
    for outcome in record.columns["mixed"].outcomes:
        assert 0 <= outcome.uint8_survivors <= outcome.broken


def test_model_that_changes_its_input_is_a_failed_record():
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    record = evaluate(lambda z: z.sub_(0.5).flatten(1), x, y, threat="linf:0.1", protocol=QUICK)
    assert "changes its input in place" in record.failure


def test_majority_of_passes_judges_a_randomised_model(net, data):
    """One image is misclassified in 3 of 10 passes, another in 7."""
    calls = iter(range(10**6))

    def random(z):
        k = next(calls) % 10
        wrong = torch.tensor([k < 3, k < 7])
        return torch.stack([torch.where(wrong, -1.0, 1.0), torch.zeros(2)], 1)

    answer = Judge(random, passes=10)(data[0][:2], torch.tensor([0, 0]))
    assert answer.broken.tolist() == [False, True]
    assert answer.predictions.tolist() == [0, 1]


# ---------------------------------------------------------------- bad models


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda z: z.no_such_thing, "AttributeError"),
        (lambda z: z.sum(), "expected logits"),
        (lambda z: z.flatten(1)[:, :1], "at least 2 classes"),
        (lambda z: z.flatten(1).long(), "floating-point"),
    ],
    ids=["raises", "scalar", "one class", "integers"],
)
def test_model_that_cannot_be_measured_is_a_failed_record(model, words, tmp_path):
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    record = evaluate(model, x, y, threat="linf:0.1", protocol=QUICK)
    assert words in record.failure
    assert not record.columns
    path = results.write(record, tmp_path)
    assert results.collect(tmp_path).failed == (record,)
    assert path.name.endswith(".failed.json")


def test_model_that_raises_in_the_middle_is_a_failed_record(net, data):
    class Brittle(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = net, 0

        def forward(self, z):
            self.calls += 1
            if self.calls > 12:
                raise RuntimeError("out of luck")
            return self.inner(z)

    record = measure(
        Brittle().eval(), data[0], net(data[0]).argmax(1), threat="linf:0.02", protocol=QUICK
    ).record
    assert "out of luck" in record.failure


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.rand(4, 8, 8), torch.zeros(4), "expected images"),
        (torch.rand(4, 1, 8, 8) * 255, torch.zeros(4), "divide by 255"),
        (torch.rand(4, 1, 8, 8), torch.full((4,), 10), "labels go up to 10"),
        (torch.rand(4, 1, 8, 8), torch.zeros(3), "expected images"),
        (torch.rand(0, 1, 8, 8), torch.zeros(0), "expected images"),
        (torch.full((4, 1, 8, 8), torch.nan), torch.zeros(4), "must lie in"),
    ],
)
def test_wrong_images_are_refused(net, x, y, words):
    with pytest.raises(InvalidInput, match=words):
        evaluate(net, x, y, threat="linf:0.1", protocol=QUICK)


def flags_of(model, x, y):
    return {f.name for f in evaluate(model, x, y, threat="linf:0.02", protocol=QUICK).flags}


def test_broken_models_are_flagged(net, data):
    x = data[0][:80]
    y = net(x).argmax(1)
    assert flags_of(net, x, y) == set()
    assert "probabilities" in flags_of(nn.Sequential(net, nn.Softmax(1)).eval(), x, y)
    assert "randomised" in flags_of(lambda z: net(z) + 0.1 * torch.randn(len(z), 10), x, y)
    assert "train-mode" in flags_of(copy.deepcopy(net).train(), x, y)
    assert "zero-gradients" in flags_of(lambda z: net((z * 4).round() / 4 + 0 * z), x, y)
    constant = flags_of(lambda z: torch.eye(10)[[3] * len(z)] + 0 * z.sum(), x, y)
    assert {"chance-level", "zero-gradients"} <= constant

    def sometimes_nan(z):
        return torch.where(z[:, :1, 0, 0] > 0.9, torch.nan, net(z))

    record = evaluate(sometimes_nan, x, y, threat="linf:0.02", protocol=QUICK)
    assert "non-finite-logits" in {f.name for f in record.flags}
    assert not record.clean_correct[(x[:, 0, 0, 0] > 0.9).numpy()].any()


def test_masked_gradients_raise_the_square_flag(net, data):
    """Rounded logits have zero gradients: only the black-box attack makes progress."""
    x = data[0][:80]
    y = net(x).argmax(1)

    def masked(z):
        return (net(z) * 4).round() / 4 + 0 * z.sum()

    record = evaluate(masked, x, y, threat="linf:0.2", protocol=QUICK)
    assert {"zero-gradients", "square-breaks-more"} <= {f.name for f in record.flags}


# ---------------------------------------------------------------- the judge


def test_judge_decides_close_calls_in_float64():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1e-9], [1.0, 0.0]]))
    x = torch.ones(1, 1, 1, 2)
    assert torch.equal(*net(x)[0])  # a tie in float32
    assert Judge(net)(x, torch.tensor([0])).broken.tolist() == [False]
    assert Judge(net)(x, torch.tensor([1])).broken.tolist() == [True]


def test_clipping_is_never_done_by_the_runner(net, data, monkeypatch):
    """An attack that leaves the ball gains nothing: its examples are rejected, and that is said."""

    def cheats(model, x, y, threat, *, streams, search, relative_step):
        return 1 - x

    monkeypatch.setitem(shards.ATTACKS, "fgsm", cheats)
    outcome = run(net, data[0]).record.columns["fgsm"].outcomes[0]
    assert outcome.broken == 0
    assert outcome.rejected > 100


# ---------------------------------------------------------------- against the published engine


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.3"])
def test_same_mask_as_the_published_driver(threat, make_net, monkeypatch):
    """autoattack, attack by attack, equals pyautoattack's own run: same batches, same seed."""
    from pyautoattack import AutoAttack

    net = make_net(3, 8, 10, seed=3)
    x = torch.rand(40, 3, 8, 8)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    parsed = ThreatModel.parse(threat)
    full = protocol("autoattack", norm=parsed.norm)
    attacks = [
        spec.model_copy(update={"params": {**spec.params, **SHORT[spec.name]}})
        for spec in full.columns[0].attacks
    ]
    short = full.model_copy(
        update={"columns": (full.columns[0].model_copy(update={"attacks": tuple(attacks)}),)}
    )
    record = evaluate(
        net, x, y, threat=threat, protocol=short, seed=5, engine="reference", batch=256
    )

    driver = AutoAttack(
        net, norm={"linf": "Linf", "l2": "L2"}[parsed.norm], eps=parsed.epsilon, seed=5
    )
    for attack in (driver.apgd, driver.apgd_targeted, driver.fab):
        attack.n_iter = attack.n_iter_orig = 20
    for attack in (driver.apgd, driver.apgd_targeted):
        attack.n_iter_2, attack.n_iter_min, attack.size_decr = 4, 1, 1
    driver.square.n_queries = 200
    x_adv, _ = driver.run_standard_evaluation(x, y, batch_size=256)
    with torch.no_grad():
        mask = (net(x).argmax(1) == y) & (net(x_adv).argmax(1) == y)
    assert 0 < int(mask.sum()) < 39
    assert record.standing("autoattack").tolist() == mask.tolist()


SHORT = {"apgd-ce": {"steps": 20}, "apgd-t": {"steps": 20}, "fab-t": {"steps": 20}}
SHORT["square"] = {"queries": 200}


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes(classes, make_net):
    """pyautoattack's own driver raises below ten classes; every attack runs here."""
    net = make_net(1, 8, classes)
    x = torch.rand(20, 1, 8, 8)
    full = protocol("autoattack", classes=classes)
    attacks = tuple(
        spec.model_copy(update={"params": {**spec.params, **SHORT.get(spec.name, {"steps": 20})}})
        for spec in full.columns[0].attacks
    )
    column = full.columns[0].model_copy(update={"attacks": attacks})
    short = full.model_copy(update={"columns": (column,)})
    record = evaluate(net, x, net(x).argmax(1), threat="linf:0.05", protocol=short)
    assert record.failure is None
    assert record.worst_case < 1
    assert ("few-classes" in {f.name for f in record.flags}) == (classes < 4)
    assert record.adversarial_predictions("autoattack").max() < classes


def test_cnn_a_lies_between_its_proven_and_its_published_bound(shared):
    """The quick protocol on the networks with verified bounds; `standard` runs in the slow tests."""
    for name, clean, proven in (("adv", 0.70, 0.485), ("mix", 0.79, 0.48)):
        model, data = _cnn_a(shared, name)
        record = evaluate(model, data.images, data.labels, threat="linf:2/255", protocol="gradient")
        assert record.clean_accuracy == clean
        assert proven <= record.worst_case < clean


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "clean", "proven", "at_most"), [("adv", 0.70, 0.485, 0.505), ("mix", 0.79, 0.48, 0.53)]
)
def test_standard_on_cnn_a(shared, name, clean, proven, at_most):
    model, data = _cnn_a(shared, name)
    record = evaluate(model, data.images, data.labels, threat="linf:2/255")
    assert record.clean_accuracy == clean
    assert proven <= record.robust_accuracy["autoattack"] <= at_most


def _cnn_a(shared, name):
    import models
    from bench.checkpoint import load_weights, read_state_dict
    from bench.datasets import load

    arguments = {"in_channels": 3, "image_size": 32, "num_classes": 10}
    mean, std = (125.3 / 255, 123 / 255, 113.9 / 255), (63 / 255, 62.1 / 255, 66.7 / 255)
    model = models.build("cnn_a", arguments, mean=mean, std=std)
    path = shared / "external" / f"cnn_a_{name}.pt"
    load_weights(model.net, read_state_dict(path), str(path))
    return model.eval(), load(f"arrays:{shared}/external", name="cifar10-sdp200")


def test_older_records_still_load():
    from pathlib import Path

    files = sorted((Path(__file__).parent / "fixtures").glob("record-v*/*.json"))
    assert files, "one record of every schema version is kept"
    for file in files:
        assert isinstance(results.read(file), EvaluationRecord)


def test_security_curve_lies_at_or_below_autoattack_at_its_radius(net, data):
    """The nearest points of FMN and of all evidence: at eps no image stands again."""
    from bench.curve import standing_at
    from bench.schema import unpack_floats

    x = data[0][:60]
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 10
    full = protocol("curve")
    attacks = tuple(
        spec.model_copy(update={"params": {**spec.params, **SHORT[spec.name]}})
        for spec in full.columns[0].attacks
    )
    short = full.model_copy(
        update={
            "columns": (full.columns[0].model_copy(update={"attacks": attacks}), full.columns[1])
        }
    )
    record = measure(net, x, y, threat="linf:0.02", protocol=short).record
    assert record.failure is None
    far = unpack_floats(record.columns["curve"].distances, record.n)
    assert record.columns["autoattack"].distances is None
    assert (far[~record.clean_correct] == 0).all()
    assert np.isfinite(far).all()  # a box this large hides no class from FMN
    grid = [0.0, 0.005, 0.02, 0.1, 1.0]
    standing = standing_at(far, grid, norm="linf", protocol=short)
    assert standing[0] == record.clean_correct.sum()
    assert standing[2] <= record.standing("autoattack").sum()
    assert standing[2] == record.worst_case_standing.sum()
    assert sorted(standing, reverse=True) == standing.tolist()
    assert standing[-1] == 0


def test_an_older_record_is_the_same_answer_without_what_it_could_not_say(net, data, tmp_path):
    new = run(net, data[0]).record
    columns = {
        name: column.model_copy(
            update={
                "outcomes": tuple(
                    o.model_copy(update={"uint8_survivors": None}) for o in column.outcomes
                )
            }
        )
        for name, column in new.columns.items()
    }
    old = new.model_copy(update={"schema_version": 1, "columns": columns})
    path = results.write(old, tmp_path)
    assert results.write(new, tmp_path) == path  # nothing new to say, nothing refused
    assert results.read(path).schema_version == 1
