"""python -m tests.cascade.study: the plan of the cascade, chosen on some networks, confirmed on others.

Reads what tests.cascade.collect wrote down; attacks nothing. The rule is best() with its budgets. It is
tried twice: on families of networks and halves of images of one data set, which says how far a choice
carries, and on whole data sets, which chose the column.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.store import write_atomic
from bench.schema import ModelCard
from tests.cascade import collect, frontier, plans
from tests.cascade.plans import DRAWS, Found, Plan, Score, drawn, replayed, score, stages

OUT = Path("results/cascade")
# The fewest missed images, means of several draws of the restarts, among the plans that take at most
# BUDGET passes a standing image; plans within EQUAL missed images of the fewest count as equal, and the
# cheapest of these is chosen. All on the choosing part alone.
BUDGET, EQUAL = 800, 0.5
# What the column `cascade` has. It stays, whatever the rule says when more is collected.
COLUMN = "near 1 x 30, probabilities 10 x 1, 5 probes, 7 within 0.1, all within 0.03"
WALKS = "near 1 x 30, probabilities 10 x 1, 5 probes, 7 within 0.1"  # of it, for all
CHOOSING = ("digits", "digits-5to9")  # data sets; the others confirm
LITE = "APGD-CE + APGD-T, 100 steps"

PlanOf = Mapping[int, Plan]  # number of classes -> plan
GATE = re.compile(r"within ([0-9.]+)")


@dataclass(frozen=True)
class Network:
    """One network under one seed."""

    name: str
    dataset: str
    seed: int
    family: str  # objective and perturbation
    found: Found

    def half(self, later: bool) -> Network:
        """With the images of one half alone."""
        return replace(self, found=self.found[self.found.later == later])


def read(folder: Path) -> list[Network]:
    """All that is collected, in the order of names and seeds."""
    known = {f"{f.parent.parent.name}-{f.name}": f for f in collect.networks()}
    answer = []
    for path in sorted(folder.glob("*.npz")):
        name, _, seed = path.stem.rpartition("-")
        card = ModelCard.model_validate_json((known[name] / "card.json").read_text())
        perturbed = card.awp and ("rwp" if card.awp.direction == "random" else "awp")
        family = "+".join(part for part in (card.objective, perturbed) if part)
        answer.append(Network(name, card.dataset, int(seed), family, Found.read(path)))
    return answer


FEW = 60  # so many missed images are drawn
Parts = tuple[list[Network], list[Network]]  # choosing, confirming


def by_family(networks: list[Network]) -> Parts:
    """Every other family in the order of the alphabet chooses, on the first half of its images.

    The others confirm, on the later half of theirs: no network and no image is on both sides.
    """
    chosen = [n for n in networks if n.dataset in CHOOSING]
    first = set(sorted({n.family for n in chosen})[::2])
    return (
        [n.half(later=False) for n in chosen if n.family in first],
        [n.half(later=True) for n in chosen if n.family not in first],
    )


def each_way(networks: list[Network]) -> list[Parts]:
    """Those families on all of their images: they choose and the others confirm, and the reverse."""
    chosen = [n for n in networks if n.dataset in CHOOSING]
    first = set(sorted({n.family for n in chosen})[::2])
    one = [n for n in chosen if n.family in first]
    other = [n for n in chosen if n.family not in first]
    return [(one, other), (other, one)]


def by_dataset(networks: list[Network]) -> Parts:
    """Data sets apart."""
    return (
        [n for n in networks if n.dataset in CHOOSING],
        [n for n in networks if n.dataset not in CHOOSING],
    )


def by_classes(networks: list[Network]) -> dict[str, dict[int, Plan]]:
    """Every plan of the grid and every rival, by name."""
    every: dict[str, dict[int, Plan]] = {}
    for classes in sorted({n.found.classes for n in networks}):
        for name, plan in [*plans.tried(classes), *plans.rivals(classes).items()]:
            every.setdefault(name, {})[classes] = plan
    return every


def best(scores: Mapping[str, Score], grid: Iterable[str]) -> str:
    """The plan that the rule chooses."""
    within = [name for name in grid if scores[name].passes <= BUDGET]
    most = EQUAL + min(scores[name].missed for name in within)
    return min(
        (name for name in within if scores[name].missed <= most),
        key=lambda name: (scores[name].passes, scores[name].missed),
    )


def widened(name: str, scores: Mapping[str, Score]) -> str:
    """The same walks with the widest gates that stay within the budget, the closest images first.

    Other networks may have their boundaries elsewhere, and wide gates are cheap.
    """
    alike = [
        other
        for other in scores
        if GATE.sub("within", other) == GATE.sub("within", name) and scores[other].passes <= BUDGET
    ]
    gates = {other: tuple(map(float, reversed(GATE.findall(other)))) for other in alike}
    return max(alike, key=gates.__getitem__, default=name)


def only_one(one: PlanOf, other: PlanOf, draws: Iterable[Found]) -> tuple[float, float]:
    """How many images only the one plan breaks, and how many only the other: means of the draws."""
    first = second = 0
    for f in draws:
        a, b = (replayed(plan[f.classes], f).standing for plan in (one, other))
        first, second = first + int((b & ~a).sum()), second + int((a & ~b).sum())
    return first / DRAWS, second / DRAWS


def anytime(plan_of: PlanOf, draws: Iterable[Found]) -> list[tuple[float, float]]:
    """(passes an image has had, images that stand then and can be broken), where these are FEW."""
    replays = [(replayed(plan_of[f.classes], f), f) for f in draws]
    spent = np.concatenate([r.passes for r, _ in replays])
    left = np.concatenate([r.standing for r, _ in replays])
    can = np.concatenate([f.broken for _, f in replays])
    at = np.sort(spent[~left])
    last = {float(p): float(can.sum() - i) / DRAWS for i, p in enumerate(at, start=1)}
    line = [*last.items(), (float(spent.max()), float((left & can).sum()) / DRAWS)]
    return [point for point in line if point[1] <= FEW]


def nearness(draws: Iterable[Found]) -> list[tuple[float, int, int]]:
    """(eps, images that came so near, those of them that another walk breaks), of what walks leave.

    Of images that the walks of the column leave without what the closest get: in all draws together;
    the first line is of all of them.
    """
    near, can = [], []
    for f in draws:
        walks = dict(plans.tried(f.classes))[WALKS]
        left = replayed(walks, f).standing
        gate = tuple(w for spec in walks for stage in stages(spec) for w in stage.walks)
        near.append(f.near(tuple(w for w in gate if w in f.nearest))[left])
        can.append(f.broken[left])
    nearest, broken = np.concatenate(near), np.concatenate(can)
    return [
        (eps, int((nearest <= eps).sum()), int((broken & (nearest <= eps)).sum()))
        for eps in (np.inf, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
    ]


def described(part: list[Network]) -> dict[str, Any]:
    """What a part of the study is made of."""
    broken = [n.found.broken for n in part]
    return {
        "networks": len({n.name for n in part}),
        "families": sorted({n.family for n in part}),
        "data sets": sorted({n.dataset for n in part}),
        "seeds": sorted({n.seed for n in part}),
        "images": sum(map(len, broken)),
        "broken by some walk": int(sum(b.sum() for b in broken)),
    }


@dataclass(frozen=True)
class Study:
    """Every plan on both parts, which one the rule chose, and which one is told of."""

    parts: Parts
    draws: tuple[list[Found], list[Found]]
    every: dict[str, dict[int, Plan]]
    rivals: list[str]
    scores: tuple[dict[str, Score], dict[str, Score]]
    rule: str  # what the rule chooses before its gates are widened
    chosen: str
    plan: str

    @classmethod
    def of(cls, parts: Parts, plan: str | None = None) -> Study:
        """plan: what is told of, else what is chosen."""
        every, rivals = by_classes([*parts[0], *parts[1]]), list(plans.rivals())
        first, second = (drawn([n.found for n in part]) for part in parts)
        choosing, confirming = (
            {name: score(plan_of, draws) for name, plan_of in every.items()}
            for draws in (first, second)
        )
        rule = best(choosing, [name for name in every if name not in rivals])
        chosen = widened(rule, choosing)
        plan = plan or chosen
        scores = choosing, confirming
        return cls(parts, (first, second), every, rivals, scores, rule, chosen, plan)

    def data(self) -> dict[str, Any]:
        """All figures that are told."""
        choosing, confirming = self.scores
        paired = {
            name: only_one(self.every[self.plan], self.every[name], self.draws[1])
            for name in self.rivals
        }
        return {
            "choosing": described(self.parts[0]),
            "confirming": described(self.parts[1]),
            "plans": len(self.every) - len(self.rivals),
            "before_widening": self.rule,
            "chosen": self.chosen,
            "plan": self.plan,
            "attacks": {
                str(classes): [spec.model_dump(mode="json") for spec in plan]
                for classes, plan in self.every[self.plan].items()
            },
            "nearness": [nearness(draws) for draws in self.draws],
            "scores": {
                name: {"choosing": asdict(choosing[name]), "confirming": asdict(confirming[name])}
                for name in dict.fromkeys((self.plan, self.chosen, self.rule, *self.rivals))
            },
            "only_the_plan_and_only_the_rival": paired,
        }

    def csv(self) -> str:
        """A line for every plan that was tried."""
        written = io.StringIO()
        lines = csv.writer(written, lineterminator="\n")
        lines.writerow(["plan", "missed", "passes", "confirmed_missed", "confirmed_passes"])
        for name in self.every:
            a, b = (scores[name] for scores in self.scores)
            figures = (a.missed, f"{a.passes:.1f}", b.missed, f"{b.passes:.1f}")
            lines.writerow([name, *figures])
        return written.getvalue()

    def pictures(self) -> dict[str, str]:
        """Name of a file -> SVG, of both parts."""
        named = {name: name for name in self.rivals} | {self.plan: "the cascade"}
        files = {}
        for part, scores, draws in zip(
            ("choosing", "confirming"), self.scores, self.draws, strict=True
        ):
            points = {name: (s.passes, s.missed) for name, s in scores.items()}
            words = "passes a standing image", f"images missed, {part} part"
            files[f"frontier-{part}.svg"] = frontier.drawn(points, named, words)
            lines = {named[n]: anytime(self.every[n], draws) for n in (self.plan, LITE)}
            words = "passes an image", f"images missed so far, {part} part"
            files[f"anytime-{part}.svg"] = frontier.curves(lines, words)
        return files

    def edge(self) -> list[str]:
        """Plans of the grid that no other beats on both counts, on the choosing part."""
        points = {
            name: (s.passes, float(s.missed))
            for name, s in self.scores[0].items()
            if name not in self.rivals
        }
        return frontier.edge(points)


PAGE = """# Which plan the cascade has

Written by `python -m tests.cascade.study` from collected walks. A missed image is one that a plan
leaves and some collected walk breaks, under the same seed; passes are images sent forward and images
sent backward. Figures are means of {draws} draws of the restarts from those collected. The walks of a
plan are among those that say which images can be broken, and so are the rivals'.

FAB and Square, which the closest images get, count as if they broke nothing.

The rule: of {plans} plans (all of them in `plans.csv`) within {budget} passes a standing image the
fewest missed images on the choosing part; plans within {equal:g} missed images of that count as equal,
and the cheapest of these is chosen. Then its gates (`within`) are widened as far as the budget
allows, those of the closest images first.

## Chosen on one data set, confirmed on another

{column}

## How far the rule carries: families of networks and halves of images apart

{families}

## Families of networks apart, on all of their images, each way

{ways}

## Where there is something left to find

Of the choosing part, all draws together: images that the walks of the column leave, without what the
closest images get; how near their boundaries came in these walks; and how many of them some other walk
breaks, AutoAttack's own among them. The walks: {walks}.

{near}

## The frontier

Of the choosing part, all networks: no other plan of the grid misses fewer for fewer passes.

{edge}
"""

SECTION = """{parts}

{chosen}

{compared}

Of the confirming part, image by image:

{paired}"""


def page(column: Study, families: Study, ways: list[Study]) -> str:
    """What is written for people."""
    return PAGE.format(
        draws=DRAWS, plans=len(column.every) - len(column.rivals), budget=BUDGET, equal=EQUAL,
        column=section(column), families=section(families),
        ways="\n\n".join(map(section, ways)), edge=table(column, column.edge()), walks=WALKS,
        near=near_table(nearness(column.draws[0])),
    )  # fmt: skip


def section(study: Study) -> str:
    data = study.data()
    described = [
        f"* {name}: {part['networks']} networks of {', '.join(part['data sets'])} "
        f"({', '.join(part['families'])}), seeds {', '.join(map(str, part['seeds']))}; they get "
        f"{part['images']} images right, of which some walk breaks {part['broken by some walk']}."
        for name, part in (("choosing", data["choosing"]), ("confirming", data["confirming"]))
    ]
    pairs = data["only_the_plan_and_only_the_rival"].items()
    said = f"The rule chooses **{study.chosen}**, widened from {study.rule}."
    if study.plan != study.chosen:
        said += f"\nThe column has what it chose when less was collected: **{study.plan}**."
    return SECTION.format(
        parts="\n".join(described), chosen=said,
        compared=table(study, dict.fromkeys([study.plan, study.chosen, study.rule, *study.rivals])),
        paired="| rival | only the plan breaks | only the rival breaks |\n"
        "| --- | --- | --- |\n" + "\n".join(f"| {name} | {a:g} | {b:g} |" for name, (a, b) in pairs),
    )  # fmt: skip


def near_table(lines: list[tuple[float, int, int]]) -> str:
    """Markdown of what `nearness` tells."""
    every, broken = lines[0][1:]
    head = "| within | images | another walk breaks |\n| --- | --- | --- |\n"
    return head + "\n".join(
        f"| {'any distance' if eps == np.inf else f'{eps:g} eps'} | {near} ({near / every:.1%}) | "
        f"{hits} of {broken} |"
        for eps, near, hits in lines
    )


def table(study: Study, names: Iterable[str]) -> str:
    """Markdown of plans on both parts."""
    head = (
        "| plan | choosing: missed | passes a standing image | confirming: missed | "
        "passes a standing image |\n| --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for name in names:
        a, b = (scores[name] for scores in study.scores)
        lines.append(f"| {name} | {a.missed:g} | {a.passes:.0f} | {b.missed:g} | {b.passes:.0f} |")
    return head + "\n".join(lines)


def main() -> int:
    """Writes the study anew from what is collected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--walks", type=Path, default=collect.RESULTS)
    parser.add_argument("--out", type=Path, default=OUT)
    a = parser.parse_args()
    networks = read(a.walks)
    column, families = Study.of(by_dataset(networks), COLUMN), Study.of(by_family(networks))
    ways = [Study.of(parts) for parts in each_way(networks)]
    text = page(column, families, ways)
    data = {
        "column": column.data(), "families": families.data(),
        "each_way": [study.data() for study in ways],
    }  # fmt: skip
    files = {"study.json": json.dumps(data, indent=2) + "\n", "study.md": text}
    for name, content in {**files, "plans.csv": column.csv(), **column.pictures()}.items():
        write_atomic(a.out / name, content.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
