"""Why a submission goes no further, in words that its submitter can act on."""

from __future__ import annotations

from typing import Literal, get_args

from bench.schema import InvalidInput

Code = Literal[
    "too-large",  # beyond a limit that is told
    "cut-off",  # fewer bytes than were said, or other ones
    "quota",  # of a submitter
    "no-room",  # the server's disk or its share for submissions
    "unreadable",  # no file of weights, damaged, or of another kind
    "content",  # weights, but not those of one network of plain numbers
    "misfit",  # of no network of the catalogue, or not of the one that was named
    "too-much",  # more memory, time or processes than an honest file takes
    "crashed",  # the child died of something that is no limit
    "removed",  # by the operator
    "server",  # what is ours: the file is not judged
]
CODES: tuple[Code, ...] = get_args(Code)
_OURS = ("no-room", "server")


class Refusal(InvalidInput):
    """A reason and a remedy; `ours` where the submission is not judged and may be tried again."""

    def __init__(self, code: Code, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.code, self.reason, self.remedy = code, reason, remedy

    @property
    def ours(self) -> bool:
        """Whether the server is at fault, and not the file."""
        return self.code in _OURS
