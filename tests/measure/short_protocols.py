"""Protocols short enough for tests, a measurement with one of them, and how it is interrupted."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from bench.measure import shards
from bench.measure.evaluate import Measurement, measure
from bench.schema import AttackSpec, AuditRule, Column, Protocol

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
AUDITED = Protocol(
    name="audited",
    version=1,
    columns=(
        *QUICK.columns[:1],
        Column(
            name="weak",
            attacks=(AttackSpec(name="fgsm", params={"relative_step": 0.1}),),
            audit=AuditRule(attacks=QUICK.columns[1].attacks, few=20, many=40, many_from=1000),
        ),
    ),
)
_FEWER = {
    **dict.fromkeys(("apgd-ce", "apgd-margin", "apgd-t", "fab-t"), {"steps": 20}),
    "square": {"queries": 200},
}


def run(net: nn.Module, x: Tensor, protocol: Protocol = QUICK, **more: Any) -> Measurement:
    """A protocol on images of which the network gets all but ten right."""
    y = net(x).argmax(1)
    y[:10] = (y[:10] + 1) % 10
    return measure(net, x, y, threat="linf:0.02", protocol=protocol, **more)


def shortened(full: Protocol) -> Protocol:
    """A protocol whose AutoAttack takes 20 steps and 200 queries."""
    columns = []
    for column in full.columns:
        attacks = tuple(
            spec.model_copy(update={"params": {**spec.params, **_FEWER.get(spec.name, {})}})
            for spec in column.attacks
        )
        columns.append(column.model_copy(update={"attacks": attacks}))
    return full.model_copy(update={"columns": tuple(columns)})


def interrupted_at(attack: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C comes as the attack of that number begins, once; returns what grows with every attack."""
    real, calls = shards.Shards._attack, []

    def dies(self: shards.Shards, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == attack:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(shards.Shards, "_attack", dies)
    return calls
