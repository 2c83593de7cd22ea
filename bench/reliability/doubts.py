"""Doubts: every check of the model that is measured, looked at once and kept beside the parts.

The checks themselves are in checks.py and probes.py; those of the counts follow at the end.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.attacks import attack_cost
from bench.judge import guarded
from bench.measure.shards import Job
from bench.records.store import write_atomic
from bench.reliability.checks import IMAGES, Finding, model_findings
from bench.reliability.probes import BUDGET, probe_findings
from bench.streams import Streams

log = logging.getLogger(__name__)
_KEPT = TypeAdapter(list[Finding], config=ConfigDict(ser_json_inf_nan="constants"))


def doubts_of(job: Job) -> list[Finding]:
    """What the checks of the model say, read from disk where they are finished.

    Raises MeasurementFailed where the model raises, and OutOfTime after the deadline.
    """
    path = job.folder / "doubts.json"
    found = _read(path)
    if found is None:
        job.tick()
        found = _look(job)
        write_atomic(path, _KEPT.dump_json(found).decode())
    return found


def _read(path: Path) -> list[Finding] | None:
    try:
        return _KEPT.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        log.warning("%s is damaged (%s) and is computed again", path, reason)
        return None


def _look(job: Job) -> list[Finding]:
    x, y = job.x[:IMAGES].to(job.device), job.y[:IMAGES].to(job.device)
    few = _probed(job)
    streams = Streams.for_images(x[:few], job.seed, "probes")
    return [
        *guarded(lambda: model_findings(job.model, x, y)),
        *guarded(lambda: probe_findings(job.model, x[:few], y[:few], job.threat, streams=streams)),
    ]


def _probed(job: Job) -> int:
    """On how many images flags are probed: about 2 % of the measurement's cost, at least 8."""
    cost = sum(attack_cost(a) for c in job.protocol.columns for a in c.attacks)
    return min(IMAGES, max(8, round(0.02 * len(job.y) * cost / BUDGET)))
