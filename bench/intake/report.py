"""What a child says of a file, and what it was asked: the only words that go in and come out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from bench.intake.refusal import Code
from bench.schema.errors import visible

Word = Annotated[str, Field(max_length=100)]
Sentence = Annotated[str, Field(min_length=1, max_length=2_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PerChannel = Annotated[tuple[Finite, ...], Field(min_length=1, max_length=64)]
Whole = Annotated[int, Field(ge=1, le=100_000)]  # an argument of an architecture


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ask(_Strict):
    """What a submitter says that decides how a file is read; without an architecture it is found."""

    file_name: Word = "the file"  # for messages alone
    arch: Word | None = None
    dataset: Word | None = None  # needed where an architecture is named
    arch_args: dict[Word, Whole] = Field(default={}, max_length=8)
    weights: Word | None = None  # which of several sets
    mean: PerChannel | None = None
    std: PerChannel | None = None

    @field_validator("file_name")
    @classmethod
    def _shown(cls, name: str) -> str:
        return visible(name.replace("\\", "/").rpartition("/")[2]) or "the file"


class Seen(_Strict):
    """What a file holds: a network of the catalogue."""

    container: Literal["zip", "safetensors"]
    arch: Word
    arch_args: dict[Word, Whole] = Field(max_length=8)
    n_parameters: int = Field(gt=0, lt=2**40)
    mean: PerChannel | None  # of the normalisation that the file or the submitter named
    std: PerChannel | None
    note: Annotated[str, Field(max_length=400)]

    @property
    def sentence(self) -> str:
        """`fits small_cnn, width 16, 47,610 parameters`."""
        shown = [f"{k} {v}" for k, v in self.arch_args.items() if k == "width"]
        return ", ".join([f"fits {self.arch}", *shown, f"{self.n_parameters:,} parameters"])


class Refused(_Strict):
    """Why a file is not taken."""

    code: Code
    reason: Sentence
    remedy: Sentence


class Locked(_Strict):
    """The first line: what holds the child from here on."""

    locked: Sentence


class Report(_Strict):
    """The second line; of look, neither where all is well."""

    seen: Seen | None = None
    refused: Refused | None = None
