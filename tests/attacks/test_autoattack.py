"""AutoAttack's own interface: both packages' call forms, what they return, what is recorded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from bench import AutoAttack, evaluate
from bench.attacks.geometry import admissible
from bench.autoattack import NORMS, RAND_PASSES
from bench.judge import Judge
from bench.measure.evaluate import measure
from bench.protocols import protocol
from bench.records import store
from bench.schema import InvalidInput, MeasurementFailed, ThreatModel

LOOSE = protocol("autoattack")  # its tolerances are those of every protocol here
STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]


def short(adversary):
    """The standard attacks with a few steps each."""
    adversary.apgd.n_iter = adversary.apgd_targeted.n_iter = adversary.fab.n_iter = 5
    adversary.square.n_queries = 20
    adversary.verbose = False
    return adversary


def custom(model, attacks=("apgd-ce",), **more):
    return short(
        AutoAttack(model, **{"eps": 0.03, "version": "custom"} | more, attacks_to_run=attacks)
    )


# ---------------------------------------------------------------- call forms


def test_the_example_of_the_published_readme(net, labelled):
    """As written there, but for shorter attacks."""
    images, labels = (part[:12] for part in labelled)
    forward_pass, epsilon, batch_size = net, 8 / 255, 6

    adversary = AutoAttack(forward_pass, norm="Linf", eps=epsilon, version="standard")
    short(adversary)
    x_adv = adversary.run_standard_evaluation(images, labels, bs=batch_size)
    dict_adv = adversary.run_standard_evaluation_individual(images, labels, bs=batch_size)

    assert x_adv.shape == images.shape
    assert list(dict_adv) == STANDARD
    assert all(found.shape == images.shape for found in dict_adv.values())
    assert str(adversary.record.threat) == "linf:8/255"


def test_the_custom_example_with_positional_arguments(net, labelled, capsys, tmp_path):
    log = str(tmp_path / "log.txt")
    adversary = AutoAttack(net, "L2", 0.2, 7, False, ["square"], "custom", False, "cpu", log)
    short(adversary)
    adversary.attacks_to_run = ["apgd-ce", "fab"]
    adversary.apgd.n_restarts = 2
    adversary.fab.n_restarts = 2
    with torch.no_grad():
        x_adv, y_adv = adversary.run_standard_evaluation(*labelled, 10, True)
    assert (str(adversary.record.threat), adversary.record.seed) == ("l2:0.2", 7)
    assert torch.equal(net(x_adv).argmax(1), y_adv)
    (column,) = adversary.record.columns.values()
    assert [o.spec.params["restarts"] for o in column.outcomes] == [2, 2]
    assert not capsys.readouterr().out
    pairs = adversary.run_standard_evaluation_individual(*labelled, batch_size=20)
    assert list(pairs) == ["apgd-ce", "fab"]
    assert all(torch.equal(net(x).argmax(1), y) for x, y in pairs.values())


@pytest.mark.parametrize(
    ("attacks", "size", "wanted", "pair"),
    [
        (None, {}, None, False),
        (None, {"bs": 3}, None, False),
        (None, {"batch_size": 3}, None, True),
        (["apgd-ce"], {}, None, True),
        (["apgd-ce"], {"batch_size": 3}, False, False),
        (None, {}, True, True),
    ],
)
def test_which_form_returns_a_pair(net, labelled, attacks, size, wanted, pair):
    """batch_size= and attacks= are pyautoattack's words; return_labels decides over both."""
    adversary = AutoAttack(net, eps=0.03, verbose=False, version="custom", attacks=attacks)
    adversary.attacks_to_run, adversary.apgd.n_iter = ["apgd-ce"], 1
    x, y = labelled
    answer = adversary.run_standard_evaluation(x[:6], y[:6], return_labels=wanted, **size)
    assert isinstance(answer, tuple) == pair


# ---------------------------------------------------------------- what is returned


def test_returned_images_are_verified_or_clean(net, labelled):
    x, y = labelled
    adversary = custom(net, ["apgd-ce", "square"], norm="L2", eps=0.25)
    x_adv, y_adv = adversary.run_standard_evaluation(x, y, return_labels=True)
    record = adversary.record
    standing, right = record.standing("custom"), record.clean_correct
    broken = torch.from_numpy(right & ~standing)
    assert broken.any() and standing.any() and (~right).sum() == 4
    assert torch.equal(x_adv[~broken], x[~broken])
    assert Judge(net)(x_adv[broken], y[broken]).broken.all()
    assert admissible(x[broken], x_adv[broken], record.threat, LOOSE).all()
    assert torch.equal(y_adv, net(x_adv).argmax(1))
    assert torch.equal(y_adv == y, torch.from_numpy(standing))


def test_each_attack_alone_starts_from_all_correct_images(net, labelled):
    x, y = labelled
    adversary = custom(net, ["apgd-t", "square"])
    found = adversary.run_standard_evaluation_individual(x, y)
    for name in found:
        (outcome,) = adversary.record.columns[name].outcomes
        assert outcome.attacked == 44
        alone = custom(net, [name])
        assert torch.equal(alone.run_standard_evaluation(x, y), found[name])
        moved = (found[name] != x).flatten(1).any(1)
        assert int(moved.sum()) == outcome.broken


def test_what_is_measured_is_what_evaluate_measures(net, labelled):
    """The standard version is the protocol autoattack: one record, whichever way it was asked."""
    x, y = labelled[0][:6], labelled[1][:6]
    adversary = AutoAttack(net, eps=0.1, verbose=False)
    adversary.run_standard_evaluation(x, y)
    other = evaluate(net, x, y, threat="linf:0.1", protocol="autoattack", engine="ours")
    assert store.same_answer(adversary.record, other)


@pytest.mark.parametrize(
    ("version", "norm", "classes"),
    [
        *itertools.product(("standard", "plus", "rand"), ("linf", "l2"), (2, 3, 4, 10, 100)),
        ("standard", "l1", 10),
    ],
)
def test_settings_of_a_version_are_those_of_its_protocol(version, norm, classes):
    name = {"standard": "autoattack"}.get(version, f"autoattack-{version}")
    published = {ours: theirs for theirs, ours in NORMS.items()}[norm]
    adversary = AutoAttack(lambda x: x, published, 0.1, version=version)
    wanted, own = protocol(name, norm=norm, classes=classes), adversary._specs(classes)
    (column,) = wanted.columns
    assert list(own) == adversary.attacks_to_run
    assert all(s in column.attacks for s in own.values() if s.name != "apgd-margin")
    assert list(dict.fromkeys(s.name for s in own.values())) == [s.name for s in column.attacks]
    assert adversary._sequence(classes) == wanted
    assert wanted.passes == (RAND_PASSES if version == "rand" else 1)
    adversary.square.p_init = 0.5  # another suite is not called by the version's name
    assert adversary._sequence(classes).name == "autoattack-custom"


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_measured(make_net, classes):
    """Below the classes that a DLR loss needs both become the margin's APGD: once, or for each name."""
    model, names = make_net(classes=classes), ["apgd-ce", "apgd-dlr", "fab-t", "apgd-t"]
    x = torch.rand(6, 1, 8, 8)
    y = model(x).argmax(1)
    adversary = custom(model, names, eps=0.05)
    x_adv, y_adv = adversary.run_standard_evaluation(x, y, batch_size=3)
    assert torch.equal(y_adv == y, torch.from_numpy(adversary.record.standing("custom")))
    outcomes = adversary.record.columns["custom"].outcomes
    assert all(o.spec.params.get("targets", 1) <= classes - 1 for o in outcomes)
    assert len(outcomes) == (3 if classes == 2 else 4)
    found = adversary.run_standard_evaluation_individual(x, y)
    assert list(found) == names
    ran = {name: column.outcomes[0].spec.name for name, column in adversary.record.columns.items()}
    assert ran["apgd-t"] == "apgd-margin"
    assert ran["apgd-dlr"] == ("apgd-margin" if classes == 2 else "apgd-dlr")


def test_a_function_a_double_image_and_bytes_are_measured(net, labelled):
    x, y = (part[:12] for part in labelled)
    x = (x * 255).round() / 255
    found = custom(net).run_standard_evaluation(x, y)
    assert torch.equal(custom(lambda z: net(z)).run_standard_evaluation(x, y), found)
    assert torch.equal(custom(net).run_standard_evaluation(x.double(), y), found)
    assert torch.equal(custom(net).run_standard_evaluation((x * 255).to(torch.uint8), y), found)


# ---------------------------------------------------------------- settings take effect


def test_settings_take_effect(net, labelled):
    """Each is another parameter of the attack that is recorded."""
    adversary = custom(net, STANDARD)
    adversary.apgd.n_iter, adversary.apgd.n_restarts, adversary.apgd.eot_iter = 2, 3, 2
    targeted = adversary.apgd_targeted
    targeted.n_iter, targeted.n_restarts, targeted.n_target_classes = 3, 2, 4
    adversary.fab.n_iter, adversary.fab.n_restarts, adversary.fab.n_target_classes = 4, 2, 3
    adversary.square.n_queries, adversary.square.n_restarts, adversary.square.p_init = 5, 2, 0.3
    adversary.run_standard_evaluation(*(part[:12] for part in labelled))
    asked = {o.spec.name: o.spec.params for o in adversary.record.columns["custom"].outcomes}
    assert asked == {
        "apgd-ce": {"steps": 2, "restarts": 3, "samples": 2},
        "apgd-t": {"steps": 3, "restarts": 2, "targets": 4},
        "fab-t": {"steps": 4, "restarts": 1, "targets": 3},  # one restart, as published
        "square": {"queries": 5, "restarts": 2, "p_init": 0.3},
    }


def test_the_seed_is_zero_where_none_is_given(net, labelled, capsys):
    adversary = custom(net)
    adversary.verbose = True
    x_adv = adversary.run_standard_evaluation(*labelled)
    assert "seed 0 (none was given)" in capsys.readouterr().out
    assert torch.equal(custom(net, seed=0).run_standard_evaluation(*labelled), x_adv)
    adversary.seed = 1
    other = adversary.run_standard_evaluation(*labelled)
    assert adversary.record.seed == 1
    assert not torch.equal(other, x_adv)


# ---------------------------------------------------------------- what is said


def test_progress_is_printed_and_logged(net, labelled, capsys, tmp_path):
    adversary = custom(net, ["apgd-ce", "square"], log_path=tmp_path / "log.txt")
    adversary.verbose = True
    adversary.run_standard_evaluation(*labelled)
    said = capsys.readouterr().out
    assert said == (tmp_path / "log.txt").read_text()
    share = adversary.record.worst_case
    assert "initial accuracy: 91.67% of 48 images\n" in said
    assert "robust accuracy after APGD-CE: " in said
    assert f"robust accuracy after SQUARE: {share:.2%} (total time " in said
    assert said.endswith(f"robust accuracy: {share:.2%}\n")
    adversary.run_standard_evaluation_individual(*labelled)
    assert "robust accuracy by APGD-CE " in capsys.readouterr().out
    assert adversary.clean_accuracy(*labelled, bs=10) == 44 / 48
    assert "clean accuracy: 91.67% of 48 images" in capsys.readouterr().out


# ---------------------------------------------------------------- resuming


def test_an_interrupted_run_continues_to_the_identical_record(net, labelled, tmp_path, monkeypatch):
    attacks = ["apgd-ce", "apgd-t"]
    whole = custom(net, attacks)
    images: list[int] = []
    watch = net.register_forward_pre_hook(lambda module, given: images.append(len(given[0])))
    x_adv = whole.run_standard_evaluation(*labelled)
    uninterrupted = sum(images)
    images.clear()
    again = custom(net, attacks)
    with monkeypatch.context() as patched:
        patched.setattr(again, "_say", lambda text: _stops_after_apgd(text))
        with pytest.raises(KeyboardInterrupt):
            again.run_standard_evaluation(*labelled, state_path=tmp_path / "state")
    assert again.record is None
    assert list((tmp_path / "state").rglob("*"))
    spent = sum(images)
    images.clear()
    resumed = again.run_standard_evaluation(*labelled, state_path=str(tmp_path / "state"))
    watch.remove()
    assert torch.equal(resumed, x_adv)
    assert store.same_answer(again.record, whole.record)
    assert again.evidence == whole.evidence
    first, second = (o.forward_passes for o in again.record.columns["custom"].outcomes)
    assert 0 < spent < uninterrupted  # stopped after the first attack on the first of two shards
    assert second < sum(images) < uninterrupted - first / 3  # which is not done again
    assert not list((tmp_path / "state").iterdir())


def _stops_after_apgd(text):
    if "after apgd-ce" in text:
        raise KeyboardInterrupt


# ---------------------------------------------------------------- the cascade


def test_the_cascade_is_a_version(net, labelled):
    x, y = (part[:12] for part in labelled)
    adversary = AutoAttack(net, eps=0.03, version="cascade", verbose=False)
    x_adv, y_adv = adversary.run_standard_evaluation(x, y, return_labels=True)
    record = adversary.record
    (column,) = protocol("cascade").columns
    assert [o.spec for o in record.columns["cascade"].outcomes] == [*column.attacks]
    assert record.audit == "none" and record.audits == ()  # a measurement is audited, not this
    measured = measure(net, x, y, threat="linf:0.03", protocol="cascade", audit="none")
    assert np.array_equal(record.standing("cascade"), measured.record.standing("cascade"))
    broken = torch.from_numpy(record.clean_correct & ~record.standing("cascade"))
    assert Judge(net)(x_adv[broken], y[broken]).broken.all()
    assert torch.equal(x_adv[~broken], x[~broken])
    assert torch.equal(y_adv, net(x_adv).argmax(1))
    each = adversary.run_standard_evaluation_individual(x, y)
    assert list(each) == [spec.name for spec in column.attacks]


def test_the_plan_of_the_cascade_is_fixed(net, labelled):
    adversary = AutoAttack(net, eps=0.03, version="cascade", verbose=False)
    adversary.apgd.n_iter = 5
    with pytest.raises(InvalidInput, match="the plan of version='cascade' is fixed"):
        adversary.run_standard_evaluation(*labelled)
    with pytest.raises(InvalidInput, match="not defined under l1"):
        AutoAttack(net, "L1", 5, version="cascade").run_standard_evaluation(*labelled)


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"is_tf_model": True}, "TensorFlow"),
        ({"version": "standrad"}, "Did you mean 'standard'"),
        ({"norm": "linf"}, "Did you mean 'Linf'"),
        ({"norm": "L0"}, "Known: L1, L2, Linf"),
        ({"eps": 8}, "Did you mean 8"),
        ({"eps": 0}, "positive"),
        ({"model": np.zeros(3)}, "got ndarray"),
        ({"attacks_to_run": ["apgd-ce"]}, "version='custom'"),
        ({"attacks": ["apgd-ce"]}, "version='custom'"),
        (
            {"attacks": ["apgd-ce"], "attacks_to_run": ["square"], "version": "custom"},
            "give one",
        ),
        ({"log_path": "nowhere/log.txt"}, "no folder nowhere"),
    ],
    ids=str,
)
def test_wrong_constructions_say_what_to_do(net, arguments, said):
    with pytest.raises(InvalidInput, match=said):
        AutoAttack(**{"model": net} | arguments)


@pytest.mark.parametrize(
    ("attacks", "call", "said"),
    [
        ([], {}, "no attack to run"),
        (["apgd-cw"], {}, "Did you mean 'apgd-ce'"),
        (["square", "square"], {}, "named twice"),
        (["square"], {"bs": 0}, "at least 1, got 0"),
        (["square"], {"bs": 10, "batch_size": 10}, "give one"),
        (["square"], {"state_path": "state.json"}, "state_path is a folder here"),
    ],
)
def test_wrong_runs_say_what_to_do(net, labelled, attacks, call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InvalidInput, match=said):
        custom(net, attacks).run_standard_evaluation(*labelled, **call)


@pytest.mark.parametrize(
    ("group", "name", "value", "said"),
    [
        ("apgd", "n_restart", 1, "Did you mean 'n_restarts'"),
        ("apgd", "n_iter", 0, "at least 1"),
        ("apgd", "n_iter", 2.5, "an int"),
        ("apgd", "use_largereps", 1, "True or False"),
        ("square", "p_init", 2, "in \\(0, 1\\]"),
        ("fab", "alpha_max", 0.2, "no setting of Fab"),
    ],
)
def test_wrong_settings_are_refused(net, group, name, value, said):
    with pytest.raises(InvalidInput, match=said):
        setattr(getattr(AutoAttack(net, verbose=False), group), name, value)


def test_images_of_another_range_and_large_steps_outside_l1_are_refused(net, labelled):
    x, y = labelled
    with pytest.raises(InvalidInput, match=r"must lie in \[0, 1\], .* divide by 255"):
        custom(net).run_standard_evaluation(x * 255, y)
    adversary = custom(net)
    adversary.apgd.use_largereps = True
    with pytest.raises(InvalidInput, match="belongs to L1"):
        adversary.run_standard_evaluation(x, y)


def test_a_model_that_fails_later_fails_the_run(net, labelled):
    class Tired(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 20:
                raise RuntimeError("out of breath")
            return net(x)

    adversary = custom(Tired())
    with pytest.raises(MeasurementFailed, match="out of breath"):
        adversary.run_standard_evaluation(*labelled)
    assert adversary.record.failure is not None


def test_the_radius_is_read_as_exactly_as_it_is_meant(net):
    for eps in (8 / 255, "8/255", np.float64(8 / 255), torch.tensor(8 / 255, dtype=torch.float64)):
        assert AutoAttack(net, eps=eps)._threat() == ThreatModel.parse("linf:8/255")
