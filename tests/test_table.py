"""The table: who speaks for a model, who may stand beside whom, and what AWP did, by hand."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import render, results, table
from bench.exports.flat import csv_text
from bench.notation import percent, plain, points
from bench.packing import pack_bits
from bench.pairs import Method, methods, pairs
from bench.protocols import protocol
from bench.schema import (
    AttackSpec,
    AwpConfig,
    Column,
    EvaluationRecord,
    ExtraData,
    Flag,
    Protocol,
    StartingPoint,
)
from bench.table import WORST_CASE, Leaderboard, awp_text

from . import board_records
from .board_records import (
    make_card,
    make_record,
    matched_pair,
    rewrite,
    sha,
    with_id,
    write_all,
    write_example,
)


@pytest.fixture
def ranked(tmp_path: Path) -> Callable[..., Leaderboard]:
    """Writes records to a fresh folder and ranks them."""

    def write_and_rank(*records: EvaluationRecord) -> Leaderboard:
        write_all(tmp_path, list(records))
        return table.build(tmp_path)

    return write_and_rank


def named(name: str, robust: float, **fields: Any) -> EvaluationRecord:
    return make_record(make_card(name), robust=robust, **fields)


def other_version(record: EvaluationRecord, **fields: Any) -> EvaluationRecord:
    """The same model measured in another way."""
    values = {name: getattr(record, name) for name in type(record).model_fields}
    return with_id(values | fields)


# ---------------------------------------------------------------- ranking


def test_rows_are_ranked_by_worst_case_and_ties_share_a_rank(ranked: Any) -> None:
    board = ranked(named("c", 0.5), named("b", 0.6), named("a", 0.6), named("d", 0.7))
    rows = board.groups[0].rows
    assert [(row.rank, row.card.name) for row in rows] == [(1, "d"), (2, "a"), (2, "b"), (4, "c")]


def test_a_doubtful_row_stands_last_without_a_rank_and_says_why(ranked: Any) -> None:
    masked = (Flag(name="zero-gradients", message="."), Flag(name="few-classes", message="."))
    mild = (Flag(name="few-classes", message="."),)
    board = ranked(
        named("masked", 0.8, flags=masked),
        named("a", 0.6, flags=mild),
        named("b", 0.5),
        named("also-masked", 0.9, flags=masked),
    )
    rows = board.groups[0].rows
    assert [(row.rank, row.card.name) for row in rows] == [
        (1, "a"),
        (2, "b"),
        (None, "also-masked"),
        (None, "masked"),
    ]
    assert [row.unranked for row in rows] == ["", "", *2 * ["unranked: zero-gradients"]]
    for text in (render.markdown(board), render.terminal_table(board)):
        assert text.count("unranked: zero-gradients") == 2
        assert text.index("unranked") > text.index("b")
    lines = list(csv.DictReader(io.StringIO(csv_text(board.groups))))
    assert [line["rank"] for line in lines] == ["1", "2", "", ""]
    assert lines[2]["flags"] == "zero-gradients, few-classes"
    shown = json.loads(render.to_json(board))[0]["rows"]
    assert [row["rank"] for row in shown] == [1, 2, None, None]


def test_a_doubtful_row_proves_nothing_about_a_method(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    doubt = (Flag(name="zero-gradients", message="."),)
    board = ranked(vanilla, make_record(awp.card, robust=0.9, flags=doubt))
    (pair,) = pairs(board.groups[0])
    assert pair.remark == "unranked: zero-gradients"
    assert not pair.matched
    assert methods(board.groups[0]) == ()


def test_a_row_says_what_its_record_says(ranked: Any) -> None:
    record = named("a", 0.6, clean=0.9)
    row = ranked(record).groups[0].rows[0]
    assert row.rates["clean"].estimate == record.clean_accuracy == 0.9
    assert row.rates[WORST_CASE].estimate == record.worst_case
    assert {name: row.rates[name].estimate for name in record.columns} == record.robust_accuracy
    assert row.rates[WORST_CASE].low < record.worst_case < row.rates[WORST_CASE].high


def test_groups_never_mix_what_cannot_be_compared(ranked: Any) -> None:
    kinds = (
        {},
        {"n": 100},
        {"threat": "linf:0.1"},
        {"threat": "l2:0.5"},
        {"protocol": "gradient"},
        {"split": "test[200:400]"},
        {"examples_sha256": sha("other images")},
    )
    board = ranked(*(named(f"m{k}", 0.5, **kind) for k, kind in enumerate(kinds)))
    assert len(board.groups) == len(kinds)
    assert len({group.key for group in board.groups}) == len(kinds)


def test_another_meaning_of_a_protocol_name_is_another_table(ranked: Any) -> None:
    weak = Column(name="pgd20", attacks=(AttackSpec(name="pgd", params={"steps": 2}),))
    record = named("weak", 0.9)
    foreign = other_version(
        record,
        protocol=Protocol(name="standard", version=1, columns=(weak,)),
        columns={"pgd20": record.columns["pgd20"].model_copy(update={"column_id": weak.column_id})},
    )
    honest, strange = ranked(named("honest", 0.5), foreign).groups
    assert {honest.protocol_label, strange.protocol_label} == {
        "standard",
        f"standard (id {foreign.protocol.protocol_id})",
    }
    header = next(csv.reader(io.StringIO(csv_text([honest, strange]))))
    pgd20 = protocol("standard").columns[1]
    assert {f"pgd20@{pgd20.column_id}", f"pgd20@{weak.column_id}"} <= set(header)
    assert "pgd20" not in header


@pytest.mark.parametrize(
    ("speaks", "silent"),
    [
        ({"engine": "ours"}, {"engine": "reference"}),
        ({"precision": "float32"}, {"precision": "mixed"}),
        ({"seed": 0}, {"seed": 1}),
        (
            {"engine_version": "2", "created": "2026-11-20T12:00:00Z"},
            {"engine_version": "1", "created": "2026-11-19T12:00:00Z"},
        ),
    ],
    ids=["our engine", "float32", "lowest seed", "newest"],
)
def test_which_record_speaks_for_a_model(ranked: Any, speaks: dict, silent: dict) -> None:
    record = named("a", 0.5)
    first, second = other_version(record, **speaks), other_version(record, **silent)
    (row,) = ranked(second, first).groups[0].rows
    assert row.record.id == first.id
    assert row.record_count == 2


def test_a_rank_range_is_fixed_by_the_whole_group(ranked: Any, tmp_path: Path) -> None:
    masked = (Flag(name="zero-gradients", message="."),)
    shares = {"a": 0.8, "b": 0.6, "c": 0.59, "d": 0.4}
    doubtful = named("doubtful", 0.7, flags=masked)
    group = ranked(*(named(*model) for model in shares.items()), doubtful).groups[0]
    assert [row.range_text for row in group.rows] == ["1", "2-3", "2-3", "4", ""]
    assert [row.rank_range for row in group.rows] == [(1, 1), (2, 3), (2, 3), (4, 4), None]
    (note,) = group.separation_notes
    assert "Holm over 6 pairs at 5 % family-wise" in note
    assert "5 separated, the others not separated; of 3 neighbouring pairs 2 separated" in note
    board = Leaderboard((group,), (), results.Collection())
    lines = list(csv.DictReader(io.StringIO(render.to_csv(board))))
    assert [(x["rank_best"], x["rank_worst"]) for x in lines[2:]] == [
        ("2", "3"),
        ("4", "4"),
        ("", ""),
    ]
    assert json.loads(render.to_json(board))[0]["rows"][1]["rank_range"] == [2, 3]
    for text in (render.markdown(board), render.terminal_table(board)):
        assert "2-3" in text
        assert "equal" not in text
    # A page that shows some rows alone shows the places that they have in the whole group.
    assert [row.range_text for row in group.rows[1:3]] == ["2-3", "2-3"]
    cached = table.build(tmp_path, cache=tmp_path / "cache").groups[0]
    again = table.build(tmp_path, cache=tmp_path / "cache").groups[0]
    assert cached.ranks == again.ranks == group.ranks


def test_one_row_has_one_place_and_no_note(ranked: Any) -> None:
    group = ranked(named("a", 0.5)).groups[0]
    assert (group.rows[0].range_text, group.separation_notes) == ("1", ())


def test_the_range_over_attack_seeds_is_a_line_of_its_own(ranked: Any) -> None:
    first = named("a", 0.5, noise=0.3)
    again = [named("a", share, noise=0.3, seed=seed) for seed, share in ((1, 0.49), (2, 0.52))]
    other = other_version(first, seed=7, precision="mixed")  # not the same but for the seed
    group = ranked(first, *again, other, named("b", 0.6)).groups[0]
    b, a = group.rows
    assert b.seed_range is None
    assert a.seed_range is not None
    standing = [record.worst_case_standing.sum() for record in (first, *again)]
    assert (a.seed_range.lowest, a.seed_range.highest) == (min(standing), max(standing))
    assert a.seed_range.seeds == (0, 1, 2)
    assert group.seed_lines == ("a: worst case 49.0 – 52.0 over 3 attack seeds",)
    assert group.seed_lines[0] in render.terminal_table(Leaderboard((group,), (), None))  # type: ignore[arg-type]


def test_best_known_is_the_intersection_of_all_standing_bits(ranked: Any) -> None:
    a = named("a", 0.5, noise=0.3)
    b = named("a", 0.5, noise=0.3, seed=1)
    row = ranked(a, b).groups[0].rows[0]
    both = a.worst_case_standing & b.worst_case_standing
    assert (row.best_known == both).all()
    assert both.sum() < a.worst_case_standing.sum()


def test_digits_come_last_and_are_called_a_demo(ranked: Any) -> None:
    other = make_record(make_card("x", dataset="zebra"), robust=0.2)
    board = ranked(named("a", 0.5), other)
    assert [group.dataset for group in board.groups] == ["zebra", "digits"]
    assert [group.heading.startswith("demo: ") for group in board.groups] == [False, True]


# ---------------------------------------------------------------- what is left out


def test_a_withdrawn_record_leaves_the_table_but_not_the_notes(tmp_path: Path) -> None:
    path, _ = write_all(tmp_path, [named("a", 0.5), named("b", 0.6)])
    results.withdraw(path, "wrong normalisation")
    board = table.build(tmp_path)
    assert [row.card.name for row in board.groups[0].rows] == ["b"]
    (note,) = board.notes
    assert "a on digits" in note
    assert "wrong normalisation" in note


def test_a_withdrawn_record_no_longer_counts_in_best_known(tmp_path: Path) -> None:
    a, b = named("a", 0.5), named("a", 0.3, seed=1)
    _, path = write_all(tmp_path, [a, b])
    results.withdraw(path, "the attack was run on other images")
    row = table.build(tmp_path).groups[0].rows[0]
    assert row.record_count == 1
    assert (row.best_known == a.worst_case_standing).all()


def test_corrupt_failed_and_refused_files_are_named(tmp_path: Path) -> None:
    good, corrupt, edited = write_all(tmp_path, [named(k, 0.5) for k in ("a", "b", "c")])
    corrupt.write_text("{ truncated")
    rewrite(edited, n=7)
    write_all(tmp_path, [named("d", 0.5, failure="out of\nmemory")])
    good.with_suffix(".refused.json").write_text("{}")
    board = table.build(tmp_path)
    assert [row.card.name for row in board.groups[0].rows] == ["a"]
    text = "\n".join(board.notes)
    assert len(board.notes) == 4
    for path in (corrupt, edited):
        assert path.relative_to(tmp_path).as_posix() in text
        assert str(tmp_path) not in text
    assert "out of memory" in text
    assert "refused" in text


def test_a_copied_record_counts_once_and_a_forged_copy_is_named(tmp_path: Path) -> None:
    (path,) = write_all(tmp_path, [named("a", 0.5)])
    copy = path.parent.parent / "copy" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    board = table.build(tmp_path)
    assert (len(board.groups[0].rows), board.notes) == (1, ())
    rewrite(copy, split="another")
    board = table.build(tmp_path)
    assert len(board.groups[0].rows) == 1
    assert "same id" in board.notes[0]


def test_no_folder_and_an_empty_folder_have_no_rows(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        board = table.build(root)
        assert (board.groups, board.notes) == ((), ())
        assert "No records yet" in render.terminal_table(board)
        assert "No records yet" in render.markdown(board)
        assert (render.to_csv(board), json.loads(render.to_json(board))) == ("", [])


# ---------------------------------------------------------------- pairs and methods


def test_a_pair_is_counted_on_the_same_images(ranked: Any) -> None:
    vanilla, awp = matched_pair(0, vanilla=0.5, gain=0.1)
    (pair,) = pairs(ranked(vanilla, awp).groups[0])
    a, b = awp.worst_case_standing, vanilla.worst_case_standing
    comparison = pair.comparisons[WORST_CASE]
    assert (comparison.only_a, comparison.only_b) == (int((a & ~b).sum()), int((~a & b).sum()))
    assert comparison.difference.estimate == pytest.approx(0.1)
    assert comparison.difference.low < 0.1 < comparison.difference.high
    assert set(pair.comparisons) == {"clean", WORST_CASE, *vanilla.columns}
    assert pair.matched


def method_of(board: Leaderboard) -> Method:
    (method,) = methods(board.groups[0])
    return method


def with_differences(*gains: float, n: int = 1000) -> list[EvaluationRecord]:
    found = [matched_pair(seed, vanilla=0.5, gain=gain, n=n) for seed, gain in enumerate(gains)]
    return [record for pair in found for record in pair]


def test_a_method_is_the_mean_of_its_seeds(ranked: Any) -> None:
    method = method_of(ranked(*with_differences(0.046, 0.042, 0.027, 0.019, 0.020)))
    difference = method.differences[WORST_CASE]
    assert points(difference.estimate) == "+3.1"
    assert (points(difference.low), points(difference.high)) == ("+1.5", "+4.6")
    assert method.differences["autoattack"] == difference
    assert difference.estimate == pytest.approx(np.mean([0.046, 0.042, 0.027, 0.019, 0.020]))
    sentence = method.sentence()
    assert sentence.startswith("AT-AWP minus AT (small_cnn, gamma 0.02, warm-up 17 epochs, last")
    assert "worst case of standard (FGSM, PGD-20, CW-inf, AutoAttack), n = 1,000" in sentence
    assert "5 seeds (fewer than 6)" in sentence
    drawn = method.bootstrap()
    assert difference.low < drawn.low < drawn.estimate < drawn.high < difference.high
    between = f"seeds x images drawn again [{points(drawn.low)}, {points(drawn.high)}]"
    assert sentence.endswith(f"+3.1 points [+1.5, +4.6], {between}: AWP helped in these runs.")


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.01, -0.02, 0.015, -0.01, 0.0, 0.012), "no effect shown"),
        ((-0.03, -0.02, -0.025, -0.03, -0.02, -0.02), "AWP hurt in these runs"),
        ((0.03,), "one seed shows nothing about a method"),
        ((0.03, 0.03), "too few seeds and images to tell"),
        ((0.0, 0.0), "no effect shown"),
    ],
)
def test_the_verdict_says_no_more_than_the_interval(
    ranked: Any, gains: tuple[float, ...], verdict: str
) -> None:
    method = method_of(ranked(*with_differences(*gains)))
    assert method.verdict() == verdict
    assert method.sentence().endswith(f": {verdict}.")
    assert ("fewer than 6" in method.sentence()) == (len(gains) < 6)
    if len(gains) == 1:
        assert "no interval" in method.sentence()


@pytest.mark.parametrize(
    ("fields", "uses", "text"),
    [
        ({"awp": AwpConfig(gamma=0.01)}, True, "yes"),
        ({"awp": AwpConfig(gamma=0.01, direction="random")}, False, "random"),
        ({}, False, "no"),
        ({"objective": None}, None, "unknown"),
    ],
)
def test_a_random_direction_is_not_awp(fields: Any, uses: bool | None, text: str) -> None:
    card = make_card(**fields)
    assert card.uses_awp is uses
    assert awp_text(card) == text


def test_best_and_last_and_random_directions_are_methods_of_their_own(ranked: Any) -> None:
    records = [record for kept in ("best", "last") for record in matched_pair(0, kept)]
    random_awp = AwpConfig(direction="random", gamma=0.02, warm_up=17)
    control = make_card("rwp", awp=random_awp, pair="digits-at-seed0-last")
    board = ranked(*records, make_record(control, robust=0.5))
    found = methods(board.groups[0])
    kept = [method.settings.split(", ", 3)[-1] for method in found]
    assert [method.name for method in found] == ["AT-AWP", "AT-AWP", "AT-RWP"]
    assert "validation" in kept[0]
    assert "robust overfitting" in kept[1]


@pytest.mark.parametrize(("own", "count"), [(True, 1), (False, 2)])
def test_files_made_by_runs_of_the_same_seed_are_one_method(
    ranked: Any, own: bool, count: int
) -> None:
    """A teacher of each seed is part of the method; two files of other origin are two methods."""
    records = []
    for seed in (0, 1):
        name = f"digits-natural-s{seed}-last-pseudo.npz" if own else f"part-{seed}.npz"
        extra = ExtraData(file=name, sha256=str(seed) * 64, n=397)
        start = StartingPoint(name=f"digits-0to4-at-s{seed}-last", weights_sha256=str(seed) * 64)
        for record in matched_pair(seed):
            train = record.card.train
            assert train is not None
            train = train.model_copy(update={"extra": extra, "start": start})
            records.append(make_record(record.card.model_copy(update={"train": train})))
    assert len(methods(ranked(*records).groups[0])) == count


def test_an_unmatched_pair_is_shown_with_its_reason_and_never_averaged(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    assert awp.card.train is not None
    longer = awp.card.train.model_copy(update={"epochs": 200, "lr": 0.2})
    changed = make_record(awp.card.model_copy(update={"train": longer}), robust=0.9)
    group = ranked(vanilla, changed).groups[0]
    (pair,) = pairs(group)
    assert pair.differs == ("epochs", "lr")
    assert not pair.matched
    assert methods(group) == ()
    assert "also differs in epochs, lr" in render.markdown(Leaderboard((group,), (), None))  # type: ignore[arg-type]


def test_a_foreign_pair_without_settings_is_not_averaged(ranked: Any) -> None:
    vanilla, awp = matched_pair(0)
    foreign = make_record(awp.card.model_copy(update={"train": None}), robust=0.9)
    group = ranked(vanilla, foreign).groups[0]
    assert pairs(group)[0].remark == "training settings not recorded"
    assert methods(group) == ()


def test_a_twin_in_another_group_is_no_twin(ranked: Any) -> None:
    vanilla, _ = matched_pair(0)
    _, awp = matched_pair(0, n=100)
    assert [pairs(group) for group in ranked(vanilla, awp).groups] == [(), ()]


# ---------------------------------------------------------------- outputs


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("example")
    write_example(root)
    return root


def test_the_generated_files_are_the_same_wherever_and_whenever(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list(example.rglob("*.json"))
    random.Random(0).shuffle(files)
    for path in files:
        target = tmp_path / "elsewhere" / path.relative_to(example)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    first = render.leaderboard_files(table.build(example))
    assert first == render.leaderboard_files(table.build(tmp_path / "elsewhere"))
    assert first == render.leaderboard_files(table.build(Path("elsewhere")))
    assert set(first) == {"LEADERBOARD.md", "LEADERBOARD.csv"}


def test_stale_files_are_found(tmp_path: Path) -> None:
    write_all(tmp_path, [named("a", 0.5)])
    assert len(render.stale(tmp_path)) == 2
    written = render.write_leaderboard(tmp_path)
    assert render.stale(tmp_path) == []
    bytes_before = [path.read_bytes() for path in written]
    render.write_leaderboard(tmp_path)
    assert [path.read_bytes() for path in written] == bytes_before
    write_all(tmp_path, [named("b", 0.6)])
    assert all("stale" in sentence for sentence in render.stale(tmp_path))


def test_markdown_says_how_it_was_made_and_holds_every_row(example: Path) -> None:
    board = table.build(example)
    lines = render.markdown(board).splitlines()
    assert "python -m bench table" in lines[0]
    headings = [line for line in lines if line.startswith("## ")]
    assert ["demo: " in line for line in headings[:-1]] == [False, True, True, True]
    rows = [line for line in lines if line.startswith("|") and "| ours 0.1.0 |" in line]
    assert len(rows) == sum(len(group.rows) for group in board.groups)
    assert all("n = " in line for line in headings[:-1])
    assert sum("failed: the logits are NaN" in line for line in lines) == 2


def test_csv_holds_the_numbers_and_n(example: Path) -> None:
    board = table.build(example)
    lines = list(csv.DictReader(io.StringIO(render.to_csv(board))))
    flat = [(group, row) for group in board.groups for row in group.rows]
    assert len(lines) == len(flat)
    for line, (group, row) in zip(lines, flat, strict=True):
        assert (int(line["n"]), line["record"]) == (group.n, row.record.id)
        assert float(line["worst_case"]) == pytest.approx(100 * row.record.worst_case)
        assert float(line["clean"]) == pytest.approx(100 * row.record.clean_accuracy)
        assert (line["autoattack"] == "") == (group.protocol.name == "gradient")
        assert int(line["worst_case_standing"]) == row.record.worst_case_standing.sum()


def test_a_spreadsheet_runs_nothing(ranked: Any) -> None:
    card = make_card("a", authors='=cmd|"/c calc"!A1', arch="@SUM(A1)")
    board = ranked(make_record(card, split="+1+1", created="-2"))
    (line,) = csv.DictReader(io.StringIO(render.to_csv(board)))
    assert (line["authors"], line["arch"]) == ('\'=cmd|"/c calc"!A1', "'@SUM(A1)")
    assert (line["split"], line["date"]) == ("'+1+1", "'-2")


def test_json_is_strict_and_in_unit_rates(ranked: Any) -> None:
    text = render.to_json(ranked(*matched_pair(0)))
    (group,) = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert 0 < group["rows"][0]["rates"][WORST_CASE]["estimate"] < 1
    assert group["methods"][0]["differences"][WORST_CASE]["low"] is None


def test_the_terminal_table_can_be_pasted(ranked: Any) -> None:
    text = render.terminal_table(ranked(*with_differences(0.03, 0.02)))
    heading, unit, header, *rows = text.splitlines()
    assert heading == "demo: digits, linf:0.15, standard, n = 1,000, test[0:1000]"
    assert "percent" in unit
    assert header.split()[:4] == ["rank", "range", "model", "method"]
    assert sum("digits-at-awp-seed" in row for row in rows) == 2
    assert rows[-1].startswith("AT-AWP minus AT")
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb\u200b", "ab"),
        ("a\nb\tc\x00d", "a b c d"),
        ("\u2067x\ue000", "x"),
        ("x" * 10_000, "x" * 199 + "…"),
    ],
)
def test_foreign_text_becomes_one_plain_line(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_markdown_shows_hostile_text_as_text(ranked: Any) -> None:
    card = make_card("a", arch="<script>|[x](javascript:1)`www.evil.com")
    text = render.markdown(ranked(make_record(card, failure=None)))
    row = next(line for line in text.splitlines() if "script" in line)
    assert "\\<script\\>\\|\\[x\\](javascript:1)\\`www\\.evil.com" in row


def test_a_rate_is_written_with_the_digits_that_n_carries() -> None:
    assert (percent(0.5617, 1000), percent(0.5617, 10_000)) == ("56.2", "56.17")
    assert points(-0.0001) == "+0.0"


def test_column_names_that_would_overwrite_a_rate_are_refused(ranked: Any) -> None:
    record = named("a", 0.5)
    column = protocol("standard").columns[0].model_copy(update={"name": "clean"})
    outcome = record.columns["fgsm"].outcomes[0]
    bits = pack_bits(record.standing("fgsm"))
    assert outcome.standing == bits
    strange = other_version(
        record,
        protocol=Protocol(name="odd", version=1, columns=(column,)),
        columns={"clean": record.columns["fgsm"]},
    )
    board = ranked(strange)
    assert board.groups == ()
    assert "may not be named" in board.notes[0]


def test_equal_weights_under_two_names_are_two_rows(tmp_path):
    """A run whose best epoch is its last: both checkpoints keep their row, and their twins."""
    shared = board_records.sha("the same weights")
    records = [
        board_records.make_record(board_records.make_card(name, weights_sha256=shared))
        for name in ("run-best", "run-last")
    ]
    assert records[0].id == records[1].id
    board_records.write_all(tmp_path, records)
    (group,) = table.build(tmp_path).groups
    assert {row.card.name for row in group.rows} == {"run-best", "run-last"}
    assert [row.rank for row in group.rows] == [1, 1]
