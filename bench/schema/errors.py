"""The exceptions that this project raises on purpose.

BenchError
├── InvalidInput        the call or a file was wrong: say what was expected, what came, what to do
├── MeasurementFailed   the model raised or answered nonsense while being measured
├── OutOfTime           a deadline came; what is finished is on disk and the same call goes on
└── ConflictingRecord   a second, different answer to a question that is already answered
"""


class BenchError(Exception):
    """Base of every error this project raises on purpose; its text is written for people."""


class InvalidInput(BenchError, ValueError):
    """The call or a file was wrong."""


class MeasurementFailed(BenchError, RuntimeError):
    """The model raised, or returned something that is not logits."""


class OutOfTime(BenchError):
    """A deadline came before the end; finished parts are kept."""


class ConflictingRecord(BenchError):
    """A record with the same id and a different answer already exists."""
