"""Adding a part is one function and one line: in a copy, from the command to the board."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREE = ("app.py", "bench", "models", "awp_train")

AMONG = f"\n# {64 * '-'} crafting"  # a heading of a file that has its like already
# part -> a new file with its function; a registry, the line before, the line
PARTS = {
    "attack": (
        "bench/attacks/darker.py",
        """
from bench.attacks.geometry import Ball

def darker(problem, *, share: float = 1.0):
    ball = Ball.around(problem.x, problem.threat)
    return ball.project(problem.x - share * problem.threat.epsilon)
""",
        "bench/attacks/__init__.py",
        "ATTACKS: dict[str, Attack] = {",
        '"darker": Attack(darker),',
    ),
    "architecture": (
        "models/one_layer.py",
        """
from torch import nn

def one_layer(in_channels, num_classes):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(pooled, nn.Linear(16 * in_channels, num_classes))
""",
        "bench/catalogue.py",
        "ARCHITECTURES: dict[str, ArchitectureInfo] = {",
        '"one_layer": ArchitectureInfo(_COMMON, "a test"),',
    ),
    "data set": (
        "bench/bright.py",
        """
import numpy as np

def read(name, root, part, download):
    labels = np.arange(200) % 2
    images = np.random.default_rng(len(part)).integers(0, 200, (200, 1, 8, 8)).astype(np.uint8)
    images[labels == 0, :, :, :4] += 55
    images[labels == 1, :, :, 4:] += 55
    return images, labels
""",
        "bench/catalogue.py",
        "DATASETS: dict[str, DatasetInfo] = {",
        '"bright": DatasetInfo(1, 8, ("left", "right"), "linf:0.1", 200, 200, "bench.bright:read"),',
    ),
    "objective": (
        "awp_train/objectives.py",
        """

def squared(model, x, x_adv, y, beta):
    answers = model(x_adv).softmax(1)
    return (answers - F.one_hot(y, answers.shape[1])).square().sum(1).mean()
""",
        "bench/catalogue.py",
        "OBJECTIVES: dict[str, ObjectiveInfo] = {",
        '"squared": ObjectiveInfo("squared", "from_uniform_on_cross_entropy", "a test"),',
    ),
    "page": (
        "bench/board/counted.py",
        """
from bench.board import article, records

def show():
    article.title("Counted")
    article.paragraph(f"{sum(len(g.rows) for g in records.leaderboard().groups)} rows")

show()
""",
        "bench/board/head.py",
        "PAGES = (",
        '    Page("counted", "Counted", "counted", "How many rows there are."),',
    ),
}


def patched(tree: Path, part: str) -> list[str]:
    """Writes a part into a copy; returns the files of the patch."""
    file, function, registry, before, line = PARTS[part]
    if (tree / file).exists():  # among its like
        there, heading, rest = (tree / file).read_text().partition(AMONG)
        function = f"{there}{function}\n\n{heading}{rest}"
    (tree / file).write_text(function)
    text = (tree / registry).read_text()
    assert text.count(before) == 1
    text = text.replace(before, f"{before}\n{line}")
    if part == "attack":  # the registry holds the function itself
        named = f"from {file.removesuffix('.py').replace('/', '.')} import {Path(file).stem}"
        text = text.replace("\nfrom bench.", f"\n{named}\nfrom bench.", 1)
    (tree / registry).write_text(text)
    return [file, registry]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with every part added, and no records."""
    tree = tmp_path_factory.mktemp("copy")
    for each in TREE:
        copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
        copy(ROOT / each, tree / each)
    for part in PARTS:
        assert len(patched(tree, part)) == 2
    return tree


def run(tree: Path, *words: str) -> str:
    """What a command of the copy prints."""
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_function_and_a_line_go_from_the_command_to_the_board(tree):
    run(
        tree, "-m", "awp_train", "run", "digits-at", "--dataset", "bright", "--arch", "one_layer",
        "--arch_args", "", "--objective", "squared", "--epochs", "2", "--name", "added",
        "--n_train", "150", "--n_validation", "50", "--yes",
    )  # fmt: skip
    (checkpoint,) = tree.glob("var/checkpoints/added-last")
    said = run(
        tree, "-m", "bench", "evaluate", str(checkpoint), "--protocol", "only-darker", "--yes", "--json"
    )  # fmt: skip
    assert '"darker"' in said
    look = """
import sys
from streamlit.testing.v1 import AppTest
sys.argv = ["app.py"]
app = AppTest.from_file("app.py", default_timeout=60).run()
assert not app.exception and "added" in "".join(each.proto.body for each in app.get("html"))
page = AppTest.from_file("bench/board/counted.py", default_timeout=60).run()
print([each.value for each in page.get("html")], [each.value for each in page.markdown])
"""
    assert "1 rows" in run(tree, "-c", look)
    listed = run(tree, "-m", "bench", "list")
    assert "bright" in listed and "one_layer" in listed
