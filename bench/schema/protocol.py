"""What is asked of a model: attacks with every parameter, in columns, in a protocol; hashed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from bench.schema.frozen import Frozen, Name, Scalar, content_hash


class AttackSpec(Frozen):
    """One attack with every parameter written out; lengths are fractions of eps."""

    name: Name
    params: dict[str, Scalar] = Field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.params.items())})"


_IDS: dict[str, str] = {}  # what has an id, as repr writes it -> the id


def _id_of(said: str, value: Callable[[], Any]) -> str:
    """12 hex digits over a value, hashed once: thousands of records hold the same few columns.

    said tells two values apart, as repr does: 1, 1.0 and True have different JSON.
    """
    known = _IDS.get(said)
    if known is None:
        known = content_hash(value())[:12]
        if len(_IDS) < 10_000 and len(said) < 10_000:  # hostile records fill no memory
            _IDS[said] = known
    return known


class AuditRule(Frozen):
    """Stronger attacks, for a random sample of what a column leaves standing, and how large that is.

    They attack all that stands where a flag says that gradients are masked.
    """

    attacks: tuple[AttackSpec, ...]
    few: int = Field(default=60, ge=1)
    many: int = Field(default=300, ge=1)
    many_from: int = Field(default=3000, ge=1)  # standing images

    def size(self, standing: int) -> int:
        """How many of so many standing images are drawn."""
        return min(standing, self.many if standing >= self.many_from else self.few)


class Column(Frozen):
    """Attacks run one after another, each on the images still standing within this column."""

    name: Name
    attacks: tuple[AttackSpec, ...]
    label: str = ""  # how a table heads the column; not part of the identity
    # None, and not in the file: all that could be tried is among the attacks.
    audit: AuditRule | None = Field(default=None, exclude_if=lambda rule: rule is None)

    @property
    def column_id(self) -> str:
        """12 hex digits over the attacks and the audit; the name is not part of what is measured."""
        said = repr([(spec.name, spec.params) for spec in self.attacks])
        if self.audit is None:
            return _id_of(said, lambda: [spec.model_dump(mode="json") for spec in self.attacks])
        rule = self.audit
        return _id_of(
            f"{said} {rule!r}",
            lambda: [
                [spec.model_dump(mode="json") for spec in self.attacks],
                rule.model_dump(mode="json"),
            ],
        )


class Protocol(Frozen):
    """Named columns, each started from all clean-correct images; clean errors are not robust."""

    name: Name
    version: int
    columns: tuple[Column, ...]
    # An example is inside the ball when its float64 distance is at most eps + linf_tolerance (Linf)
    # or eps * (1 + lp_tolerance) (L2, L1). float32 rounding of x + eps alone is up to 4e-8.
    linf_tolerance: float = 1e-6
    lp_tolerance: float = 1e-6
    # Randomised models: the judge looks this often, the majority decides. 1: one look, as usual.
    passes: int = Field(default=1, ge=1)

    @property
    def protocol_id(self) -> str:
        columns = {c.name: c.column_id for c in self.columns}
        parts = [self.version, columns, self.linf_tolerance, self.lp_tolerance]
        parts += [self.passes] * (self.passes > 1)
        return _id_of(repr(parts), lambda: parts)
