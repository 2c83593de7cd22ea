"""A radius as somebody writes or computes it: taken for what it is near to, and always read back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import AutoAttack, evaluate
from bench.__main__ import main
from bench.schema import InvalidInput, ThreatModel

MEANT = [
    (np.float32(8 / 255), "8/255"),
    (np.float64(8 / 255), "8/255"),
    (torch.tensor(8 / 255), "8/255"),
    (torch.tensor([4 / 255], dtype=torch.float64), "4/255"),
    (8 / 255, "8/255"),
    ("0.03137255", "8/255"),
    ("8./255", "8/255"),
    (" 8 / 255".replace(" ", ""), "8/255"),
    ("1e-3", "0.001"),
    ("1E-3", "0.001"),
    (np.float32(0.3), "0.3"),
    (np.float16(0.25), "0.25"),
    (np.float32(0.031), "0.031"),
    (np.float16(8 / 255), "8/255"),
    (np.float16(0.1), "0.1"),
    (torch.tensor(8 / 255, dtype=torch.bfloat16), "8/255"),
    (torch.tensor(0.1, dtype=torch.bfloat16), "0.1"),
    (torch.tensor(0.25, dtype=torch.bfloat16), "0.25"),
    ("0.031", "0.031"),  # of the TRADES paper: near 8/255, and not it
    ("0.0314", "0.0314"),
    ("0.031373", "0.031373"),  # 6 places are as written
    (Fraction(1, 3), "85/255"),
    (Fraction(1, 7), "1/7"),
    ("2/255", "2/255"),
]


@pytest.mark.parametrize(
    ("given", "meant"), MEANT, ids=lambda value: f"{type(value).__name__} {value}"
)
def test_a_radius_means_what_it_is_near_to(given, meant):
    assert ThreatModel.of("linf", given).eps == meant
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    attack = AutoAttack(model, norm="Linf", eps=given, version="custom", attacks_to_run=["apgd-ce"])
    assert attack._threat().eps == meant


def test_under_l2_too():
    assert str(ThreatModel.asked("l2:0.50196078")) == "l2:128/255"
    assert str(ThreatModel.asked("L2:0.5")) == "l2:0.5"


TEXTS = ["", "0", "-1/255", "nan", "inf", "1/0", "8", "8/255/2", "1e999", "1e-999", "0x1", "eight"]
OTHERS = ["1_0", None, True, float("nan"), torch.tensor([1.0, 2.0]), "9" * 500, 1j]


@pytest.mark.parametrize("eps", TEXTS + OTHERS, ids=lambda value: str(value)[:12])
def test_what_is_no_radius_is_refused_in_a_sentence(eps):
    with pytest.raises(InvalidInput, match="eps") as refused:
        ThreatModel.of("linf", eps)
    assert len(str(refused.value)) < 300


@given(st.floats(1e-9, 0.999))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_back_as_itself(eps):
    asked = ThreatModel.of("linf", eps)
    assert ThreatModel.parse(str(asked)) == asked
    assert ThreatModel.model_validate_json(asked.model_dump_json()) == asked
    assert abs(asked.epsilon - eps) <= max(1e-6 * eps, 1e-12)


def test_a_record_is_read_as_it_was_written():
    """Only what is asked for is taken for something near: what a record says stays."""
    assert str(ThreatModel.parse("linf:0.03137255")) == "linf:0.03137255"
    assert ThreatModel.model_validate({"norm": "linf", "eps": "0.03137255"}).eps == "0.03137255"


def test_the_entrances_understand_it_and_say_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.rand(2, 1, 2, 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    record = evaluate(model, x, model(x).argmax(1), threat="linf:0.03137255", protocol="gradient")
    assert str(record.threat) == "linf:8/255"
    assert main(["doctor", "nothing-here", "--threat", "linf:8./255"]) == 2
    assert "the threat linf:8./255 is taken as linf:8/255" in capsys.readouterr().err


def test_training_writes_a_card_that_is_read_back():
    from awp_train.flags import configured
    from awp_train.presets import find

    config = configured(find("digits-at").config, {"threat": "linf:0.1234567890123"})
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert (
        configured(find("digits-at").config, {"threat": "linf:.0313725490"}).threat.eps == "8/255"
    )
