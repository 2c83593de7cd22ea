"""Two records on the same images: may they be compared, and what do their bits say.

Only records of the same images, threat and attacks are: equal numbers of two data sets, or of two
columns of one name, are not the same thing.
"""

from __future__ import annotations

import numpy as np

from bench.records.selection import CLEAN, WORST_CASE
from bench.schema import EvaluationRecord, InvalidInput
from bench.stats.intervals import PairedComparison, compare_paired


def why_not(a: EvaluationRecord, b: EvaluationRecord, measure: str = WORST_CASE) -> str:
    """Why two records may not be compared by a measure; empty where they may.

    measure is a column's name, or clean, or worst_case.
    """
    for record in (a, b):
        if record.failure is not None:
            return f"record {record.id} is of a measurement that failed: {record.failure}"
    if a.n != b.n:
        return f"n differs: {a.n:,} and {b.n:,} images"
    if a.examples_sha256 != b.examples_sha256:
        return (
            f"the images differ: {a.dataset} {a.split} (sha256 {a.examples_sha256[:8]}) and "
            f"{b.dataset} {b.split} (sha256 {b.examples_sha256[:8]})"
        )
    if measure == CLEAN:
        return ""
    if a.threat != b.threat:
        return f"the threats differ: {a.threat} and {b.threat}"
    if measure == WORST_CASE:
        return _unlike("protocol", a.protocol.protocol_id, b.protocol.protocol_id)
    for record in (a, b):
        if measure not in record.columns:
            return f"record {record.id} has no column {measure}; it has {', '.join(record.columns)}"
    judged = [
        (r.protocol.linf_tolerance, r.protocol.lp_tolerance, r.protocol.passes) for r in (a, b)
    ]
    if judged[0] != judged[1]:
        return "the protocols judge differently (tolerance, passes of the judge)"
    ids = (a.columns[measure].column_id, b.columns[measure].column_id)
    return _unlike(f"column {measure}", *ids)


def _unlike(what: str, first: str, second: str) -> str:
    return "" if first == second else f"{what} means other attacks: id {first} and id {second}"


def compare_records(
    a: EvaluationRecord,
    b: EvaluationRecord,
    measure: str = WORST_CASE,
    *,
    confidence: float = 0.95,
) -> PairedComparison:
    """A minus B on their common images. Raises InvalidInput with the reason where they may not be."""
    reason = why_not(a, b, measure)
    if reason:
        raise InvalidInput(
            f"{a.card.name} and {b.card.name} cannot be compared by {measure}: {reason}"
        )
    first, second = (_bits(record, measure) for record in (a, b))
    return compare_paired(first, second, confidence=confidence)


def _bits(record: EvaluationRecord, measure: str) -> np.ndarray:
    if measure == CLEAN:
        return record.clean_correct
    return record.worst_case_standing if measure == WORST_CASE else record.standing(measure)


def common_measures(a: EvaluationRecord, b: EvaluationRecord) -> tuple[str, ...]:
    """The measures by which two records may be compared, worst case first, clean last."""
    return tuple(m for m in (WORST_CASE, *a.columns, CLEAN) if not why_not(a, b, m))


def remarks(a: EvaluationRecord, b: EvaluationRecord) -> tuple[str, ...]:
    """What differs besides the models, and does not forbid the comparison: engine, precision, seed."""
    found = []
    for name in ("engine", "engine_version", "precision", "seed"):
        values = (getattr(a, name), getattr(b, name))
        if values[0] != values[1]:
            found.append(f"{name.replace('_', ' ')} differs: {values[0]} and {values[1]}")
    return tuple(found)
