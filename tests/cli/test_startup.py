"""What a command loads: torch for what computes, and for nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAIR = "digits-at-awp-s0-last digits-at-s0-last --protocol gradient"
RUN = """
import sys
watched = {"torch", "pandas", "streamlit", *sys.argv[2:]}
from bench.__main__ import main
try:
    status = main(sys.argv[1].split())
except SystemExit as left:
    status = left.code
print(status, *sorted(watched & {*sys.modules}))
"""

# One process has what nearly all commands load; each is asked in a copy of it, which reads no module
# twice. What the first has loaded is among what every copy is watched for.
MANY = """
import json, os, sys
import numpy, pydantic, scipy.stats
from bench.__main__ import main
from bench.cli import commands
said = os.fdopen(os.dup(1), "w", buffering=1)
for line in sys.stdin:
    if not os.fork():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            status = main(json.loads(line).split())
        except SystemExit as left:
            status = left.code
        print(status, *sorted({"torch", "pandas", "streamlit"} & {*sys.modules}), file=said)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def many() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", MANY], cwd=ROOT, text=True, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of the pair alone: the committed one takes seconds to rank."""
    folder = tmp_path_factory.mktemp("small")
    for name in PAIR.split()[:2]:
        there = Path("digits/linf-0.15") / name
        shutil.copytree(ROOT / "results" / there, folder / there)
    return folder


def last_line(code: str, *words: str) -> str:
    """What a fresh process prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--help", 0),
        ("evaluate --help", 0),
        ("evalute", 2),
        ("list", 0),
        ("table --results SMALL --quiet", 0),
        ("table --results SMALL --check", 0),
        (f"compare {PAIR} --results SMALL", 0),
        ("evaluate nothing-of-this-name-is-here --protocol standrd", 2),
        ("evaluate digits-at-s0-lst", 2),
        ("doctor digits-at-s0-last --threat l3:1", 2),
        ("submit net.pt --arch small_cnn --dataset digts --name x", 2),
        ("submit README.md --arch small_cnn --dataset digts --name x", 2),
        ("import nothing-of-this-name.pt --arch small_cnn --dataset digits --name x", 2),
        *(
            (f"evaluate digits-at-s0-last {wrong}", 2)
            for wrong in (
                "--n 0",
                "--n -3",
                "--seed -1",
                "--batch 0",
                "--workers 0",
                "--max-seconds -1",
                "--pass-seconds 0",
            )
        ),
        ("evaluate no/folder/of/this/name", 2),
        ("evaluate --model no/such/file.py:net --dataset digits", 2),
        ("evaluate --only-seeds one,two", 2),
        ("doctor --model no/such/file.py:net --dataset digits", 2),
        ("doctor digits-at-s0-last --transfer-from no-such-checkpoint", 2),
        ("verify no/such/record.json", 2),
        ("verify digits-at-s0-last --weights no/such/folder", 2),
        ("verify digits-at-s0-last --evidence no/such/file.npz", 2),
        ("verify digits-at-s0-last --reattack -1", 2),
        ("compare digits-at-awp-s0-last digits-at-s0-last --until-sure --max-n 0", 2),
        ("gap digits-at-s0-last --n 0", 2),
        ("gap digits-at-s0-last --dataset digts", 2),
        ("verify digits-at-s0-last --dataset digts", 2),
        ("list --zoo no/such/folder", 2),
        ("submit README.md --arch small_cnn --dataset digits --name x --n -1", 2),
        ("agree no/such/folder", 2),
    ],
)
def test_torch_is_loaded_for_what_computes_alone(many, small, words, status):
    many.stdin.write(json.dumps(words.replace("SMALL", str(small))) + "\n")
    many.stdin.flush()
    assert many.stdout.readline().strip() == str(status)


@pytest.mark.parametrize(("words", "status"), [("--help", 0), ("evalute", 2)])
def test_help_does_not_wait_for_arrays(words, status):
    assert last_line(RUN, words, "numpy", "scipy") == str(status)


def test_the_package_loads_nothing_until_it_is_asked():
    loaded = "{'torch', 'pandas', 'numpy', 'pydantic'} & {*sys.modules}"
    assert last_line(f"import sys, bench; print(*sorted({loaded}), '-')") == "-"
