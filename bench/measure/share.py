"""A share: which part of one measurement is one worker's, where many workers measure it together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.schema import InvalidInput

MOST = 100_000  # shares


@dataclass(frozen=True)
class Share:
    """The work of worker `number` of `of`, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """From `3/8`. Raises InvalidInput."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if found is None:
            raise InvalidInput(f"--shard is written i/N, such as 1/8 to 8/8, got {text!r}")
        number, of = map(int, found.groups())
        if not 1 <= of <= MOST:
            raise InvalidInput(f"--shard {text}: N must be 1 to {MOST:,}, got {of}")
        if not 1 <= number <= of:
            raise InvalidInput(f"--shard {text}: i must be 1 to {of}, got {number}")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
