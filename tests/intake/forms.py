"""What a submitter says, and what a look at a file sees: for tests."""

from __future__ import annotations

from datetime import UTC, datetime

from bench.intake.report import Seen
from bench.intake.ticket import Form
from bench.schema import ThreatModel

T0 = datetime(2026, 11, 28, 20, 0, tzinfo=UTC)
SEEN = Seen(
    container="zip", arch="small_cnn", n_parameters=3_174, mean=None, std=None, note="",
    arch_args={"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4},
)  # fmt: skip


def form(**changes) -> Form:
    said = {
        "name": "mine", "dataset": "digits", "threat": ThreatModel.asked("linf:0.15"),
        "consent": "hashes only",
    }  # fmt: skip
    return Form(**(said | changes))
