"""The preflight: a line a check, a remedy where something is wrong, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from bench.__main__ import main
from bench.reliability import doctor
from bench.reliability.doctor import examine
from bench.reliability.flags import FLAGS
from bench.schema import InvalidInput
from bench.sources import checkpoint
from tests.conftest import network

LINF, WITHOUT_PROBES = "linf:0.1", "l1:5"


def states(checks):
    return {check.name: check.state for check in checks}


def test_a_healthy_network_passes_every_check(fitted, digits):
    checks = examine(fitted, *digits, threat=LINF, claimed=0.95, source=fitted)
    assert set(states(checks).values()) == {"ok"}
    only_with_others = {"scale-sensitive", "equivalent-breaks-more", "chance-level", "check-failed"}
    assert {*FLAGS, "logits", "class count", "clean accuracy"} - only_with_others <= set(
        states(checks)
    )
    assert all(c.figure and not c.remedy for c in checks)
    assert not doctor.failed(checks)


@pytest.mark.parametrize(
    ("spoil", "name", "state"),
    [
        (lambda net: lambda x: net(x).softmax(1), "probabilities", "fail"),
        (lambda net: lambda x: net(x)[:, :3].exp() * 0, "class count", "fail"),
        (lambda net: lambda x: net(x)[:, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]], "clean accuracy", "fail"),
        (lambda net: lambda x: net(x)[0], "logits", "fail"),
        (lambda net: lambda x: [net(x)], "logits", "fail"),
        (lambda net: nn.Sequential(*net), "train-mode", "warn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_with_a_remedy(fitted, digits, spoil, name, state):
    checks = examine(spoil(fitted), *digits, threat=WITHOUT_PROBES)
    (line,) = [c for c in checks if c.name == name]
    assert line.state == state
    assert line.remedy.endswith(".")
    assert line.figure
    assert doctor.failed(checks) == (state == "fail")


def test_a_claim_is_held_against_what_is_seen(fitted, digits):
    def line(model, claimed):
        checks = examine(model, *digits, threat=WITHOUT_PROBES, claimed=claimed)
        return next(c for c in checks if c.name == "clean accuracy")

    assert line(fitted, 0.95).state == "ok"
    assert line(fitted, 0.3).state == "warn"
    spoiled = line(lambda x: fitted(x.flip(3)), 0.95)
    assert spoiled.state == "fail"
    assert "claimed 95.0%" in spoiled.figure


def test_a_wrong_call_is_explained(fitted, digits):
    x, y = digits
    with pytest.raises(InvalidInput, match="share such as 0.84"):
        examine(fitted, x, y, threat=LINF, claimed=84)
    with pytest.raises(InvalidInput, match="must lie in"):
        examine(fitted, 255 * x, y, threat=LINF)
    with pytest.raises(InvalidInput, match="expected images"):
        examine(fitted, x, y[:3], threat=LINF)


def test_what_cannot_be_tried_is_said(fitted, digits):
    """No probes under l1; and a function has no layers to scale."""
    checks = examine(lambda x: fitted(x), *digits, threat=WITHOUT_PROBES, metamorphic_tests=True)
    assert states(checks)["metamorphic"] == states(checks)["probes"] == "warn"


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(digits_cnn, tmp_path) -> Path:
    return network(tmp_path, "net", digits_cnn)


def test_the_command_prints_a_line_a_check(folder, capsys):
    assert main(["doctor", str(folder), "--n", "64", "--transfer-from", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "net, digits test[0:64], linf:0.15"
    assert all(line.startswith(("ok ", "warn", "fail")) for line in said[1:])
    assert any("transfer-stronger" in line for line in said)


def test_the_command_exits_1_where_a_check_failed_and_2_for_a_wrong_call(folder, capsys):
    assert main(["doctor", str(folder), "--n", "64", "--claimed", "1", "--json"]) in (0, 1)
    checks = json.loads(capsys.readouterr().out)
    assert {c["state"] for c in checks} <= {"ok", "warn", "fail"}
    card = checkpoint.read_card(folder)  # a second normalisation, which the weights never saw
    wrong = card.model_copy(update={"mean": (1.5,), "std": (0.1,)})
    (folder / "card.json").write_text(wrong.model_dump_json())
    assert main(["doctor", str(folder), "--n", "64"]) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "normalisation " in x[:24]]
    assert line.startswith("fail")
    assert "once less, the card's" in line
    assert main(["doctor", "nowhere"]) == 2
    assert main(["doctor", str(folder), "--claimed", "84"]) == 2
    assert main(["doctor", str(folder), "--dataset", "digitz"]) == 2
    assert "Did you mean 'digits'" in capsys.readouterr().err


def test_metamorphic_lines_come_on_request(folder, capsys, monkeypatch):
    seen = []
    real = doctor.equivalent_findings

    def short(model, x, y, **more):
        seen.extend(c.name for c in more["columns"])
        return real(model, x[:6], y[:6], **(more | {"columns": more["columns"][1:2]}))

    monkeypatch.setattr(doctor, "equivalent_findings", short)
    assert main(["doctor", str(folder), "--n", "64", "--metamorphic", "--json"]) == 0
    lines = {c["name"]: c for c in json.loads(capsys.readouterr().out)}
    assert seen == ["pgd20", "cw", "autoattack-lite"]
    assert {lines[name]["state"] for name in ("scale-sensitive", "equivalent-breaks-more")} == {
        "ok"
    }
