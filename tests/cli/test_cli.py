"""The command line as a user types it: answers on stdout, words on stderr, exit statuses."""

from __future__ import annotations

import json
import os
import pkgutil
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import datasets
from bench.__main__ import main
from bench.catalogue import ARCHITECTURES, DATASETS
from bench.cli.commands import COMMANDS
from bench.cli.parsing import Group
from bench.measure import estimate, keeping, shards, sweep
from bench.measure import evaluate as measurement
from bench.measure.evaluate import measure
from bench.protocols import PROTOCOL_NAMES, protocol
from bench.records import store
from bench.records.entry import passes_of
from bench.schema import InvalidInput, MeasurementFailed

ROOT = Path(__file__).parents[2]
HANGS = 900  # seconds: what takes longer hangs, on a loaded machine too


@pytest.fixture
def folder(weights, tmp_path) -> Path:
    call = ["import", str(weights), "--arch", "small_cnn", "--arch-arg", "width=4"]
    call += ["--dataset", "digits", "--name", "net", "--checkpoints", str(tmp_path / "c")]
    assert main(call) == 0
    return tmp_path / "c" / "net"


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    """Work folders of the commands land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def evaluate(folder, *more):
    return main(["evaluate", str(folder), "--protocol", "gradient", "--n", "30", *more])


def test_evaluate_prints_one_json_document_and_finds_its_record_again(folder, capsys, monkeypatch):
    capsys.readouterr()
    assert evaluate(folder, "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["name"], answer["dataset"], answer["threat"]) == ("net", "digits", "linf:0.15")
    assert (answer["n"], list(answer["robust"])) == (30, ["fgsm", "pgd20", "cw"])
    record = store.read(Path(answer["records"][0]))
    assert record.worst_case == answer["worst_case"]
    assert answer["passes"] == passes_of(record) > 0
    each = answer["passes"] / max(1, record.worst_case_count)
    assert answer["passes_a_standing_image"] == (each if record.worst_case_count else None)
    assert 0 <= answer["worst_case"] <= min(answer["robust"].values()) <= answer["clean"] <= 1
    beside = {p.name for p in Path(answer["records"][0]).parent.iterdir()}
    assert {"card.json", "weights.safetensors", f"{record.id}.evidence.npz"} <= beside
    with monkeypatch.context() as patched:
        patched.setattr(measurement, "measure", lambda *a, **k: pytest.fail("measured again"))
        assert evaluate(folder) == 0
    assert "recorded before" in capsys.readouterr().out
    assert evaluate(folder, "--again") == 0  # and the same answer: nothing refused
    assert not list(Path("results").rglob("*.refused.json"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "nowhere"], "no checkpoint at nowhere"),
        (["evaluate"], "make train-all"),
        (["verify", "nowhere.json"], "no record at nowhere.json"),
        (["verify", "no/such/record.json"], "no record at no/such/record.json"),
        (["evaluate", "--only-seeds", "a,1"], "whole numbers with commas, got 'a,1'"),
        (["evaluate", "FOLDER", "--protocol", "standrad"], "Did you mean 'standard'"),
        (["evaluate", "FOLDER", "--audit", "all"], "leave audit=all out, or measure under fast"),
        (["evaluate", "FOLDER", "--threat", "linf:8"], "Did you mean 8/255"),
        (["evaluate", "FOLDER", "--n", "2000"], "1000"),
        (["evaluate", "FOLDER", "--dataset", "arrays:x"], "--dataset-name"),
        (["evaluate", "FOLDER", "--dataset", "digitz"], "Did you mean 'digits'"),
        (["evaluate", "FOLDER", "--device", "cuda"], "no CUDA device"),
        (["evaluate", "FOLDER", "--batch", "0"], "--batch"),
        (["import", "FILE", "--arch", "cnn_b", "--dataset", "digits", "--name", "a"], "cnn_a"),
        (["import", "none.pt", "--arch", "cnn_a", "--dataset", "digits", "--name", "a"], "none.pt"),
        *((f"{call} FILE --arch small_cnn --arch-arg width=4 --dataset digits --name a {said}".split(),
           words) for call, said, words in (
            ("import", "--mean 125 --std 60",
             "mean is that of pixels in [0, 1], expected 0 to 1, got (125.0,); what is of"),
            ("import", "--mean 0.5 --std 0", "expected above 0 and at most 1, got (0.0,)"),
            ("import", "--mean 0.5", "--mean without --std: a network normalises by both; --std 1"),
            ("submit", "--std 0.5", "--std without --mean"),
        )),
        (["withdraw", "none.json", "--reason", "x"], "no record at none.json"),
        *(([*call.split(), where], f"no folder is at {where}") for call, where in (
            ("list --zoo", "/proc/nowhere"), ("list --zoo", "/proc/self/mem"), ("list --zoo", "none"),
        )),
        *((f"{call} FOLDER --dataset {named}".split(), said)
          for call in ("gap", "verify") for named, said in (
            ("digitz", "Did you mean 'digits'"), ("nonsense", "no data set named 'nonsense'"),
        )),
        *(([call, "FOLDER", "--n", n], f"--n must be at least 1, got {n}")
          for call in ("gap", "evaluate", "doctor", "agree") for n in ("0", "-3")),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, list) else "",
)  # fmt: skip
def test_wrong_calls_say_what_to_do(words, said, folder, weights, capsys):
    if torch.cuda.is_available() and "cuda" in words:
        pytest.skip("there is a CUDA device here")
    where = {"FOLDER": str(folder), "FILE": str(weights)}
    words = [where.get(w, w) for w in words]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("kept", [keeping.LARGEST_KEPT, 100])
@pytest.mark.parametrize("images", ["digits", "a folder"])
def test_the_command_that_checks_a_record_works_as_it_is_told(
    images, kept, folder, capsys, monkeypatch
):
    """Images in a folder with a blank in its name, weights too large to lie beside the record."""
    monkeypatch.setattr(keeping, "LARGEST_KEPT", kept)
    words = []
    if images == "a folder":
        data = datasets.load("digits", n=30)
        Path("my images").mkdir()
        np.save("my images/images.npy", data.images.permute(0, 2, 3, 1).numpy())
        np.save("my images/labels.npy", data.labels.numpy())
        words = ["--dataset", "arrays:my images", "--dataset-name", "mine"]
    for _ in range(2):  # measured, and recorded before
        assert evaluate(folder, *words) == 0
        said = capsys.readouterr().out
        (command,) = re.findall(r"check it +python -m bench (.*)", said)
        assert main(shlex.split(command)) == 0


IMPORTED = ["--arch", "small_cnn", "--arch-arg", "width=4", "--dataset", "digits", "--name", "n"]


@pytest.mark.parametrize(
    "words",
    [
        ["import", "FILE", *IMPORTED, "--checkpoints", "WHERE/c"],
        ["evaluate", "FOLDER", "--n", "10", "--protocol", "gradient", "--out", "WHERE/r"],
        ["table", "--format", "csv", "--out", "WHERE/t/table.csv"],
        ["table", "--results", "WHERE", "--quiet"],
        ["agree", "FOLDER", "--seeds", "1", "--n", "10", "--columns", "square", "--out", "WHERE"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("where", ["/proc/nowhere", "/proc", "a file"])
def test_a_folder_that_cannot_be_made_is_named(words, where, folder, weights, tmp_path, capsys):
    if where == "a file":
        (tmp_path / "file").write_text("mine")
        where = str(tmp_path / "file")
    here = {"FOLDER": str(folder), "FILE": str(weights)}
    words = [here.get(w, w).replace("WHERE", where) for w in words]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert where in said and "name another" in said
    assert "Errno" not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("work", "said"), [("/proc/nowhere", "cannot be made"), ("/proc", "takes no files")]
)
def test_a_measurement_names_a_work_folder_that_cannot_be(work, said, net, labelled):
    with pytest.raises(InvalidInput, match=f"the folder {work} {said}"):
        measure(net, *labelled, threat="linf:0.1", protocol="gradient", work=work)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data imagefolder:none --dataset-name mine", "no data folder at 'none'"),
        ("--data imagefolder:none", "needs --dataset-name"),
        ("--n 2000", "n must lie in 1..1000, got 2000"),
        ("--split nonsense", "split must be"),
        ("--device nonsense", "device must be auto, cpu or cuda"),
        ("--n 200 --yes --out /proc/nowhere", "/proc/nowhere"),
        ("--n 200", "above 2 hours"),
        ("--mean 125 --std 60", "mean is that of pixels in [0, 1]"),
        ("--mean 0.5 --std -1", "std is that of pixels in [0, 1]"),
        ("--mean 0.5 --std 58.4", "std is that of pixels in [0, 1]"),
        ("--mean nan --std 1", "mean is that of pixels in [0, 1]"),
    ],
)
def test_submit_writes_nothing_before_all_else_is_in_order(
    words, said, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sweep, "estimate_seconds", lambda jobs: 9000.0)
    assert main(["submit", str(weights), *IMPORTED, *words.split()]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_long_job_wants_to_be_confirmed_and_a_failed_one_is_recorded(folder, capsys, monkeypatch):
    def breaks(*a, **k):
        raise MeasurementFailed("out of luck")

    monkeypatch.setattr(sweep, "estimate_seconds", lambda jobs: 9000.0)
    monkeypatch.setattr(shards.Shards, "_attack", breaks)
    assert evaluate(folder) == 2
    assert "--yes" in capsys.readouterr().err
    assert evaluate(folder, "--yes") == 1
    assert "out of luck" in capsys.readouterr().err
    assert [r.failure for r in store.collect(Path("results")).failed] == ["out of luck"]


def test_a_job_is_timed_on_one_thread_and_the_others_come_back(net, labelled):
    """Threads that wait for busy cores made hours of minutes."""
    seen = []

    def counting(x):
        seen.append(torch.get_num_threads())
        return net(x)

    torch.set_num_threads(2)
    asked = protocol("gradient")
    assert estimate.estimate_seconds(counting, labelled[0], asked, 10) > 0
    assert set(seen) == {1} and torch.get_num_threads() == 2


def test_submit_refuses_a_network_at_chance(weights, capsys, monkeypatch):
    call = ["submit", str(weights), "--arch", "small_cnn", "--arch-arg", "width=4"]
    call += ["--dataset", "digits", "--name", "s", "--protocol", "gradient", "--n", "50"]
    pool = datasets.load("digits", n=50)
    for shift, status in ((torch.arange(50) % 9 + 1, 2), (torch.arange(50) % 3 == 0, 0)):
        answers = ((pool.labels + shift) % 10).numpy()
        monkeypatch.setattr(sweep, "clean_predictions", lambda model, data, a=answers: a)
        assert main(call) == status
        assert Path("var/checkpoints/s").exists() == (status == 0)
        assert ("not above chance" in capsys.readouterr().err) == (status == 2)
    assert len(store.collect(Path("results")).records) == 1


def test_what_is_not_measured_is_found_measured_and_withdrawn(folder, tmp_path, capsys):
    (tmp_path / "c" / "broken").mkdir()
    (tmp_path / "c" / "broken" / "card.json").write_text("{")
    call = ["evaluate", "--checkpoints", str(tmp_path / "c"), "--protocol", "gradient", "--n", "20"]
    assert main(call) == 0
    said = capsys.readouterr()
    assert "broken/card.json is not JSON" in said.err
    assert "net, digits linf:0.15 gradient: clean" in said.out
    assert main([*call, "--only-seeds", "3"]) == 2  # a foreign checkpoint has no seed
    (path,) = store.record_files(Path("results"))
    assert main(["withdraw", str(path), "--reason", "a test"]) == 0
    assert store.collect(Path("results")).withdrawn


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_names_a_function_and_helps(command, capsys):
    assert not command.run or callable(pkgutil.resolve_name(command.run))
    with pytest.raises(SystemExit) as left:
        main([*command.name.split(), "--help"])
    assert left.value.code == 0
    options = [o for o in command.options for o in (o.options if isinstance(o, Group) else [o])]
    said = capsys.readouterr().out
    assert all(flag in said for o in options for flag in o.flags if flag.startswith("-"))


def test_list_names_what_there_is(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*DATASETS, *ARCHITECTURES, *PROTOCOL_NAMES))


# ---------------------------------------------------------------- real processes


def start(folder, tmp_path, *more, protocol="gradient", n=1000):
    command = [sys.executable, "-m", "bench", "evaluate", *more, str(folder), "--n", str(n)]
    command += ["--protocol", protocol, "--out", str(tmp_path / "r"), "--yes"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_parts(tmp_path, count, process):
    """Until so many parts are there, or the process has ended: however slow the machine is."""
    while len(list((tmp_path / "var").rglob("*.npz"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(2 * HANGS)
def test_evaluation_killed_at_random_continues_to_the_identical_record(tmp_path):
    """Killed and interrupted, two processes at work; what is finished is not done again."""
    folder = ROOT / "results/digits/linf-0.15/digits-at-s0-last"  # robust: the attacks take time
    slowly = ("--batch", "4")  # few rows at once: time enough to be killed in
    moments, finished = random.Random(2), {}
    for how in (signal.SIGKILL, signal.SIGINT):
        process = start(folder, tmp_path, "--workers", "2", *slowly, n=600)
        wait_for_parts(tmp_path, len(finished) + 1, process)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(how)
        _, said = process.communicate(timeout=HANGS)
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert "continues where it stopped" in said
            assert "Traceback" not in said
        else:
            assert process.returncode == -signal.SIGKILL
        parts = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "var").rglob("*.npz")}
        assert finished.items() <= parts.items()
        finished = parts
    process = start(folder, tmp_path, "--workers", "2", *slowly, n=600)
    _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 0, said
    (resumed,) = store.collect(tmp_path / "r").records
    (tmp_path / "again").mkdir()
    _, said = start(folder, tmp_path / "again", *slowly, n=600).communicate(timeout=HANGS)
    (whole,) = store.collect(tmp_path / "again" / "r").records
    assert store.same_answer(resumed, whole)
    assert protocol("gradient") == whole.protocol


@pytest.mark.slow
@pytest.mark.timeout(3 * HANGS)
def test_an_audit_killed_at_random_continues_to_the_identical_records(tmp_path):
    """In the search and in the audit; what AutoAttack alone says comes out the same too."""
    asked = {"protocol": "fast", "n": 30}
    folder = ROOT / "results/digits/linf-0.15/digits-at-s0-last"
    more = ("--audit", "all", "--workers", "2")
    (tmp_path / "whole").mkdir()
    process = start(folder, tmp_path / "whole", *more, **asked)
    _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 0, said
    parts, moments = 0, random.Random(5)
    for _ in range(3):
        process = start(folder, tmp_path, *more, **asked)
        wait_for_parts(tmp_path, parts + 1, process)
        time.sleep(moments.uniform(0, 1))
        process.kill()
        process.communicate(timeout=HANGS)
        parts = len(list((tmp_path / "var").rglob("*.npz")))
    process = start(folder, tmp_path, *more, **asked)
    _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 0, said
    records = [store.collect(root / "r").records for root in (tmp_path, tmp_path / "whole")]
    killed, whole = ({r.protocol.name: r for r in some} for some in records)
    assert sorted(killed) == sorted(whole) == ["autoattack", "fast"]
    assert all(store.same_answer(killed[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.timeout(2 * HANGS)
def test_no_worker_outlives_a_killed_parent(folder, tmp_path):
    process = start(folder, tmp_path, "--workers", "2", str(folder))
    wait_for_parts(tmp_path, 1, process)
    listing = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    children = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + HANGS
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.1)
