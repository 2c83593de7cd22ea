"""The published engine's records go where ours answers the same question, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.__main__ import main
from bench.records import store
from bench.schema import EvaluationRecord
from tests.board.board_records import make_card, make_record, prove, sha, write_all
from tests.cascade import pooled

CARD = make_card("net")


def theirs(**fields: Any) -> EvaluationRecord:
    return make_record(CARD, engine="reference", engine_version="pyautoattack", **fields)


def run(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["withdraw", "--superseded", "--results", str(root), *flags]) == 0
    return capsys.readouterr().out


def withdrawn(root: Path) -> dict[Path, str]:
    return store.collect(root).withdrawn


def test_a_dry_run_lists_and_the_command_withdraws_once_and_keeps_what_it_withdraws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, ours = write_all(tmp_path, [theirs(robust=0.52), make_record(CARD, robust=0.5)])
    (other,) = write_all(tmp_path, [theirs(robust=0.5, n=100)])  # which ours has not answered
    before = path.read_bytes()
    said = run(tmp_path, capsys, "--dry-run")
    assert f"{path}: ours is {ours.name}; of 200 images 100 stand under ours, 104 under" in said
    assert said.splitlines()[0].endswith("which alone breaks 0")
    assert said.splitlines()[-1].startswith("1 record of the published engine would be withdrawn")
    assert withdrawn(tmp_path) == {}
    assert "1 record of the published engine withdrawn" in run(tmp_path, capsys)
    reason = withdrawn(tmp_path)[path]
    assert list(withdrawn(tmp_path)) == [path]
    assert reason.startswith("our engine has answered the same question")
    assert ours.stem in reason
    assert path.read_bytes() == before
    assert store.read(path).worst_case_count == 104
    assert other.exists()
    board = table.build(tmp_path)
    assert [[row.record.engine for row in group.rows] for group in board.groups] == [
        ["ours"],
        ["reference"],
    ]
    assert any(reason in note for note in board.notes)
    assert run(tmp_path, capsys).startswith("0 records of the published engine withdrawn")


def test_a_record_that_alone_breaks_an_image_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path, [theirs(robust=0.5), make_record(CARD, robust=0.52)])
    said = run(tmp_path, capsys)
    assert said.splitlines()[0].endswith("which alone breaks 4; it stays")
    assert "1 stay, which alone break images" in said and "0 records of the published" in said
    assert withdrawn(tmp_path) == {}


@pytest.mark.parametrize(
    "ours",
    [
        {"seed": 1},
        {"n": 100},
        {"threat": "linf:0.1"},
        {"protocol": "gradient"},
        {"precision": "mixed"},
        {"card": make_card("other", weights_sha256=CARD.weights_sha256)},
        {"card": make_card("net", weights_sha256=sha("others"))},
        {"examples_sha256": "0" * 64},
        {"failure": "out of memory"},
        {"engine": "reference", "engine_version": "another"},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_another_question_or_no_answer_withdraws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ours: dict[str, Any]
) -> None:
    write_all(tmp_path, [theirs(), make_record(**({"card": CARD} | ours))])
    assert run(tmp_path, capsys).startswith("0 records")
    assert withdrawn(tmp_path) == {}


@pytest.mark.parametrize(
    ("listed", "goes"), [((), True), (("theirs",), False), (("theirs", "ours"), True)]
)
def test_an_answer_of_ours_that_was_only_copied_here_counts_where_none_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], listed: tuple[str, ...], goes: bool
) -> None:
    records = {"theirs": theirs(), "ours": make_record(CARD)}
    write_all(tmp_path, list(records.values()))
    for name in listed:
        prove(tmp_path, records[name])
    run(tmp_path, capsys)
    assert bool(withdrawn(tmp_path)) == goes


def test_a_withdrawn_answer_of_ours_is_none_and_a_damaged_record_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ours = write_all(tmp_path, [theirs(), make_record(CARD)])
    store.withdraw(ours, "wrong")
    assert run(tmp_path, capsys).startswith("0 records")
    ours.write_text("{")
    assert main(["withdraw", "--superseded", "--results", str(tmp_path)]) == 0
    assert f"{ours} is not JSON" in capsys.readouterr().err
    assert list(withdrawn(tmp_path)) == [ours]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ([], "expected RECORD --reason"),
        (["--dry-run", "RECORD", "--reason", "x"], "expected RECORD --reason"),
        (["RECORD"], "a withdrawal needs a reason"),
        (["RECORD", "--superseded"], "neither RECORD nor --reason"),
        (["--superseded", "--reason", ""], "neither RECORD nor --reason"),
    ],
)
def test_a_call_that_may_mean_two_things_withdraws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: list[str], reason: str
) -> None:
    path, _ = write_all(tmp_path, [theirs(), make_record(CARD)])
    given = [str(path) if each == "RECORD" else each for each in call]
    assert main(["withdraw", "--results", str(tmp_path), *given]) == 2
    assert reason in capsys.readouterr().err
    assert withdrawn(tmp_path) == {}


def test_the_pooled_audit_says_which_record_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write_all(tmp_path, [theirs()])
    (path.parent / "weights.safetensors").touch()
    assert [found for found, _ in pooled.networks(tmp_path)] == [path]
    store.withdraw(path, "superseded")
    assert list(pooled.networks(tmp_path)) == []
    assert f"{path} was withdrawn and is left out" in capsys.readouterr().err


def test_records_withdrawn_for_one_reason_are_told_in_one_sentence(tmp_path: Path) -> None:
    cards = [make_card(f"net{k}") for k in range(5)]
    paths = write_all(tmp_path, [make_record(card, engine="reference") for card in cards])
    for k, path in enumerate(paths[:4]):
        store.withdraw(path, f"answered by ours: record {k}")
    store.withdraw(paths[4], "measured on other images")
    notes = [note for note in table.build(tmp_path).notes if "withdrawn" in note]
    assert len(notes) == 2
    assert "4 records were withdrawn: answered by ours (net0, net1, net2 and 1 more)" in notes
    assert any(
        "net4 on" in n and n.endswith("was withdrawn: measured on other images") for n in notes
    )
