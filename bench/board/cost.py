"""What measuring a model took: passes through the network, and seconds on the machine that did it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.records.entry import Entry


@dataclass(frozen=True)
class Cost:
    """The work of one measurement."""

    passes: int  # images sent forward or backward, summed over all attacks
    n: int  # images measured
    seconds: float  # on the machine of the record: machines differ

    @property
    def passes_an_image(self) -> float:
        return self.passes / self.n


def cost_of(record: Entry) -> Cost:
    """The cost that a record names."""
    return Cost(record.passes, record.n, record.seconds)
