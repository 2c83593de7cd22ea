"""Whether a record may be used again: is the model that is here now the one that was measured?"""

from __future__ import annotations

import logging
from pathlib import Path

from bench import evidence
from bench.attacks.problem import Model
from bench.datasets import Examples
from bench.measure import clean_logits
from bench.records.one_read import read_whole, sha256_of_bytes
from bench.schema import EvaluationRecord, InvalidInput, MeasurementFailed
from bench.sources.unregistered import device_of
from bench.verify import evidence_path

log = logging.getLogger(__name__)


def changed_since(record: EvaluationRecord, path: Path, model: Model, data: Examples) -> str:
    """In words, how the model answers otherwise than when it was measured; empty where it does not.

    Compared are the logits of the first images, which lie with the evidence of the record at `path`.
    Where it is not here, or is of a version that kept none, nothing can be said.
    """
    where = evidence_path(path, record)
    if not where.exists() or record.protocol.passes > 1:
        return ""
    try:
        raw = read_whole(where)
        if sha256_of_bytes(raw) != record.evidence_sha256:
            raise InvalidInput(f"{where} is not the evidence the record names; left in place")
        before = evidence.logits_in(raw, where=str(where))
    except InvalidInput as error:
        log.warning("%s; whether the model is still the one measured is not known", error)
        return ""
    if before is None:
        return ""
    try:
        few = data[: clean_logits.IMAGES]
        return clean_logits.changed_since(before, model, few.x, device_of(model))
    except MeasurementFailed as error:  # for the new measurement to record
        return str(error)
