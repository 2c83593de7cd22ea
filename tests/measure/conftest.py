"""One small measurement, made once a session; tests only read it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.measure.evaluate import Measurement
from tests.conftest import small_net
from tests.measure.short_protocols import run


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Of what a session or a file makes for its tests too: more get into one another's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def few() -> Tensor:
    """80 images: two shards."""
    return torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images(few: Tensor) -> Tensor:
    return few.clone()


@pytest.fixture(scope="session")
def whole(few: Tensor) -> Measurement:
    """What `run` measures of the network `net` on these images."""
    return run(small_net(), few)
