"""The nouns of the project: what is trained, attacked and recorded, as strict immutable data.

Everything that is written to disk passes through these classes. Rates are never stored: records hold
per-image bits and the properties derive counts and rates from them.
"""

from typing import TYPE_CHECKING, Any

from bench.schema.card import ModelCard
from bench.schema.errors import (
    BenchError,
    ConflictingRecord,
    InvalidInput,
    MeasurementFailed,
    OutOfTime,
)
from bench.schema.figure import Figure
from bench.schema.frozen import Name, Scalar, Sha256, Text, safe_name
from bench.schema.protocol import AttackSpec, AuditRule, Column, Protocol
from bench.schema.threat import ThreatModel
from bench.schema.training import (
    AwpConfig,
    ExtraData,
    Objective,
    OwnImages,
    StartingPoint,
    TrainConfig,
)

if TYPE_CHECKING:
    from bench.schema.record import (
        AttackOutcome,
        AuditOutcome,
        ColumnOutcome,
        EvaluationRecord,
        Flag,
        Standing,
    )

__all__ = [
    "AttackOutcome",
    "AttackSpec",
    "AuditOutcome",
    "AuditRule",
    "AwpConfig",
    "BenchError",
    "Column",
    "ColumnOutcome",
    "ConflictingRecord",
    "EvaluationRecord",
    "ExtraData",
    "Figure",
    "Flag",
    "InvalidInput",
    "MeasurementFailed",
    "ModelCard",
    "Name",
    "Objective",
    "OutOfTime",
    "OwnImages",
    "Protocol",
    "Scalar",
    "Sha256",
    "Standing",
    "StartingPoint",
    "Text",
    "ThreatModel",
    "TrainConfig",
    "safe_name",
]


def __getattr__(name: str) -> Any:
    """The nouns of a record, when they are first asked for: they alone load numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.schema import record

    return getattr(record, name)
