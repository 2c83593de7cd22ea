"""The line that loads a model, as a person would run it."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from bench import datasets
from bench.__main__ import main
from bench.records import store
from bench.records.reproduce import import_first, in_python, reproduce, weights_note
from bench.schema import EvaluationRecord
from bench.sources.checkpoint import load
from tests.board.board_pages import Open
from tests.board.board_records import (
    make_card,
    make_record,
    sha,
)

COMMITTED = Path("results/digits/linf-0.15/digits-at-awp-s0-best")


@pytest.mark.slow
def test_the_line_for_committed_weights_runs(open_app: Open, tmp_path: Path) -> None:
    """On 20 images, by the protocol of gradients; the network answers as its record says."""
    folder = tmp_path.joinpath(*COMMITTED.parts)
    shutil.copytree(COMMITTED, folder)
    app = open_app(tmp_path / "results", "model", name=COMMITTED.name)
    line = next(code.value for code in app.code if "load_model" in code.value)
    path = folder / "05d1b9d28525f2d8.json"
    record = store.read(path)
    assert line == in_python(record, path)
    asked = (f"load_model('{folder}')", "load('digits', n=1000)", "protocol='standard'")
    assert all(text in line for text in asked)
    found = run_line(line.replace("n=1000", "n=20").replace("'standard'", "'gradient'"))
    assert (found.n, found.threat) == (20, record.threat)
    assert (found.clean_prediction_array == record.clean_prediction_array[:20]).all()
    for column in ("fgsm", "pgd20", "cw"):
        assert abs(found.standing(column).sum() - record.standing(column)[:20].sum()) <= 1


def run_line(code: str) -> EvaluationRecord:
    """What the last line of some Python gives."""
    *before, last = code.splitlines()
    names: dict[str, object] = {}
    exec("\n".join(before), names)
    found = eval(last, names)
    assert isinstance(found, EvaluationRecord)
    return found


@pytest.mark.parametrize(
    ("fields", "expected", "note"),
    [
        ({}, "load_model('var/checkpoints/a')", "weights are not here: sha256"),
        (
            {"link": "robustbench:cifar10/Linf/One2024"},
            "zoo.load('robustbench:cifar10/Linf/One2024')[0]",
            "zoo has the weights",
        ),
        (
            {"file_sha256": sha("file"), "link": "https://example.org/it.pt"},
            "foreign('FILE', arch='small_cnn', dataset='digits', name='a'",
            f"https://example.org/it.pt, sha256 {sha('file')}",
        ),
    ],
)
def test_the_line_says_where_other_weights_come_from(
    fields: dict[str, str], expected: str, note: str
) -> None:
    record = make_record(make_card("a", **fields), split="test[200:400]", seed=3)
    path = Path("nowhere/x.json")
    line = in_python(record, path)
    compile(line, "line", "exec")
    assert expected in line
    assert "load('digits', 'test[200:400]', n=200), threat='linf:0.15'" in line
    assert line.endswith("protocol='standard', seed=3)")
    assert note in weights_note(record, path)


@pytest.mark.slow
def test_the_line_for_a_file_of_others_runs(tmp_path: Path) -> None:
    model, card = load(COMMITTED)
    torch.save(model.net.state_dict(), tmp_path / "it.pt")
    card = card.model_copy(update={"file_sha256": sha("file")})
    record = make_record(card, protocol="gradient", n=4)
    line = in_python(record, tmp_path / "x.json")
    found = run_line(line.replace("'FILE'", repr(str(tmp_path / "it.pt"))))
    command = import_first(record, tmp_path / "x.json").replace("FILE", str(tmp_path / "it.pt"))
    _, _, _, *words = shlex.split(command)
    with contextlib.chdir(tmp_path):
        assert main(words) == 0
    _, imported = load(tmp_path / "var" / "checkpoints" / card.name)
    assert imported.weights_sha256 == card.weights_sha256
    assert f"var/checkpoints/{card.name}" in reproduce(record, tmp_path / "x.json")
    digits = datasets.load("digits", n=4)
    assert (found.clean_prediction_array == model(digits.x).argmax(1).numpy()).all()
