"""Which comparisons of the board come first: by seeds, images and name, whatever came out of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.records.store import pretty_json, write_atomic
from bench.schema import AwpConfig, EvaluationRecord
from bench.stats.comparisons import (
    FIRST,
    RULE,
    Comparison,
    answer_in_a_sentence,
    comparisons,
    front,
)
from bench.stats.contrasts import Answer, Method, answers
from bench.stats.intervals import Interval
from bench.stats.study_files import Finding, StudyFile
from bench.stats.verdicts import Effect, Verdict, descriptive, judge
from bench.table import Group
from tests.board.board_records import make_record, matched_pair, prove, with_controls, write_all

Records = list[EvaluationRecord]


def seeds(count: int, kept: str = "best", **fields: Any) -> Records:
    pairs = (matched_pair(seed, kept, **fields) for seed in range(count))
    return [record for pair in pairs for record in pair]


def perturbed_at_random(count: int, **fields: Any) -> Records:
    """As many pairs, of which the perturbed one went nowhere in particular."""
    found = []
    for record in seeds(count, **fields):
        card = record.card
        if card.awp is not None:
            awp = AwpConfig(gamma=0.02, warm_up=17, direction="random")
            assert card.train is not None
            train = card.train.model_copy(update={"awp": awp})
            card = card.model_copy(update={"awp": awp, "train": train})
            card = card.model_copy(update={"name": card.name.replace("awp", "rwp")})
            record = make_record(card, robust=0.5, n=record.n)
        found.append(record)
    return found


def found(root: Path, *records: Records) -> tuple[Comparison, ...]:
    for some in records:
        write_all(root, some)
    return comparisons(table.build(root).groups)


def said(of: tuple[Comparison, ...]) -> list[tuple[str, int, int, str]]:
    return [(c.label, c.method.seeds, c.group.n, c.group.protocol_label) for c in of]


RECIPES = ("equal-compute", "best-vanilla")
# Two tables or methods -> what is shown of them, in order.
ORDERS: dict[str, tuple[Callable[[], Records], list[tuple[str, int, int, str]]]] = {
    "more seeds before more images": (
        lambda: seeds(3, dataset="digits", n=100) + seeds(2, dataset="mnist", n=400),
        [("AT-AWP − AT, digits", 3, 100, "standard"), ("AT-AWP − AT, mnist", 2, 400, "standard")],
    ),
    "more images before the name": (
        lambda: seeds(2, dataset="digits", n=100) + seeds(2, dataset="mnist", n=400),
        [("AT-AWP − AT, mnist", 2, 400, "standard"), ("AT-AWP − AT, digits", 2, 100, "standard")],
    ),
    "by name": (
        lambda: seeds(2, dataset="mnist") + seeds(2, dataset="digits"),
        [("AT-AWP − AT, digits", 2, 200, "standard"), ("AT-AWP − AT, mnist", 2, 200, "standard")],
    ),
    "the chosen epoch alone, whatever the last has": (
        lambda: seeds(2, "best") + seeds(3, "last", n=400),
        [("AT-AWP − AT, digits", 2, 200, "standard")],
    ),
    "the last epoch says so": (
        lambda: seeds(2, "last"), [("AT-AWP − AT, digits, last epoch", 2, 200, "standard")],
    ),
    "full attacks before gradients alone": (
        lambda: seeds(2, protocol="gradient") + seeds(2),
        [("AT-AWP − AT, digits", 2, 200, "standard")],
    ),
    "more seeds before full attacks": (
        lambda: seeds(3, protocol="gradient") + seeds(2),
        [("AT-AWP − AT, digits", 3, 200, "gradient")],
    ),
    "training images tell apart, as numbers": (
        lambda: seeds(2, n_train=10_000) + seeds(2, n_train=2_000),
        [
            ("AT-AWP − AT, digits, 2,000 training images", 2, 200, "standard"),
            ("AT-AWP − AT, digits, 10,000 training images", 2, 200, "standard"),
        ],
    ),
    "threats tell apart": (
        lambda: seeds(2, threat="linf:0.1") + seeds(2),
        [
            ("AT-AWP − AT, digits, linf:0.1", 2, 200, "standard"),
            ("AT-AWP − AT, digits, linf:0.15", 2, 200, "standard"),
        ],
    ),
    "controls after twins, whatever their seeds": (
        lambda: [r for s in range(3) for r in with_controls(s, RECIPES, "best")]
        + seeds(2, dataset="mnist"),
        [
            ("AT-AWP − AT, digits", 3, 200, "standard"),
            ("AT-AWP − AT, mnist", 2, 200, "standard"),
            ("AT-AWP − AT tuned as much, digits", 3, 200, "standard"),
            ("AT-AWP − AT with its compute, digits", 3, 200, "standard"),
        ],
    ),
    "random perturbations last": (
        lambda: perturbed_at_random(3) + seeds(2, dataset="mnist"),
        [("AT-AWP − AT, mnist", 2, 200, "standard"), ("AT-RWP − AT, digits", 3, 200, "standard")],
    ),
    "one without its twin is none": (lambda: seeds(2)[1::2], []),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_what_comes_first(tmp_path: Path, name: str) -> None:
    records, expected = ORDERS[name]
    assert said(found(tmp_path, records())) == expected


def both_ways(way: int) -> Records:
    """Three questions with clear results, all of which are turned round by the other way."""
    gains = ((3, "digits", 0.05), (2, "mnist", -0.06), (2, "svhn", 0.0))
    return [
        record
        for count, dataset, gain in gains
        for kept in ("best", "last")
        for record in seeds(count, kept, dataset=dataset, gain=way * gain, protocol="gradient")
    ]


def test_no_result_changes_the_order(tmp_path: Path) -> None:
    up, down = (found(tmp_path / str(way), both_ways(way)) for way in (1, -1))
    assert said(up) == said(down)
    assert [c.method.compared for c in up] == [c.method.compared for c in down]
    differences = [[c.method.effect().each for c in some] for some in (up, down)]
    assert differences[0] != differences[1]
    assert max(differences[0][0]) > 0 > min(differences[1][0])


def test_the_order_of_the_tables_changes_nothing(tmp_path: Path) -> None:
    write_all(tmp_path, both_ways(1))
    tables = table.build(tmp_path).groups
    orders = {tuple(said(comparisons(some))) for some in itertools.permutations(tables)}
    assert len(orders) == 1


def declare(root: Path, of: Comparison) -> None:
    """A study that declared one contrast as primary before it was measured."""
    effect = of.method.effect()
    finding = Finding(
        contrast="a minus b", kept="best" if of.method.kept == "validation" else "last", n=of.group.n,
        seeds=tuple(range(effect.seeds)), crossed=(effect.crossed.low, effect.crossed.high),
        records=tuple((p.awp.record.id, p.vanilla.record.id) for p in of.method.pairs),
        differences={"worst case": effect.each}, primary=True,
    )  # fmt: skip
    study = StudyFile(name="made-up", question="?", primary=4, networks=(), findings=(finding,))
    write_atomic(root / "studies" / "made-up.json", pretty_json(study))


@pytest.mark.parametrize("kept", ["best", "last"])
def test_what_a_study_declared_comes_first(tmp_path: Path, kept: str) -> None:
    """Also where it is the last epoch, and of fewer seeds and images than all others."""
    write_all(tmp_path, seeds(2, "best", dataset="mnist") + seeds(2, "last", dataset="mnist"))
    group = table.build(tmp_path).groups[0]
    of = next(
        a.method for a in answers(group) if (a.method.kept == "validation") == (kept == "best")
    )
    declare(tmp_path, Comparison(of, False, "", answers))
    first, *others = found(tmp_path, seeds(3, n=400))
    epoch = ", last epoch" if kept == "last" else ""
    assert (first.label, first.primary) == (f"AT-AWP − AT, mnist{epoch}", True)
    assert first.verdict.family == "the 4 primary contrasts of made-up"
    assert [(c.label, c.primary) for c in others] == [("AT-AWP − AT, digits", False)]


def test_tables_that_nothing_vouches_for_stay_out_where_others_are_known(tmp_path: Path) -> None:
    """Else anybody's folder with many seeds would come first."""
    ours, theirs = seeds(2), seeds(4, dataset="mnist", n=400)
    assert len(found(tmp_path, ours, theirs)) == 2
    prove(tmp_path, *ours)
    assert [c.label for c in found(tmp_path)] == ["AT-AWP − AT, digits"]


def test_a_verdict_is_that_of_its_table_and_made_only_when_asked_for(tmp_path: Path) -> None:
    write_all(tmp_path, seeds(3) + seeds(2, dataset="mnist"))
    asked = []

    def answered(group: Group) -> tuple[Any, ...]:
        asked.append(group.dataset)
        return answers(group)

    first, second = comparisons(table.build(tmp_path).groups, answered)
    assert asked == []
    assert first.verdict.standing in first.answer.sentence
    assert asked == ["digits"]
    assert second.answer.method.compared == second.method.compared


def test_six_of_awp_stand_in_front(tmp_path: Path) -> None:
    sizes = [r for n in range(201, 208) for r in seeds(1, n_train=n)]
    everything = found(tmp_path, sizes, perturbed_at_random(3))
    assert len(everything) == 8
    assert front(everything) == everything[:FIRST]
    assert not any(c.random for c in front(everything))
    assert front([c for c in everything if c.random]) == ()
    assert RULE.endswith("No result plays a part.")


# ---------------------------------------------------------------- the answer

_UP = (0.03, 0.02, 0.025, 0.03, 0.022, 0.021)


def verdict(each: tuple[float, ...], **how: Any) -> Verdict:
    mean, width = sum(each) / len(each), 0.01 if len(each) > 1 else math.inf
    effect = Effect(each, Interval(mean, mean - width, mean + width))
    return descriptive(effect) if how.pop("alone", False) else judge([effect], "here", **how)[0]


VERDICTS = {
    "+": verdict(_UP),
    "-": verdict(tuple(-x for x in _UP)),
    "+?": verdict(_UP[:3]),
    "-?": verdict(tuple(-x for x in _UP[:3])),
    "0": verdict((0.01, -0.01) * 3),
    "few": verdict((0.03,) * 6),
    "one": verdict((0.03,)),
    "none": verdict(_UP, why_none=["nothing overfits"]),
    "told": verdict(_UP, alone=True),
}


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Method]:
    """Methods to say something of: by data set, and two controls."""
    root = tmp_path_factory.mktemp("methods")
    for seed in range(6):
        write_all(root, with_controls(seed, RECIPES if seed < 2 else (), "best"))
    write_all(root, seeds(3, dataset="fashion_mnist-5to9", n=30) + seeds(1, dataset="mnist", n=30))
    asked = comparisons(table.build(root).groups)
    return {c.method.control or c.group.dataset: c.method for c in asked}


SMALL, BEST = "On small networks (", "; best epochs): "
SENTENCES: dict[str, tuple[dict[str, str], str]] = {
    "nothing measured": (
        {}, "Not measured yet: no network here has a vanilla twin trained with the same seed.",
    ),
    "some better": (
        {"digits": "+ + 0 0 0", "fashion_mnist-5to9": "0"},
        SMALL + "digits, Fashion-MNIST; 3 to 6 seeds" + BEST +
        "better in 2 of 6 comparisons, nothing shown "
        "in 4.",
    ),
    "all better": (
        {"digits": "+ + + + + +"},
        SMALL + "digits; 6 seeds" + BEST + "better in all 6 comparisons.",
    ),
    "all worse": (
        {"digits": "- - - - - -"},
        SMALL + "digits; 6 seeds" + BEST + "worse in all 6 comparisons.",
    ),
    "both ways": (
        {"digits": "0 - +"},
        SMALL + "digits; 6 seeds" + BEST +
        "better in 1 of 3 comparisons, worse in 1, nothing shown in 1.",
    ),
    "nothing shown": (
        {"digits": "0 0"}, SMALL + "digits; 6 seeds" + BEST + "nothing shown in both comparisons.",
    ),
    "indications are none of the others": (
        {"fashion_mnist-5to9": "+? -? 0"},
        SMALL + "Fashion-MNIST; 3 seeds" + BEST +
        "indication: better in 1 of 3 comparisons, indication: "
        "worse in 1, nothing shown in 1.",
    ),
    "one seed": (
        {"mnist": "one"},
        SMALL + "MNIST; 1 seed" + BEST + "one seed alone, which shows nothing, in the only comparison.",
    ),
    "every other standing is counted": (
        {"digits": "few none told +", "mnist": "one"},
        SMALL + "digits, MNIST; 1 to 6 seeds" + BEST +
        "better in 1 of 5 comparisons, too little measured to "
        "tell in 1, one seed alone, which shows nothing, in 1, no verdict in 1, numbers without a "
        "verdict in 1.",
    ),
    "stronger baselines are told apart, the tuned one first": (
        {"digits": "+ 0", "equal-compute": "+", "best-vanilla": "- 0"},
        SMALL + "digits; 2 to 6 seeds" + BEST +
        "better in 1 of 2 comparisons, nothing shown in 1; against a "
        "baseline tuned as much: worse in 1 of 2, nothing shown in 1; against a baseline with its "
        "compute: better in the only one.",
    ),
    "stronger baselines alone": (
        {"best-vanilla": "- -"},
        SMALL + "digits; 2 seeds" + BEST + "against a baseline tuned as much: worse in both.",
    ),
    "the six in front, and no more": (
        {"digits": "0 0 0 0 0 0 + + +"},
        SMALL + "digits; 6 seeds" + BEST + "nothing shown in all 6 comparisons.",
    ),
}  # fmt: skip


def come_out(method: Method, as_told: Verdict) -> Comparison:
    def answered(group: Group) -> tuple[Answer, ...]:
        return (Answer(method, as_told),)

    return Comparison(method, False, "", answered)


@pytest.mark.parametrize("name", SENTENCES)
def test_the_answer_counts_every_comparison(methods: dict[str, Method], name: str) -> None:
    given, expected = SENTENCES[name]
    told = [
        come_out(methods[of], VERDICTS[word])
        for of, words in given.items()
        for word in words.split()
    ]
    assert answer_in_a_sentence(told) == expected


def test_the_answer_says_how_large_networks_were(tmp_path: Path) -> None:
    records = seeds(2)
    large = [
        make_record(r.card.model_copy(update={"n_parameters": 11_173_962}), n=r.n) for r in records
    ]
    said = answer_in_a_sentence(found(tmp_path, large))
    assert said.startswith(
        "On networks of up to 11.2 million parameters (digits; 2 seeds" + BEST + ""
    )


def test_random_perturbations_are_not_the_answer(tmp_path: Path) -> None:
    assert answer_in_a_sentence(found(tmp_path, perturbed_at_random(3))).startswith("Not measured")
