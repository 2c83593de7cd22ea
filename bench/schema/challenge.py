"""A challenge: adversarial images that somebody handed in for a network, as the judge saw them."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from bench.schema.frozen import Frozen, Name, Sha256, Text, content_hash
from bench.schema.packing import as_number, packed_bytes, unpack_bits, unpack_ints
from bench.schema.threat import ThreatModel

Count = Annotated[int, Field(ge=0)]
Credit = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Challenge(Frozen):
    """What became of every image of one file; only what it broke counts, and only for best known.

    An image is counted once: by the first of `outside_box`, `outside_ball`, `clean_wrong` and `right`
    that fits, else it is broken.
    """

    schema_version: Literal[1] = 1  # the file holds a checksum
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    name: Name  # of the network it was handed in for
    weights_sha256: Sha256
    dataset: Name
    split: Text
    n: int = Field(ge=1, le=10_000_000)
    examples_sha256: Sha256  # of exactly the images and labels that indices are places of
    threat: ThreatModel
    by: Credit  # who handed it in
    link: Text = ""
    file_sha256: Sha256  # of the file that was handed in
    handed: str  # bits (n,): an image for these
    outside_box: Count  # a value below 0 or above 1, infinite or none
    outside_ball: Count
    clean_wrong: Count  # misclassified without an attack
    right: Count  # classified correctly all the same
    broken: str  # bits (n,)
    new: str  # bits (n,): of those, standing under all that was known when it was judged
    adversarial_predictions: str  # ints (broken,)
    uint8_survivors: Count  # of those broken, how many stay so when rounded to 256 levels
    largest_perturbation: float = Field(ge=0, allow_inf_nan=False)  # of those broken, in the norm
    evidence_sha256: Sha256
    engine_version: Text  # of the judge
    created: str  # UTC, ISO 8601

    @model_validator(mode="after")
    def _consistent(self) -> Challenge:
        """One that contradicts itself does not load."""
        handed, broken, new = (
            as_number(packed_bytes(bits, self.n), self.n)
            for bits in (self.handed, self.broken, self.new)
        )
        if broken & ~handed or new & ~broken:
            raise ValueError("an image is broken that was not handed in, or new that is not broken")
        others = self.outside_box + self.outside_ball + self.clean_wrong + self.right
        if others + broken.bit_count() != handed.bit_count():
            raise ValueError("the counts are not those of the images handed in")
        if not new:
            raise ValueError("it breaks nothing new")
        if self.uint8_survivors > broken.bit_count():
            raise ValueError("more images survive rounding than are broken")
        unpack_ints(self.adversarial_predictions, broken.bit_count())
        if self.id != self.id_of(
            self.weights_sha256, self.examples_sha256, self.threat, self.file_sha256
        ):
            raise ValueError("the id is not that of its content")
        return self

    @staticmethod
    def id_of(weights: str, examples: str, threat: ThreatModel, file: str) -> str:
        """16 hex digits: the same file for the same network, images and ball is one challenge."""
        return content_hash(["challenge", weights, examples, str(threat), file])[:16]

    @property
    def key(self) -> tuple[str, ...]:
        """The network, images and ball that it is about, as bench.records.selection.attacked_key."""
        return (self.weights_sha256, self.examples_sha256, str(self.threat))

    @property
    def broken_bits(self) -> np.ndarray:
        """(n,) bool."""
        return unpack_bits(self.broken, self.n)

    @property
    def predictions(self) -> np.ndarray:
        """(n,) int64: the class that its image of each broken one is given; -1 of the others."""
        broken = self.broken_bits
        found = np.full(self.n, -1, dtype=np.int64)
        found[broken] = unpack_ints(self.adversarial_predictions, int(broken.sum()))
        return found

    @property
    def counts(self) -> dict[str, int]:
        """What became of the images, in words: all add up to those handed in."""
        broken, new = int(self.broken_bits.sum()), int(unpack_bits(self.new, self.n).sum())
        return counted(
            new, broken - new, self.right, self.clean_wrong, self.outside_ball, self.outside_box
        )


def counted(*counts: int) -> dict[str, int]:
    """Counts of what became of images, in the order of their words."""
    words = (
        *("newly broken", "broken before", "classified correctly", "wrong without an attack"),
        *("outside the ball", "outside the box"),
    )
    return dict(zip(words, counts, strict=True))
