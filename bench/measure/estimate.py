"""How long a measurement takes at most, before it begins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.as_found import undisturbed
from bench.attacks import attack_cost
from bench.attacks.problem import Model
from bench.judge import ask
from bench.measure.audits import share_of_cost
from bench.schema import Protocol
from bench.sources.unregistered import device_of


def estimate_seconds(model: Model, x: Tensor, protocol: Protocol, n: int) -> float:
    """Seconds that n images would take at most on one device, from a few timed passes.

    On a CPU on one thread, as a process of several has: threads that wait for busy cores made hours of
    minutes. Raises MeasurementFailed where the model raises.
    """
    batch = x[: min(64, len(x))].to(device_of(model))
    with undisturbed(model), torch.no_grad(), _one_thread():
        ask(model, batch)
        times = []
        for _ in range(5):
            started = time.monotonic()
            ask(model, batch)
            times.append(time.monotonic() - started)
    fastest = min(times) / len(batch)  # what else the machine does meanwhile is not this job's cost
    search = sum(attack_cost(a) for c in protocol.columns for a in c.attacks)
    return n * fastest * search / (1 - share_of_cost(protocol, n))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
