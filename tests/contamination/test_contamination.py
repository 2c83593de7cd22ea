"""The check of contamination: what was put in must come out, and nothing where nothing was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench import contamination, datasets, models
from bench.__main__ import main
from bench.contamination import NAME, Contamination, read_contamination, sentence
from bench.measure.contamination import Parts, check
from bench.records import store
from bench.schema import InvalidInput, MeasurementFailed, ModelCard, ThreatModel, TrainConfig
from bench.sources import checkpoint
from tests.contamination.toy import CARD, THREAT, checked, reader, seen

# ---------------------------------------------------------------- what was put in


@pytest.mark.parametrize("threat", [THREAT, ThreatModel.parse("l2:0.1"), None])
@pytest.mark.parametrize("learnt", [0, 200, 500, 1000])
def test_the_share_that_was_learnt_comes_out(learnt, threat):
    found = checked(learnt, threat=threat)
    assert found.verdict == ("sign" if learnt else "no sign")
    assert found.share == pytest.approx(learnt / 1000, abs=0.08)
    assert found.detectable is not None
    assert found.detectable < 0.15
    assert set(found.losses) == ({"clean"} if threat is None else {"clean", "attacked"})
    assert found.test.clean_correct > 700


def test_more_learnt_is_more_of_a_sign():
    p = [checked(k).p_value for k in (0, 50, 100, 200, 400, 1000)]
    assert p == sorted(p, reverse=True)


def test_clean_networks_show_a_sign_no_more_often_than_stated():
    """Of 100 draws from one distribution, at the level of 1 %: one."""
    signs = sum(checked(0, n=100, seed=seed).verdict == "sign" for seed in range(100))
    assert signs <= 1 + 3


def test_a_network_that_remembers_nothing_is_not_cleared():
    """Training images that look like all others: a share of test images could not show."""
    same = Parts(seen("train", 500, 0, 1), seen("test", 500, 0, 2), seen("train", 500, 0, 3))
    found = check(reader(), same, CARD, threat=None)
    assert (found.verdict, found.detectable, found.share) == ("cannot tell", None, None)
    assert "cannot be told" in sentence(found)


def test_without_training_images_nothing_is_said_of_the_share():
    parts = Parts(None, seen("test", 500, 500, 2), seen("train", 500, 0, 3))
    found = check(reader(), parts, CARD, threat=THREAT)
    assert (found.verdict, found.detectable, found.share) == ("sign", None, None)
    clean = check(reader(), replace(parts, test=seen("test", 500, 0, 2)), CARD, threat=THREAT)
    assert sentence(clean).startswith("No sign of contamination (p 0.")
    assert "would show" not in sentence(clean)


def test_what_is_detectable_is_detected_as_often_as_stated():
    """Learnt in the share that is called detectable, a sign comes out in about 90 %."""
    need = np.mean([checked(0, n=400, seed=s).detectable for s in range(10)])
    signs = [checked(round(400 * need), n=400, seed=s).verdict == "sign" for s in range(100, 150)]
    assert 0.78 <= np.mean(signs) <= 0.98


def test_other_classes_of_the_second_set_do_not_matter():
    """A second set of other proportions, whose classes are of other difficulty."""
    test, second = seen("test", 1000, 0, 1), seen("train", 1000, 0, 2)
    for part in (test, second):
        hard = torch.nonzero(part.labels < 5)[:, 0]
        part.images[hard, 0, 0, part.labels[hard]] *= 0.4
    few = second[(second.labels >= 5) | (torch.arange(1000) % 4 == 0)]
    found = check(reader(), Parts(None, test, few), CARD, threat=THREAT)
    assert found.verdict == "no sign"
    assert found.excess("clean").high < 0  # accuracies differ, by their classes alone


# ---------------------------------------------------------------- what is refused


def test_the_network_stays_as_it_is_and_must_answer():
    net = reader().train()
    parts = Parts(None, seen("test", 100, 0, 1), seen("train", 100, 0, 2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    check(net, parts, CARD, threat=THREAT)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        net[1].bias.fill_(torch.nan)
    with pytest.raises(MeasurementFailed, match="not finite"):
        check(net, parts, CARD, threat=None)


def test_l1_has_no_fgsm_and_is_checked_unattacked():
    parts = Parts(None, seen("test", 100, 0, 1), seen("train", 100, 0, 2))
    found = check(reader(), parts, CARD, threat=ThreatModel.parse("l1:1"))
    assert (found.threat, found.attack, set(found.losses)) == (None, None, {"clean"})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("train", "test", "test"), "100 of the 100 second images .* are test images too"),
        (("train", "test", "train"), "100 of the 100 second images .* are training images too"),
        (("train", "test", "few"), "at least 100 second images, got 99"),
        (("train", "test", "larger"), r"second images are .* \(1, 1, 11\), test images"),
        (("train", "test", "other"), "no class in common"),
        (
            ("train", "test", "eleven"),
            "second images have labels up to 10, the network has 10 classes",
        ),
    ],
)
def test_a_second_set_that_is_none_is_refused(parts, said):
    of = {
        "train": seen("train", 100, 0, 1),
        "test": seen("test", 100, 0, 2),
        "few": seen("train", 99, 0, 3),
        "other": replace(seen("train", 100, 0, 4), labels=torch.full((100,), 9)),
        "eleven": replace(seen("train", 100, 0, 4), labels=torch.full((100,), 10)),
        "larger": replace(seen("train", 100, 0, 5), images=torch.rand(100, 1, 1, 11)),
    }
    held = Parts(*(of[name] for name in parts))
    if parts[2] == "other":
        held.test.labels.clamp_(max=8)
    with pytest.raises(InvalidInput, match=said):
        check(reader(), held, CARD, threat=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"losses": {}},
        {"attack": None},
        {"training": None},
        {"verdict": "no sign"},
        {"test": {"n": 99}},
        {"test": {"clean_correct": 10**6}},
        {"second": {"attacked_correct": None}},
        {"second": {"n": 100, "clean_correct": 1, "attacked_correct": 1}},
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused(wrong):
    fields = checked(0, n=200).model_dump(mode="json")
    Contamination.model_validate(fields)
    merged = {k: fields[k] | v if k in ("test", "second") else v for k, v in wrong.items()}
    with pytest.raises(ValidationError):
        Contamination.model_validate(fields | merged)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', "[" * 70_000, "\xff"])
def test_a_broken_file_is_named_and_left(tmp_path, text):
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    with pytest.raises(InvalidInput, match=r"contamination\.json .* left in place"):
        read_contamination(tmp_path, weights_sha256="0" * 64)
    assert (tmp_path / NAME).exists()


def test_counts_are_kept_and_survive_a_file(tmp_path):
    found = checked(100)
    text = store.pretty_json(found)
    assert "p_value" not in text
    (tmp_path / NAME).write_text(text)
    assert read_contamination(tmp_path, weights_sha256="0" * 64) == found
    assert read_contamination(tmp_path, weights_sha256="1" * 64) is None
    assert read_contamination(tmp_path / "elsewhere", weights_sha256="0" * 64) is None


# ---------------------------------------------------------------- the command

RUN = TrainConfig.model_validate(
    {"dataset": "digits", "n_train": 200, "n_validation": 200, "threat": "linf:0.1", "seed": 3}
)


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint of a small network whose card holds these fields."""

    def write(name: str, **fields: object) -> Path:
        arguments = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}
        given = {"name": name, "dataset": "digits", "class_count": 10, "n_parameters": 0}
        card = ModelCard.model_validate(
            {
                "arch": "small_cnn",
                "arch_args": arguments,
                "weights_sha256": "0" * 64,
                **given,
                **fields,
            }
        )
        checkpoint.save(tmp_path / name, models.build("small_cnn", arguments), card)
        return tmp_path / name

    return write


def test_the_command_says_and_keeps_what_it_found(save, capsys):
    folder = save("ours", train=RUN, threat=RUN.threat)
    assert main(["contamination", str(folder), "--n", "150", "--save"]) == 0
    printed = capsys.readouterr().out
    assert "ours, digits first 150 of test[0:1000]\n  Contamination cannot be told" in printed
    assert "  FGSM, linf:0.1: training " in printed
    card = checkpoint.read_card(folder)
    kept = read_contamination(folder, weights_sha256=card.weights_sha256)
    assert (kept.trained_on, kept.training.n, kept.second.n) == ("run", 150, 150)
    assert kept.training.split == "first 150 of train[200 drawn by seed 3]"
    assert kept.second.split.startswith("first 150 of train[397 left by the draw of seed 3]")
    assert main(["contamination", str(folder), "--n", "150", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["p_value"]) == ("cannot tell", kept.p_value)


def test_images_that_chose_the_epoch_come_last_and_extra_ones_leave_only_them(save):
    extra = {"file": "x.npz", "sha256": "1" * 64, "n": 100, "fraction": 0.5}
    splits = {}
    for name, fields in (("plain", {}), ("rst", {"objective": "rst", "extra": extra})):
        run = TrainConfig.model_validate(RUN.model_dump() | fields)
        folder = save(name, train=run)
        main(["contamination", str(folder), "--save"])
        card = checkpoint.read_card(folder)
        splits[name] = read_contamination(folder, weights_sha256=card.weights_sha256).second.split
    assert splits["plain"] == (
        "train[397 left by the draw of seed 3], train[200 others drawn by seed 3]"
    )
    assert splits["rst"] == "train[200 others drawn by seed 3]"


def test_a_network_of_others_is_checked_by_what_it_declares(save, capsys):
    folder = save("theirs")
    call = ["contamination", str(folder), "--n", "200"]
    assert main(call) == 2
    assert "not checked" in capsys.readouterr().err
    declared = ["--trained-on", "train[0:400]"]
    assert main([*call, *declared]) == 2
    assert main([*call, *declared, "--second", "train[300:797]"]) == 2
    assert (
        "100 of the 200 second images (first 200 of train[300:797]) are training images"
        in capsys.readouterr().err
    )
    assert main([*call, *declared, "--second", "train[400:797]", "--save"]) == 0
    assert "  clean: training " in (printed := capsys.readouterr().out)
    assert "FGSM" not in printed  # no threat is known
    assert main([*call, *declared, "--second", "train[400:797]", "--threat", "linf:0.1"]) == 0
    assert "FGSM, linf:0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--n", "99"], "--n must be at least 100, got 99"),
        (["--second", "train[5000:6000]"], "digits has 797 train images"),
        (["--second", "imagefolder:/nowhere"], "/nowhere"),
        (["--dataset", "mnist"], "was trained on digits"),
        (["--split", "test[0:50]"], "at least 100 test images, got 50"),
    ],
)
def test_wrong_calls_are_told(save, capsys, options, said):
    assert main(["contamination", str(save("ours", train=RUN)), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_left_nothing_is_not_checked(save, capsys):
    run = RUN.model_copy(update={"n_train": 797, "n_validation": 0})
    assert main(["contamination", str(save("ours", train=run))]) == 2
    assert "not checked. Of the training images of digits the run left 0" in capsys.readouterr().err


def test_test_images_of_other_people_are_no_second_sets_like(save, capsys, monkeypatch):
    monkeypatch.setattr("bench.measure.contamination.APART", {"digits": "other people wrote them"})
    folder = str(save("ours", train=RUN))
    assert main(["contamination", folder]) == 2
    assert (
        "not checked. digits has no second set: other people wrote them" in capsys.readouterr().err
    )
    assert main(["contamination", folder, "--second", "train[0:797]"]) == 2  # its own images


def test_a_sign_is_an_exit_status(save, capsys, monkeypatch):
    monkeypatch.setattr(contamination, "LEVEL", 0.99)
    assert main(["contamination", str(save("ours", train=RUN)), "--n", "100"]) == 1
    assert "Sign of contamination" in capsys.readouterr().out


def test_second_images_may_lie_in_a_folder(save, tmp_path, capsys):
    kept = datasets.load("digits", "train[400:797]")
    home = tmp_path / "second"
    home.mkdir()
    np.save(home / "images.npy", kept.images.numpy().transpose(0, 2, 3, 1))
    np.save(home / "labels.npy", kept.labels.numpy())
    call = ["contamination", str(save("theirs")), "--trained-on", "train[0:400]", "--n", "200"]
    assert main([*call, "--second", f"arrays:{home}"]) == 0
    assert "second " in capsys.readouterr().out
