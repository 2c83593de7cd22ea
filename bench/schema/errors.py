"""The exceptions that this project raises on purpose.

BenchError
├── InvalidInput        the call or a file was wrong: say what was expected, what came, what to do
├── MeasurementFailed   the model raised or answered nonsense while being measured
├── OutOfTime           a deadline came; what is finished is on disk and the same call goes on
└── ConflictingRecord   a second, different answer to a question that is already answered
"""

from __future__ import annotations

import re

# What a terminal obeys instead of showing it, or what turns the direction of a line around.
_OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Text with every control and direction character, but tab and newline, as `\x1b` or `\u202e`."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


class BenchError(Exception):
    """Base of every error this project raises on purpose; its text is written for people."""

    def __str__(self) -> str:
        return visible(super().__str__())


class InvalidInput(BenchError, ValueError):
    """The call or a file was wrong."""


class MeasurementFailed(BenchError, RuntimeError):
    """The model raised, or returned something that is not logits."""


class OutOfTime(BenchError):
    """A deadline came before the end; finished parts are kept."""


class ConflictingRecord(BenchError):
    """A record with the same id and a different answer already exists."""
