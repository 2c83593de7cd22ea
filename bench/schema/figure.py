"""A number that others state of a model: never measured here, shown beside what was."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bench.schema.frozen import Frozen, Name, Sha256
from bench.schema.threat import ThreatModel

MOST_FIGURES = 40  # of one card
# A share in [0, 1] as text: its digits say how it was rounded.
Share = Annotated[str, StringConstraints(pattern=r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$")]
_COARSEST = Decimal("0.005")  # half of what the last digit of a share may be worth: 0.9 is 90 %


class Figure(Frozen):
    """How many images a model is said to get right: clean, under an attack, or under any at all.

    Said of the first n images of a data set, as a count of them or as a share, which is taken to be
    rounded to the digits that it has.
    """

    # clean; what an attack left standing: robust at most; what is proven to stand: robust at least
    what: Literal["clean", "attacked", "proven"]
    count: int | None = Field(default=None, ge=0, exclude_if=lambda count: count is None)
    share: Share | None = Field(default=None, exclude_if=lambda share: share is None)
    n: int | None = Field(default=None, ge=1, le=10_000_000)  # None: the source does not say
    dataset: Name  # as records call it
    # Of exactly these images and labels, as records name them; None: the first n of the name.
    examples_sha256: Sha256 | None = Field(default=None, exclude_if=lambda sha256: sha256 is None)
    threat: ThreatModel | None = None  # None: of clean images
    attack: Annotated[str, StringConstraints(max_length=100)] = ""  # that left these images
    source: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]

    @model_validator(mode="after")
    def _whole(self) -> Figure:
        """A figure that contradicts itself does not load."""
        if (self.count is None) == (self.share is None):
            raise ValueError("state a count of n images, or a share")
        if self.count is not None and (self.n is None or self.count > self.n):
            raise ValueError(
                f"{self.count} of {self.n or 'no'} images: expected a count of n images"
            )
        if (self.threat is None) != (self.what == "clean"):
            wanted = "has no threat" if self.what == "clean" else "needs a threat"
            raise ValueError(f"a figure of kind {self.what} {wanted}")
        if self.attack and self.what != "attacked":
            raise ValueError(f"a figure of kind {self.what} names no attack")
        bounds = self.counts
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"no whole number of {self.n} images is a share of {self.share}")
        return self

    @property
    def counts(self) -> tuple[int, int] | None:
        """The fewest and the most images that are meant; None where n is not known."""
        if self.n is None:
            return None
        if self.share is None:
            assert self.count is not None
            return self.count, self.count
        share, half = Decimal(self.share), Decimal(5).scaleb(-len(self.share.partition(".")[2]) - 1)
        half = min(half, _COARSEST)
        fewest, most = math.ceil((share - half) * self.n), math.floor((share + half) * self.n)
        return max(fewest, 0), min(most, self.n)
