"""After the columns: stronger attacks on a sample of what stands, or on all of it.

An audit attacks a random sample of the images that a column leaves standing; where a flag says that
gradients are masked its attacks run on all of them, as a part of the column. Both have the random
numbers of that attack alone, so that an audit of every standing image, together with the images that
the column broke, is the measurement of the stronger attack. n images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench import evidence
from bench.attacks import attack_cost
from bench.evidence import Perturbations
from bench.measure import processes
from bench.measure.parts import Merged, merged, merged_column
from bench.measure.shards import Shards, shard_count
from bench.protocols import meanings
from bench.schema import (
    AuditOutcome,
    AuditRule,
    Column,
    ColumnOutcome,
    InvalidInput,
    OutOfTime,
    Protocol,
)
from bench.schema.packing import pack_bits, unpack_bits
from bench.schema.record import sample
from bench.schema.threat import Norm

Columns = dict[str, ColumnOutcome]
Proofs = dict[str, Perturbations]


def audited_columns(protocol: Protocol) -> list[tuple[Column, AuditRule]]:
    """The columns of a protocol that have an audit, and its rule."""
    return [(column, column.audit) for column in protocol.columns if column.audit is not None]


def refuse_unaudited(protocol: Protocol, audit: str) -> None:
    """Raises InvalidInput where an audit of another size is asked for, and there is none."""
    if audit != "sample" and not audited_columns(protocol):
        raise InvalidInput(
            f"protocol {protocol.name} has no column that is audited: leave audit={audit} out, or "
            "measure under fast"
        )


def share_of_cost(protocol: Protocol, n: int) -> float:
    """About which share of a measurement of n standing images its audits take."""
    search = n * sum(attack_cost(spec) for column in protocol.columns for spec in column.attacks)
    more = [
        rule.size(n) * sum(map(attack_cost, rule.attacks)) for _, rule in audited_columns(protocol)
    ]
    return sum(more) / (search + sum(more)) if any(more) else 0.0


@dataclass(frozen=True)
class Audits:
    """What makes audits: the shards of a measurement whose columns are finished."""

    shards: Shards
    correct: np.ndarray  # (n,) bool, unattacked
    workers: int
    report: Callable[[float, str], None]

    def completed(
        self, columns: Columns, proofs: Proofs, masked: Sequence[str]
    ) -> tuple[Columns, Proofs]:
        """The columns with their audits; with all of the stronger attacks where gradients are masked.

        masked names the flags that say so. Raises OutOfTime, and MeasurementFailed where the model
        raises.
        """
        columns, proofs, request = dict(columns), dict(proofs), self.shards.request
        for column, rule in audited_columns(request.protocol):
            before = unpack_bits(columns[column.name].outcomes[-1].standing, len(self.correct))
            if masked:
                found = self._attacked(rule, before, f"gradients may be masked: {masked[0]}")
                said: dict[str, Any] = {
                    "outcomes": (*columns[column.name].outcomes, *found.outcomes)
                }
                proofs[column.name] = evidence.merge([proofs[column.name], found.proof])
            elif request.audit != "none":
                asked = request.weights_sha256, request.examples_sha256, column.column_id
                sampled = sample(before, rule, request.audit, *asked)
                found = self._attacked(rule, sampled, f"audit of {int(sampled.sum())}")
                audit = AuditOutcome(sampled=pack_bits(sampled), outcomes=found.outcomes)
                said, proofs[evidence.of_audit(column.name)] = {"audit": audit}, found.proof
            else:
                continue
            columns[column.name] = columns[column.name].model_copy(update=said)
        return columns, proofs

    def plain(self, columns: Columns) -> tuple[Shards, Columns, Proofs] | None:
        """The measurement of AutoAttack alone on all images, once every standing one was audited.

        The images that the column broke are attacked for it. None where the audits are not all of
        AutoAttack. Raises as `completed`.
        """
        request = self.shards.request
        for column, rule in audited_columns(request.protocol):
            if chosen := _autoattack(rule, request.threat.norm):
                found = columns[column.name].outcomes[len(column.attacks) - 1]
                standing = unpack_bits(found.standing, len(self.correct))
                both = [standing, self.correct & ~standing]
                pieces = [piece for part in both for piece in _pieces(part)]
                self._attack(rule, pieces, "AutoAttack on what the column broke")
                asked = replace(request, protocol=chosen, audit="sample")
                alone = replace(self.shards, request=asked)
                return alone, *merged(asked, pieces, self.correct, alone.part)
        return None

    def _attacked(self, rule: AuditRule, images: np.ndarray, why: str) -> Merged:
        """What the attacks of a rule do to the images (n,) bool."""
        pieces = _pieces(images)
        stronger = self._attack(rule, pieces, why)
        return merged_column(self.shards.request, pieces, images, self.shards.part, stronger)

    def _attack(self, rule: AuditRule, pieces: Sequence[np.ndarray], why: str) -> Column:
        """Leaves the parts of a rule's attacks on disk, and returns them as a column."""
        stronger = Column(name="audit", attacks=rule.attacks)
        shares = [0.0] * len(pieces)

        def one(number: int, told: Callable[[float, Any], None]) -> None:
            piece = pieces[number]
            self.shards.run(piece, np.ones(len(piece), dtype=bool), told, [stronger])

        def observe(number: int, share: float, news: object) -> None:
            shares[number] = share
            self.report(sum(shares) / len(shares), why)

        try:
            processes.run_here(one, len(pieces), self.workers, observe)
        except OutOfTime as late:
            raise OutOfTime(
                f"{late}: the columns are finished and kept, {why} is not; the same command goes on "
                "from here"
            ) from None
        return stronger


def _autoattack(rule: AuditRule, norm: Norm) -> Protocol | None:
    """AutoAttack alone, where its attacks are those of a rule."""
    named = meanings("autoattack", norm).values()
    return next((each for each in named if each.columns[0].attacks == rule.attacks), None)


def _pieces(images: np.ndarray) -> list[np.ndarray]:
    """The places of the images (n,) bool, dealt into shards; one empty shard where there are none."""
    places = np.flatnonzero(images)
    count = shard_count(max(len(places), 1))
    return [places[first::count] for first in range(count)]
