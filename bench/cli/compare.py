"""bench compare: which of two models is better, by their records or attacked until it is clear."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.evaluate import ZOO, confirm
from bench.notation import p_value_text, percent, points_interval
from bench.protocols import PROTOCOL_NAMES
from bench.records.index import CACHE
from bench.schema import EvaluationRecord, InvalidInput

if TYPE_CHECKING:
    from bench.schema import ModelCard
    from bench.stats.intervals import Interval
    from bench.stats.sequential import Look
    from bench.until_sure import Comparison

WORK = Path("var/compare")


def add(commands: Any) -> None:
    """Adds `compare` to the command line."""
    compare = commands.add_parser(
        "compare", help="which of two models is better, and how sure is that",
        description="By the records there are. With --until-sure: attacks both models (checkpoint "
        "folders or robustbench:<model id>) on ever more images, until they are separated.",
    )  # fmt: skip
    compare.add_argument("a", metavar="A", help="checkpoint folder or record file")
    compare.add_argument("b", metavar="B", help="as A; differences are A minus B")
    compare.add_argument("--threat", metavar="linf:8/255", help="default: the data set's, or any")
    compare.add_argument("--protocol", metavar="P", help=", ".join(PROTOCOL_NAMES))
    compare.add_argument(
        "--level", type=float, default=0.05, help="chance of calling equal models separated"
    )
    compare.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    compare.add_argument("--json", action="store_true", help="one JSON document on stdout")
    sure = compare.add_argument_group("with --until-sure")
    sure.add_argument("--until-sure", action="store_true", help="attack until separated")
    sure.add_argument(
        "--max-n", type=int, metavar="N",
        help="the budget in images; default all, on a CPU 1,000. A larger one goes on from there",
    )  # fmt: skip
    sure.add_argument("--go-on", action="store_true", help="to --max-n though they are separated")
    sure.add_argument("--dataset", metavar="D", help="default: what A was trained on")
    sure.add_argument("--dataset-name", metavar="N", help="how a folder's data are called")
    sure.add_argument("--split", default="test", help='such as "test[1000:2000]"')
    sure.add_argument("--seed", type=int, default=0, help="of the attacks and of the order")
    sure.add_argument("--device", default="auto")
    sure.add_argument("--workers", type=int, help="processes; default: as many as cores")
    sure.add_argument("--batch", type=int, help="rows (image x target) in the model at once")
    sure.add_argument("--max-seconds", type=float, metavar="T", help="stop after so long")
    sure.add_argument("--zoo", type=Path, default=ZOO, metavar="DIR", help="weights of the zoo")
    sure.add_argument("--yes", action="store_true", help="do not ask before a long job")
    compare.set_defaults(run=_compare)


def _compare(a: argparse.Namespace) -> int:
    if not 0 < a.level < 1:
        raise InvalidInput(f"--level must lie between 0 and 1, such as 0.05, got {a.level:g}")
    answer = _until_sure(a) if a.until_sure else _by_records(a)
    print(json.dumps(answer["json"], indent=1) if a.json else answer["text"])
    return 0


# ---------------------------------------------------------------- by the records there are


def _by_records(a: argparse.Namespace) -> dict[str, Any]:
    found = _comparable(a, _records(a.a, a), _records(a.b, a))
    documents = [_document(first, second, a.level) for first, second in found]
    return {"json": documents, "text": "\n\n".join(map(_text, documents))}


def _records(named: str, a: argparse.Namespace) -> list[EvaluationRecord]:
    """The record of a file, or those that speak for a checkpoint; of the threat and protocol given."""
    from bench import table
    from bench.records import store
    from bench.sources import opening, zoo

    if named.endswith(".json"):
        path = Path(named)
        if path.with_suffix(".withdrawn.json").exists():
            raise InvalidInput(f"{path} was withdrawn; compare another record")
        found = [store.read(path)]
    else:
        card = opening.read_card(zoo.source(named, a.zoo))
        groups = table.build(a.results, cache=CACHE).groups
        models = [member.record for group in groups for member in group.members]
        found = [m.whole for m in models if m.weights_sha256 == card.weights_sha256]
        named = card.name
    kept = [
        record
        for record in found
        if a.threat in (None, str(record.threat)) and a.protocol in (None, record.protocol.name)
    ]
    if not kept:
        wanted = " ".join(filter(None, (a.threat, a.protocol)))
        raise InvalidInput(
            f"no record of {named}{wanted and f' for {wanted}'} under {a.results}; measure it with "
            "python -m bench evaluate, or compare with --until-sure"
        )
    return kept


def _comparable(
    a: argparse.Namespace, first: Sequence[EvaluationRecord], second: Sequence[EvaluationRecord]
) -> list[tuple[EvaluationRecord, EvaluationRecord]]:
    """The pairs of records with a worst case in common, else with any column, each id once."""
    from bench.records.selection import CLEAN, WORST_CASE
    from bench.stats.paired import common_measures, why_not

    pairs = {(x.id, y.id): (x, y) for x in first for y in second if x.id != y.id}
    whole = [pair for pair in pairs.values() if WORST_CASE in common_measures(*pair)]
    partly = [pair for pair in pairs.values() if set(common_measures(*pair)) - {CLEAN}]
    if not (whole or partly):
        reasons = dict.fromkeys(why_not(*pair) for pair in pairs.values())
        if not pairs:
            raise InvalidInput(f"{a.a} and {a.b} have the same record: nothing to compare")
        raise InvalidInput(
            f"{a.a} and {a.b} cannot be compared: {'; '.join(list(reasons)[:5])}. "
            "Measure both on the same images, threat and protocol"
        )
    return whole or partly


def _document(a: EvaluationRecord, b: EvaluationRecord, level: float) -> dict[str, Any]:
    from bench.reliability.flags import unranking
    from bench.stats.paired import common_measures, compare_records, remarks

    said = list(remarks(a, b))
    for record in (a, b):
        if unranking(record):
            said.append(f"{record.card.name} is not ranked: {', '.join(unranking(record))}")
    measures = {}
    for measure in common_measures(a, b):
        found = compare_records(a, b, measure, confidence=1 - level)
        measures[measure] = {
            "a": (found.both + found.only_a) / found.n,
            "b": (found.both + found.only_b) / found.n,
            "only_a": found.only_a,
            "only_b": found.only_b,
            "p_value": found.p_value,
            "difference": _ends(found.difference),
            "separated": _better(found.only_a, found.only_b, found.p_value <= level),
        }
    return {
        "a": a.card.name, "b": b.card.name, "records": [a.id, b.id], "dataset": a.dataset,
        "split": a.split, "threat": str(a.threat), "protocols": [a.protocol.name, b.protocol.name],
        "n": a.n, "level": level, "measures": measures, "remarks": said,
    }  # fmt: skip


def _better(only_a: int, only_b: int, separated: bool) -> str | None:
    """Who stands on more images, as far as that is told: a, b or None (not separated)."""
    if not separated:
        return None
    return "a" if only_a > only_b else "b"


def _ends(interval: Interval) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _text(d: dict[str, Any]) -> str:
    from bench.stats.intervals import Interval

    sure = f"{100 * (1 - d['level']):g} %"
    lines = [["", "A", "B", f"A minus B [{sure}]", "A alone", "B alone", "p", ""]]
    for measure, m in d["measures"].items():
        verdict = {None: "not separated", "a": "A is better", "b": "B is better"}[m["separated"]]
        lines.append(
            [
                measure.replace("_", " "),
                *(percent(m[which], d["n"]) for which in "ab"),
                points_interval(Interval(**m["difference"]), unit=""),
                *(str(m[which]) for which in ("only_a", "only_b")),
                p_value_text(m["p_value"]),
                verdict,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    protocol = " and ".join(dict.fromkeys(d["protocols"]))
    return "\n".join(
        [
            f"A = {d['a']} (record {d['records'][0]}), B = {d['b']} (record {d['records'][1]})",
            f"{d['dataset']} {d['threat']} {protocol}, n = {d['n']:,}, {d['split']}; percent of all n",
            *table,
            "p: exact McNemar on the same images; interval: Tango. Each line is a test by itself.",
            *(f"note: {remark}" for remark in d["remarks"]),
        ]
    )


# ---------------------------------------------------------------- attacked until it is clear


def _until_sure(a: argparse.Namespace) -> dict[str, Any]:
    import torch

    from bench import datasets
    from bench.measure import evaluate, processes, sweep
    from bench.protocols import protocol as named_protocol
    from bench.sources import opening, zoo
    from bench.until_sure import compare_until_sure

    chosen = [zoo.source(named, a.zoo) for named in (a.a, a.b)]
    jobs = [
        sweep.make_job(
            source, dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, seed=a.seed,
            threat=a.threat, protocol=a.protocol or "standard", device=a.device, batch=a.batch,
        )
        for source in chosen
    ]  # fmt: skip
    for what in ("dataset", "threat"):
        values = [getattr(job, what) for job in jobs]
        if values[0] != values[1]:
            raise InvalidInput(
                f"A's default {what} is {values[0]}, B's {values[1]}: say which with --{what}"
            )
    job = jobs[0]
    data = datasets.load(job.dataset, job.split, name=job.dataset_name)
    models = [opening.open_model(source, job.device) for source in chosen]
    gpu = job.device.startswith("cuda")
    max_n = a.max_n
    if max_n is None:
        max_n = len(data) if gpu else min(1000, len(data))
    workers = processes.cores() if a.workers is None else a.workers
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {workers}")
    workers = 1 if gpu else workers
    if workers > 1:
        torch.set_num_threads(1)  # one thread a process: more get into one another's way
    measured = named_protocol(job.protocol, norm=job.threat.norm, classes=models[0][1].class_count)
    seconds = sum(evaluate.estimate_seconds(m, data.x, measured, max_n) for m, _ in models)
    confirm(seconds / min(workers, 2), f"two models on up to {max_n:,} images", yes=a.yes)
    found = compare_until_sure(
        models[0], models[1], data.images, data.labels, threat=job.threat, protocol=measured,
        level=a.level, max_n=max_n, stop=not a.go_on, seed=a.seed, batch=a.batch, workers=workers,
        max_seconds=a.max_seconds, work=WORK, told=None if a.json else _tell,
    )  # fmt: skip
    cards = (models[0][1], models[1][1])
    where = {"dataset": data.name, "split": data.split, "threat": str(job.threat)}
    where |= {"protocol": measured.name}
    return {
        "json": _sure_document(found, cards, where, a.seed),
        "text": _sure_text(found, cards, where, a.seed),
    }


def _tell(share: float, look: Look) -> None:
    print(
        f"{look.images:,} images: A alone {look.only_a}, B alone {look.only_b}, "
        f"e-value {_e_text(look)}, {share:.0%} of the budget",
        file=sys.stderr,
    )


def _e_text(look: Look) -> str:
    return f"{math.exp(look.log_e):.3g}" if look.log_e < 700 else f"exp({look.log_e:.0f})"


def _sure_document(
    found: Comparison, cards: tuple[ModelCard, ModelCard], where: dict[str, str], seed: int
) -> dict[str, Any]:
    look = found.look
    return {
        "a": cards[0].name, "b": cards[1].name, **where, "seed": seed, "level": look.level,
        "n": found.n, "images": look.images, "only_a": look.only_a, "only_b": look.only_b,
        "log_e_value": look.log_e,
        "separated": _better(look.only_a, look.only_b, look.separated),
        "difference": _ends(look.difference),
        "measured": found.measured, "measured_before": found.prior, "passes": found.passes,
        "passes_saved": found.passes_saved, "ranked": False,
    }  # fmt: skip


def _sure_text(
    found: Comparison, cards: tuple[ModelCard, ModelCard], where: dict[str, str], seed: int
) -> str:
    look = found.look
    sure = f"{100 * (1 - look.level):g} %"
    better = _better(look.only_a, look.only_b, look.separated)
    verdict = {
        None: f"not separated after {look.images:,} images",
        "a": f"separated after {look.images:,} images: A is better",
        "b": f"separated after {look.images:,} images: B is better",
    }[better]
    return "\n".join(
        [
            f"A = {cards[0].name}, B = {cards[1].name}",
            f"{where['dataset']} {where['threat']} {where['protocol']}, images of {where['split']} in "
            f"the order of seed {seed}",
            f"{verdict} (e-value {_e_text(look)}; {1 / look.level:g} separates)",
            f"standing under all columns: A alone {look.only_a}, B alone {look.only_b}",
            f"A minus B: {points_interval(look.difference)}, {sure} at every look at once",
            f"{found.measured:,} of {found.n:,} images attacked ({found.prior:,} of them before); "
            f"{found.passes:,} passes, about {found.passes_saved:,} saved against all images",
            "This is no record: it is not ranked and was not checked for flags (python -m bench "
            "doctor). A larger --max-n, or --go-on, goes on from what is finished.",
        ]
    )
