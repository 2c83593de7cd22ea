"""Ranked rows as files that RobustBench's leaderboard reads (arXiv 2010.09670)."""

from __future__ import annotations

from decimal import Decimal

from bench import protocols
from bench.exports.view import View
from bench.notation import percent_interval, plain, web_address
from bench.published import AUTOATTACK
from bench.published.files import NORMS, ModelInfo, model_info_of_row
from bench.records.card_text import declared_note
from bench.schema import InvalidInput, safe_name
from bench.stats.intervals import Interval
from bench.table import Group, Row

_WORDS = {ours: theirs for theirs, ours in NORMS.items()}
_COLUMN = "autoattack"


def robustbench_files(view: View) -> dict[str, str]:
    """model_info/<data set>/<Linf, L2 or L1>/<id>.json -> JSON, for every ranked row of AutoAttack.

    Where a model stands in several groups, the first has its name and the others add their record.
    Published rows keep their names; where ours has the same, the published one adds `_published`.
    """
    files: dict[str, str] = {}
    for group in view.groups:
        if not measures_autoattack(group):
            continue
        for row in group.rows:
            if row.rank is not None:
                folder = f"model_info/{group.dataset}/{_WORDS[group.threat.norm]}"
                stem = f"{folder}/{row.card.name}"
                taken = f"{stem}.json" in files
                name = f"{stem}_{row.record.id}.json" if taken else f"{stem}.json"
                files[name] = model_info(group, row).json_text()
    for rows in view.published.values():
        for published in rows:
            if published.attack == AUTOATTACK and published.title:
                info = model_info_of_row(published)
                folder = f"model_info/{info.dataset}/{_WORDS[published.threat.norm]}"
                stem = f"{folder}/{safe_name(published.name)}"
                taken = f"{stem}.json" in files
                name = f"{stem}_published.json" if taken else f"{stem}.json"
                files.setdefault(name, info.json_text())
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
    card, rate = row.card, row.rates[_COLUMN]
    best = row.best_known_rate
    return ModelInfo(
        link=web_address(card.link) or "",
        name=card.name,
        authors=plain(card.authors, 500),
        additional_data=_extra_data(row),
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
        + (f" {declared_note(card)}." if card.declared else ""),
    )


def _extra_data(row: Row) -> bool:
    train = row.card.train
    return bool(row.card.extra_data) or (train is not None and train.extra is not None)


def _percentage(rate: Interval) -> Decimal:
    return Decimal(f"{100 * rate.estimate:.2f}")
