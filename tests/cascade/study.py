"""python -m tests.cascade.study: the plan of the cascade, chosen on some networks, confirmed on others.

Reads what tests.cascade.collect wrote down; attacks nothing. The rules stand here and were fixed
before the figures: split(), best() and the two budgets.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.store import write_atomic
from bench.schema import ModelCard
from tests.cascade import collect, frontier, plans
from tests.cascade.plans import DRAWS, Found, Plan, Score, drawn, replayed, score

OUT = Path("results/cascade")
# The fewest missed images, the mean of several draws of the restarts, among the plans whose gradients
# take at most so many passes a standing image; of several the one with the fewest passes. Both on the
# choosing part alone.
GRADIENTS = 700
# Then the widest of these gates of Square with which the column stays within so many.
WITH_SQUARE, REACHES = 1000, (0.2, 0.1, 0.05, 0.02)
LITE = "APGD-CE + APGD-T, 100 steps"

PlanOf = Mapping[int, Plan]  # number of classes -> plan


@dataclass(frozen=True)
class Network:
    """One network under one seed."""

    name: str
    seed: int
    family: str  # objective and perturbation
    found: Found

    def half(self, later: bool) -> Network:
        """With the images of one half alone."""
        return Network(self.name, self.seed, self.family, self.found[self.found.later == later])


def read(folder: Path) -> list[Network]:
    """All that is collected, in the order of names and seeds."""
    known = {f"{f.parent.parent.name}-{f.name}": f for f in collect.networks()}
    answer = []
    for path in sorted(folder.glob("*.npz")):
        name, _, seed = path.stem.rpartition("-")
        card = ModelCard.model_validate_json((known[name] / "card.json").read_text())
        perturbed = card.awp and ("rwp" if card.awp.direction == "random" else "awp")
        family = "+".join(part for part in (card.objective, perturbed) if part)
        answer.append(Network(name, int(seed), family, Found.read(path)))
    return answer


def split(networks: list[Network]) -> tuple[list[Network], list[Network]]:
    """Every other family in the order of the alphabet chooses, on the first half of its images.

    The others confirm, on the later half of theirs: no network and no image is on both sides.
    """
    families = sorted({n.family for n in networks})
    choosing = set(families[::2])
    return (
        [n.half(later=False) for n in networks if n.family in choosing],
        [n.half(later=True) for n in networks if n.family not in choosing],
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
    within = [name for name in grid if scores[name].passes <= GRADIENTS]
    return min(within, key=lambda name: (scores[name].missed, scores[name].passes))


def with_square(plan_of: PlanOf, reach: float) -> dict[int, Plan]:
    return {classes: (*plan, plans.square(reach)) for classes, plan in plan_of.items()}


def only_one(one: PlanOf, other: PlanOf, draws: Iterable[Found]) -> tuple[float, float]:
    """How many images only the one plan breaks, and how many only the other: means of the draws."""
    first = second = 0
    for f in draws:
        a, b = (replayed(plan[f.classes], f).standing for plan in (one, other))
        first, second = first + int((b & ~a).sum()), second + int((a & ~b).sum())
    return first / DRAWS, second / DRAWS


def anytime(plan_of: PlanOf, draws: Iterable[Found]) -> list[tuple[float, float]]:
    """(passes an image has had, share of images that stand then), at every change of the share."""
    replays = [replayed(plan_of[f.classes], f) for f in draws]
    spent = np.concatenate([r.passes for r in replays])
    left = np.concatenate([r.standing for r in replays])
    at = np.sort(spent[~left])
    shares = 1 - np.arange(1, len(at) + 1) / len(left)
    last = {float(p): float(s) for p, s in zip(at, shares, strict=True)}
    return [*last.items(), (float(spent.max()), float(left.mean()))]


def described(part: list[Network]) -> dict[str, Any]:
    """What a part of the study is made of."""
    broken = [n.found.broken for n in part]
    return {
        "networks": len({n.name for n in part}),
        "families": sorted({n.family for n in part}),
        "data sets": sorted({n.name.partition("-")[0] for n in part}),
        "seeds": sorted({n.seed for n in part}),
        "images": sum(map(len, broken)),
        "broken by some walk": int(sum(b.sum() for b in broken)),
    }


@dataclass(frozen=True)
class Study:
    """Every plan on both parts, and which was chosen."""

    parts: tuple[list[Network], list[Network]]  # choosing, confirming
    draws: tuple[list[Found], list[Found]]
    every: dict[str, dict[int, Plan]]
    rivals: list[str]
    scores: tuple[dict[str, Score], dict[str, Score]]
    chosen: str
    reach: float  # of Square's gate

    @classmethod
    def of(cls, networks: list[Network]) -> Study:
        parts, every, rivals = split(networks), by_classes(networks), list(plans.rivals())
        first, second = (drawn([n.found for n in part]) for part in parts)
        choosing, confirming = (
            {name: score(plan, draws) for name, plan in every.items()} for draws in (first, second)
        )
        chosen = best(choosing, [name for name in every if name not in rivals])

        def passes(reach: float) -> float:
            return score(with_square(every[chosen], reach), first).passes

        reach = next(r for r in REACHES if passes(r) <= WITH_SQUARE)
        return cls(parts, (first, second), every, rivals, (choosing, confirming), chosen, reach)

    def data(self) -> dict[str, Any]:
        """All figures that are told."""
        choosing, confirming = self.scores
        whole = with_square(self.every[self.chosen], self.reach)
        paired = {
            name: only_one(self.every[self.chosen], self.every[name], self.draws[1])
            for name in self.rivals
        }
        return {
            "choosing": described(self.parts[0]),
            "confirming": described(self.parts[1]),
            "plans": len(self.every) - len(self.rivals),
            "chosen": self.chosen,
            "square_within": self.reach,
            "attacks": {
                str(classes): [spec.model_dump(mode="json") for spec in plan]
                for classes, plan in whole.items()
            },
            "passes_with_square": [score(whole, draws).passes for draws in self.draws],
            "scores": {
                name: {"choosing": asdict(choosing[name]), "confirming": asdict(confirming[name])}
                for name in (self.chosen, *self.rivals)
            },
            "only_the_chosen_and_only_the_rival": paired,
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
        """Name of a file -> SVG, of the confirming part."""
        points = {name: (s.passes, float(s.missed)) for name, s in self.scores[1].items()}
        named = {name: name for name in self.rivals} | {self.chosen: "the chosen plan"}
        lines = {
            label: anytime(self.every[name], self.draws[1])
            for name, label in ((self.chosen, "the chosen plan"), (LITE, LITE))
        }
        across = ("passes a standing image", "passes an image")
        return {
            "frontier.svg": frontier.drawn(points, named, (across[0], "images missed")),
            "anytime.svg": frontier.curves(lines, (across[1], "share of images that stand")),
        }

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
leaves and some collected walk breaks, under the same seed, the mean of {draws} draws of its restarts
from those collected; passes are images sent forward and images sent backward.

{parts}

The rule: of {plans} plans (all of them in `plans.csv`) the fewest missed images on the choosing part
within {gradients} passes a standing image; of several the cheapest. It chose
**{chosen}**.
Square follows within {reach:g} eps, the widest of {reaches} that keeps all within {budget}:
{total[0]:.0f} passes a standing image on the choosing part, {total[1]:.0f} on the confirming part.

{compared}

Of the confirming part, image by image:

{paired}

The frontier of the choosing part: no other plan of the grid misses fewer for fewer passes.

{edge}
"""


def page(study: Study, data: dict[str, Any]) -> str:
    """What is written for people."""
    described = [
        f"* {name}: {part['networks']} networks of {', '.join(part['data sets'])} "
        f"({', '.join(part['families'])}), seeds {', '.join(map(str, part['seeds']))}; they get "
        f"{part['images']} images right, of which some walk breaks {part['broken by some walk']}."
        for name, part in (("choosing", data["choosing"]), ("confirming", data["confirming"]))
    ]
    pairs = data["only_the_chosen_and_only_the_rival"].items()
    return PAGE.format(
        parts="\n".join(described), plans=data["plans"], gradients=GRADIENTS,
        chosen=study.chosen, reach=study.reach, reaches=", ".join(f"{r:g}" for r in REACHES),
        budget=WITH_SQUARE, draws=DRAWS, total=data["passes_with_square"],
        compared=table(study, [study.chosen, *study.rivals]), edge=table(study, study.edge()),
        paired="| rival | only the chosen plan breaks | only the rival breaks |\n"
        "| --- | --- | --- |\n" + "\n".join(f"| {name} | {a:g} | {b:g} |" for name, (a, b) in pairs),
    )  # fmt: skip


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
    study = Study.of(read(a.walks))
    data = study.data()
    text = page(study, data)
    files = {"study.json": json.dumps(data, indent=2) + "\n", "study.md": text}
    for name, content in {**files, "plans.csv": study.csv(), **study.pictures()}.items():
        write_atomic(a.out / name, content.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
