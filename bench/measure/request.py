"""The question that a record answers: model, images, threat, protocol, seed, engine, precision."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from bench.schema import EvaluationRecord, Protocol, ThreatModel
from bench.schema.frozen import content_hash

if TYPE_CHECKING:
    from bench.schema.record import AuditSize

Engine = Literal["ours", "reference"]  # whose AutoAttack
Precision = Literal["float32", "mixed"]


@dataclass(frozen=True)
class Request:
    """What decides an answer; hashed to the id of the record."""

    weights_sha256: str
    examples_sha256: str
    threat: ThreatModel
    protocol: Protocol
    seed: int
    engine: Engine
    engine_version: str
    precision: Precision = "float32"
    audit: AuditSize = "sample"  # of protocols with a column that is audited

    @classmethod
    def of(cls, record: EvaluationRecord) -> Request:
        """The one that a record says it answers."""
        rest = [field.name for field in fields(cls)][1:]
        return cls(record.card.weights_sha256, *(getattr(record, name) for name in rest))

    @property
    def id(self) -> str:
        """16 hex digits."""
        how: list[object] = [self.seed, self.engine, self.engine_version, self.precision]
        asked = [str(self.threat), self.protocol.name, self.protocol.protocol_id]
        if self.audit != "sample":
            how.append(f"audit {self.audit}")
        return content_hash([self.weights_sha256, self.examples_sha256, *asked, *how])[:16]

    def recorded(self) -> dict[str, Any]:
        """As a record holds it: its card names the weights."""
        return {name: value for name, value in vars(self).items() if name != "weights_sha256"}
