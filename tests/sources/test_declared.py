"""What a submitter states of a training: recorded as stated, marked wherever shown, never more."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from bench import table
from bench.__main__ import main
from bench.cli.submit import parse_awp
from bench.exports.boards import robustbench_files
from bench.exports.data import csv_text, json_text
from bench.exports.details import details
from bench.exports.page import page
from bench.exports.papers import bibtex, latex
from bench.exports.render import markdown, terminal_table
from bench.exports.view import View
from bench.records import store
from bench.schema import AwpConfig, InvalidInput, ModelCard
from bench.sources.checkpoint import read_card
from bench.stats.contrasts import methods, pairs
from tests.board.board_pages import html, opener
from tests.board.board_records import make_card, make_record, write_all

ROOT = Path(__file__).parents[2]
MARK = "self-declared"


# ---------------------------------------------------------------- --awp


@pytest.mark.parametrize(
    ("text", "awp", "named"),
    [
        ("none", None, []),
        ("gamma=0.01,warm_up=0", AwpConfig(gamma=0.01, warm_up=0), ["gamma", "warm_up"]),
        (
            "include=layer1.*,layer2.*, gamma = 5e-3 ,norm=filter",
            AwpConfig(include=("layer1.*", "layer2.*"), gamma=0.005, norm="filter"),
            ["include", "gamma", "norm"],
        ),
    ],
)
def test_a_perturbation_is_read_from_its_fields(text, awp, named):
    assert parse_awp(text) == (awp, named)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gama=0.01", "Did you mean 'gamma'"),
        ("gamma=big", "--awp gamma: .*got 'big'"),
        ("gamma=nan", "--awp gamma"),
        ("warm_up=1.5", "--awp warm_up"),
        ("direction=up", "--awp direction"),
        ("gamma=0.1,gamma=0.2", "gamma twice"),
        ("gamma=0.01,0.02", "gamma=0.01,warm_up=0"),
        ("", "gamma=0.01,warm_up=0"),
        ("none,gamma=1", "gamma=0.01,warm_up=0"),
    ],
)
def test_what_is_no_perturbation_is_refused(text, said):
    with pytest.raises(InvalidInput, match=said):
        parse_awp(text)


# ---------------------------------------------------------------- the card


@pytest.fixture
def bring(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def imported(*said: str) -> tuple[int, ModelCard | None]:
        call = ["import", str(weights), "--arch", "small_cnn", "--arch-arg", "width=4"]
        call += ["--dataset", "digits", "--name", "mine", "--checkpoints", "c", *said]
        status = main(call)
        return status, read_card(Path("c/mine")) if status == 0 else None

    return imported


@pytest.mark.parametrize(
    ("said", "method", "uses_awp", "declared"),
    [
        ([], "unknown", None, set()),
        (["--objective", "at"], "AT, AWP not stated", None, {"objective"}),
        (["--objective", "trades", "--awp", "none"], "TRADES", False, {"objective", "awp"}),
        (
            ["--objective", "at", "--awp", "gamma=0.01,warm_up=0"], "AT-AWP", True,
            {"objective", "awp", "awp.gamma", "awp.warm_up"},
        ),
        (["--awp", "none"], "unknown", False, {"awp"}),
    ],
)  # fmt: skip
def test_a_card_says_what_was_stated_and_no_more(bring, said, method, uses_awp, declared):
    status, card = bring(*said)
    assert status == 0
    assert (card.method, card.uses_awp) == (method, uses_awp)
    assert set(card.declared) == declared


def test_every_stated_fact_stands_in_the_card(bring):
    _, card = bring(
        *("--objective", "mart", "--awp", "gamma=0.02,norm=filter", "--twin", "plain"),
        *("--trained-against", "linf:8/255", "--epochs", "120", "--extra-data", "500k images"),
        *("--authors", "A. Body", "--link", "https://a.example", "--licence", "MIT"),
    )
    assert card.awp == AwpConfig(gamma=0.02, norm="filter")
    assert (card.pair, str(card.threat), card.epochs) == ("plain", "linf:8/255", 120)
    assert (card.extra_data, card.authors, card.licence) == ("500k images", "A. Body", "MIT")
    fields = {"objective", "awp", "pair", "threat", "epochs", "extra_data", "authors", "link"}
    assert fields <= set(card.declared) <= {*fields, "licence", "awp.gamma", "awp.norm"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["--twin", "../evil"], "--twin takes the name of a model"),
        (["--twin", "mine"], "the model itself"),
        (["--trained-against", "linf:8"], "Did you mean 8/255"),
        (["--epochs", "0"], "--epochs must be at least 1"),
    ],
)
def test_a_wrong_statement_is_a_wrong_call(bring, said, words, capsys):
    assert bring(*said) == (2, None)
    captured = capsys.readouterr()
    assert words in captured.err
    assert not Path("c").exists()


def test_older_records_say_nothing_of_a_submitter():
    (file,) = (ROOT / "tests/fixtures").glob("record-v1/*.json")
    value = json.loads(file.read_text())["card"]
    value.pop("declared", None)
    card = ModelCard.model_validate(value)
    assert card.declared == ()
    assert "not stated" not in card.method


# ---------------------------------------------------------------- shown


@pytest.fixture
def board(tmp_path):
    """A model that a submitter calls AT-AWP, beside the recorded vanilla one that he calls its twin."""
    submitted = make_card(
        "submitted", awp=AwpConfig(gamma=0.01), pair="ours", train=None, seed=None,
        epoch_kept=None, selected_on=None, authors="A. Body", link="https://a.example/net",
        declared=("objective", "awp", "awp.gamma", "pair", "authors", "link", "threat"),
    )  # fmt: skip
    write_all(
        tmp_path / "r",
        [make_record(submitted, robust=0.6), make_record(make_card("ours"), robust=0.5)],
    )
    return table.build(tmp_path / "r")


def line_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_every_table_and_file_marks_what_is_stated(board):
    view = View(board)
    text = markdown(board).replace("\\", "")
    assert f"| AT-AWP ({MARK}) | yes ({MARK}) |" in line_of(text, "| submitted |", "AT-AWP")
    assert MARK not in line_of(text, "| ours |", "| AT |")
    assert f"AT-AWP ({MARK})" in line_of(terminal_table(board), "submitted")
    lines = {line["model"]: line for line in csv.DictReader(io.StringIO(csv_text(board.groups)))}
    assert lines["submitted"]["authors"] == f"A. Body ({MARK})"
    assert lines["submitted"]["awp"] == f"yes ({MARK})"
    assert MARK not in str(lines["ours"])
    (group,) = json.loads(json_text(board.groups))
    assert group["rows"][0]["method"] == f"AT-AWP ({MARK})"
    assert MARK in group["awp_minus_vanilla"][0]["remark"]
    assert f"AT-AWP ({MARK})" in line_of(latex(view), "submitted")
    assert f"AT-AWP ({MARK})" in page(view)
    assert "Self-declared: objective, awp, pair, authors" in bibtex(view)
    infos = robustbench_files(view)
    assert all(("Self-declared" in t) == ("submitted" in name) for name, t in infos.items())


def test_the_page_of_the_model_marks_every_stated_fact(board, tmp_path, monkeypatch):
    (row,) = [r for r in board.groups[0].rows if r.card.name == "submitted"]
    card = dict(details(board.groups[0], row)["card"])
    shown = html(opener(monkeypatch)(tmp_path / "r", "model", name="submitted"))
    for name in ("method", "weight perturbation", "twin", "authors", "trained against"):
        assert card[name].endswith(f"({MARK})"), name
        assert card[name] in shown
    assert card["weight perturbation"] == f"adversarial, gamma 0.01 ({MARK})"  # no warm-up was said


def test_a_declared_twin_is_compared_but_counts_for_no_method(board):
    (group,) = board.groups
    (pair,) = pairs(group)
    assert (pair.awp.card.name, pair.vanilla.card.name) == ("submitted", "ours")
    assert pair.comparisons["worst_case"].difference.estimate > 0
    assert not pair.matched
    assert MARK in pair.remark
    assert methods(group) == ()


# ---------------------------------------------------------------- submitted


def test_a_submission_from_the_command_line_to_the_board(
    weights, tmp_path, monkeypatch, capsys
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    call = ["submit", str(weights), "--arch", "small_cnn", "--arch-arg", "width=4"]
    call += ["--dataset", "digits", "--name", "mine", "--protocol", "gradient", "--n", "40"]
    call += ["--checkpoints", "c", "--objective", "at"]
    assert main([*call, "--awp", "gamma=0.01,warm_up=0", "--twin", "plain"]) == 0
    assert "no record of that name" in capsys.readouterr().err
    (record,) = store.collect(Path("results")).records
    assert (record.card.method, record.card.pair) == ("AT-AWP", "plain")
    (row,) = table.build(Path("results")).groups[0].rows
    assert row.texts["method"] == f"AT-AWP ({MARK})"

    assert main([*call, "--awp", "none"]) == 0  # the same weights, asked the same
    assert "was made with another card and stays" in capsys.readouterr().err
    assert store.collect(Path("results")).records == (record,)


def test_make_passes_on_what_is_stated():
    words = ["CHECKPOINT=net.pt", "ARCH=small_cnn", "DATASET=digits", "NAME=mine", "OBJECTIVE=at"]
    words += ["AWP=gamma=0.01,warm_up=0", "TWIN=plain", "AUTHORS=A. Body"]
    made = subprocess.run(
        ["make", "-n", "submit", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = " ".join(made.stdout.replace("\\\n", " ").split())
    assert '--objective at --awp "gamma=0.01,warm_up=0" --twin "plain"' in said
    assert '--authors "A. Body"' in said
