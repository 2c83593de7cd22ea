"""The leaderboard for other boards: RobustBench's (arXiv 2010.09670) and Hugging Face's model index.

See https://huggingface.co/docs/hub/model-cards, section Evaluation results.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from bench import protocols
from bench.exports.view import View
from bench.notation import percent_interval, plain, web_address
from bench.published import AUTOATTACK
from bench.published.files import ModelInfo, model_info_of_row
from bench.records.card_text import declared_note
from bench.reliability.figures import contradictions
from bench.schema import InvalidInput, safe_name
from bench.schema.threat import PUBLISHED_NORMS
from bench.stats.intervals import Interval
from bench.table import WORST_CASE, Group, Row

_COLUMN = "autoattack"


def robustbench_files(view: View) -> dict[str, str]:
    """model_info/<data set>/<Linf, L2 or L1>/<id>.json -> JSON, for every ranked row of AutoAttack.

    Where a model stands in several groups, the first has its name and the others add their record.
    Published rows keep their names; where ours has the same, the published one adds `_published`.
    """
    infos = [
        (model_info(group, row), group.threat.norm, row.card.name, row.record.id)
        for group in view.groups
        if measures_autoattack(group)
        for row in group.rows
        if row.rank is not None
    ]
    infos += [
        (model_info_of_row(row), row.threat.norm, safe_name(row.name), "published")
        for rows in view.published.values()
        for row in rows
        if row.attack == AUTOATTACK and row.title
    ]
    files: dict[str, str] = {}
    for info, norm, name, other in infos:
        stem = f"model_info/{info.dataset}/{PUBLISHED_NORMS[norm]}/{name}"
        path = f"{stem}_{other}.json" if f"{stem}.json" in files else f"{stem}.json"
        files.setdefault(path, info.json_text())
    return files


def measures_autoattack(group: Group) -> bool:
    """Whether a group has AutoAttack standard, the number that RobustBench reports."""
    classes = group.rows[0].card.class_count
    try:
        standard = protocols.protocol("autoattack", norm=group.threat.norm, classes=classes)
    except InvalidInput:
        return False
    ids = {column.name: column.column_id for column in group.columns}
    return ids.get(_COLUMN) == standard.columns[0].column_id


def model_info(group: Group, row: Row) -> ModelInfo:
    """One row: percentages with two decimals; n, the interval and the record in the footnote.

    `external` is what stands under all columns and records, where that is lower. Nothing is said of
    a number by the authors: `reported` is left out.
    """
    card, rate, train = row.card, row.rates[_COLUMN], row.card.train
    best = row.best_known_rate
    return ModelInfo(
        link=web_address(card.link) or "",
        name=card.name,
        authors=plain(card.authors, 500),
        additional_data=bool(card.extra_data or (train and train.extra)),
        number_forward_passes=group.protocol.passes,
        dataset=group.dataset,
        venue="Unpublished",
        architecture=plain(card.arch or "unregistered", 60),
        eps=group.threat.eps,
        clean_acc=_percentage(row.rates["clean"]),
        autoattack_acc=_percentage(rate),
        external=_percentage(best) if best.estimate < rate.estimate else None,
        footnote=f"Record {row.record.id}: {group.images_label}, "
        f"95 % interval {percent_interval(rate, group.n)}, engine {row.texts['engine']}."
        + (f" {declared_note(card)}." if card.declared else "")
        + "".join(f" Contradicted: {sentence}." for sentence in contradictions(row.record)),
    )


def _percentage(rate: Interval) -> Decimal:
    return Decimal(f"{100 * rate.estimate:.2f}")


# ---------------------------------------------------------------- Hugging Face

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
    if denied := contradictions(row.record):
        args["contradicted"] = list(denied)
    value = round(100 * rate.estimate, 2)
    return {"type": "accuracy", "value": value, "name": name, "args": args}
