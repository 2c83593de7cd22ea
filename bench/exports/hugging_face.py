"""Evaluation results as Hugging Face's model cards hold them: the model-index of a README.

See https://huggingface.co/docs/hub/model-cards, section Evaluation results.
"""

from __future__ import annotations

from typing import Any

from bench.exports.view import View
from bench.notation import percent_interval, plain
from bench.table import WORST_CASE, Group, Row

_TASK = {"type": "image-classification", "name": "Adversarially robust image classification"}


def hugging_face_files(view: View) -> dict[str, str]:
    """<model>.yaml -> the block to put into the model's README, with one result a group."""
    results: dict[str, list[dict[str, Any]]] = {}
    for group in view.groups:
        for row in group.rows:
            results.setdefault(row.card.name, []).append(_result(group, row))
    return {f"{name}.yaml": _block(name, found) for name, found in results.items()}


def _block(name: str, results: list[dict[str, Any]]) -> str:
    import yaml

    index = {"model-index": [{"name": name, "results": results}]}
    text: str = yaml.safe_dump(index, sort_keys=False, allow_unicode=False, width=1000)
    return f"---\n{text}---\n"


def _result(group: Group, row: Row) -> dict[str, Any]:
    """One group: clean accuracy, every column and the worst case, in percent, with what they mean."""
    ids = {column.name: column.column_id for column in group.columns}
    metrics = [
        _metric(f"accuracy, {plain(label, 60)}", row, measure, ids.get(measure))
        for measure, label in group.labels.items()
    ]
    metrics.append(_metric("robust accuracy, worst case", row, WORST_CASE, None))
    return {
        "task": dict(_TASK),
        "dataset": {
            "type": group.dataset,
            "name": group.dataset,
            # The Hub tells results apart by type, config and split.
            "config": f"{group.threat.folder}-{group.protocol.name}-{group.protocol.protocol_id}"
            f"-n{group.n}-{group.examples_sha256[:8]}",
            "split": plain(group.split),
            "args": {
                "threat": str(group.threat),
                "protocol": group.protocol.name,
                "protocol_id": group.protocol.protocol_id,
                "n": group.n,
                "examples_sha256": group.examples_sha256,
            },
        },
        "metrics": metrics,
    }


def _metric(name: str, row: Row, measure: str, column_id: str | None) -> dict[str, Any]:
    rate, n = row.rates[measure], row.record.n
    args: dict[str, Any] = {
        "standing": int(row.standing[measure].sum()),
        "n": n,
        "interval_95": percent_interval(rate, n),
        "record": row.record.id,
    }
    if column_id is not None:
        args["column_id"] = column_id
    if row.unranked:
        args["doubt"] = row.unranked
    value = round(100 * rate.estimate, 2)
    return {"type": "accuracy", "value": value, "name": name, "args": args}
