"""The tables of docs/contamination.md, from the checks that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.contamination import NAME, Contamination, read_contamination
from bench.notation import p_value_text, points
from bench.records import json_files
from bench.records.cards import read_card
from bench.records.store import write_atomic
from bench.stats.intervals import wilson
from tests.contamination import drill

PAGE = Path("docs/contamination.md")
BEGIN, END = (f"<!-- {said} -->\n" for said in ("written by the drill", "to here"))
VERDICTS = ("sign", "no sign", "cannot tell")
NAMES = {"natural": "natural", "at": "AT"}
HEAD = (
    "| {} | networks | sign | no sign | cannot tell | p | looks trained on | would show from |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def of_drill(kind: str, arm: str) -> list[Contamination]:
    """The checks of one row of the drill that are there."""
    paths = [n.record for n in drill.networks() if (n.kind, n.arm) == (kind, arm)]
    return [
        json_files.read(path, Contamination.model_validate_json, "contamination check")
        for path in paths
        if path.exists()
    ]


def of_committed() -> dict[str, Contamination]:
    """Name -> check of every committed network that has one."""
    found = {}
    for folder in drill.committed():
        card = read_card(folder)
        if (folder / NAME).exists() and (
            held := read_contamination(folder, weights_sha256=card.weights_sha256)
        ):
            found[card.name] = held
    return found


def row(label: str, found: Sequence[Contamination]) -> str:
    """One line of a table."""
    verdicts = Counter(each.verdict for each in found)
    shares = [f"{100 * each.share:.0f}" for each in found if each.share is not None]
    seen = sorted(each.detectable for each in found if each.detectable is not None)
    cells = [
        label,
        len(found),
        *(verdicts[verdict] for verdict in VERDICTS),
        _range([p_value_text(p) for p in sorted(each.p_value for each in found)]),
        f"{_range(sorted(shares, key=float))} %" if shares else "",
        f"{_range([f'{100 * share:.0f}' for share in seen])} %" if seen else "",
    ]
    return f"| {' | '.join(map(str, cells))} |\n"


def _range(texts: Sequence[str]) -> str:
    if not texts or texts[0] == texts[-1]:
        return "".join(texts[:1])
    return f"{texts[0]} to {texts[-1]}"


def text() -> str:
    """Both tables, and the rates with their intervals."""
    lines = [HEAD.format("training images, and test images that were learnt from")]
    clean: list[Contamination] = []
    for kind in drill.KINDS:
        for arm in drill.ARMS:
            found = of_drill(kind, arm)
            lines.append(row(_label(kind, arm), found))
            clean += found if not drill.ARMS[arm] else []
    committed = of_committed()
    lines += ["\n", HEAD.format("networks that never saw test images")]
    lines += [row("of the drill", clean), row("committed", list(committed.values()))]
    trained = sum(network.record.exists() for network in drill.networks())
    lines.append(
        f"\nChecked are {trained} of the {len(drill.networks())} networks of the drill, and "
        f"{len(committed)} of the {len([*drill.committed()])} committed networks whose weights are kept"
        f"{'' if trained == len(drill.networks()) else ': the same command does the rest'}.\n"
    )
    every = [*clean, *committed.values()]
    signs = sum(each.verdict == "sign" for each in every)
    if every:
        rate = wilson(signs, len(every))
        lines.append(
            f"\nFalse alarms: {signs} of {len(every)} clean networks, {100 * rate.estimate:.1f} % "
            f"({100 * rate.low:.1f} to {100 * rate.high:.1f} %, as if they were independent).\n"
        )
    for name, each in committed.items():
        excess = each.excess("clean")
        if each.verdict == "sign" and excess is not None:
            lines.append(
                f"\n* `{name}`: p {p_value_text(each.p_value)}, test minus second "
                f"{points(excess.estimate)} points clean"
            )
    return "".join(lines) + "\n"


def _label(kind: str, arm: str) -> str:
    """`natural: 5,000, and 1,000 of 10,000`."""
    of, divided = drill.KINDS[kind], drill.ARMS[arm]
    learnt = of.test // divided if divided else 0
    return f"{NAMES[kind]}: {of.training:,}, and {learnt:,} of {of.test:,}"


def write() -> None:
    """Writes the tables into the page, between its marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_atomic(PAGE, f"{before}{BEGIN}\n{text()}\n{END}{after}")
