"""A model that never returns is stopped from outside, and its record says so."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cli import watch
from bench.measure import processes
from bench.records import store
from bench.schema import MeasurementFailed

ROOT = Path(__file__).parents[2]
IN_C = "sum(iter(int, 1))"  # holds the interpreter: no thread of the process gets a word in


@pytest.fixture
def _watched(monkeypatch):
    for name in ("_shared", "_allowed", "_fastest", "_looked", "_back"):
        monkeypatch.setattr(watch, name, getattr(watch, name))
    watch.begin()


@pytest.mark.usefixtures("_watched")
def test_a_pass_is_overdue_while_it_lasts_too_long_and_not_between_passes():
    me = os.getpid()
    watch.allow(1000.0)
    with watch.in_hand(2):
        assert watch.overdue(me) is None
    watch.allow(0.0)
    assert watch.overdue(me) is None
    with watch.in_hand(2):
        assert watch.overdue(me) == 0.0
        with watch.in_hand():  # what a pass calls is no pass of its own
            pass
        assert watch.overdue(me) == 0.0
        assert watch.overdue(me + watch._SLOTS) is None  # another process in the same slot
    assert watch.overdue(me) is None


@pytest.mark.usefixtures("_watched")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
def test_a_pass_that_begins_while_it_is_looked_at_is_not_overdue():
    """The parent reads while the process writes: a million looks at short passes of 300 seconds."""
    watch.allow(300.0)
    process = multiprocessing.get_context("fork").Process(target=_pass_after_pass)
    process.start()
    try:
        late = [watch.overdue(process.pid) for _ in range(1_000_000)]
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    assert set(late) == {None}


def _pass_after_pass():
    while True:
        with watch.in_hand(1):
            pass


@pytest.mark.usefixtures("_watched")
def test_a_pass_during_which_all_were_stopped_has_its_time_anew(monkeypatch):
    """Ctrl-Z stops whoever looks too, and the clock goes on."""
    clock, me = [1000.0], os.getpid()
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    watch.allow(300.0)
    assert watch.overdue(me) is None
    with watch.in_hand(1):
        for seconds in (20, 20, 3600, *[20] * 14):
            clock[0] += seconds
            assert watch.overdue(me) is None
        clock[0] += 20  # 300 after the stop, looked at all the while
        assert watch.overdue(me) == 300.0


@pytest.mark.usefixtures("_watched")
def test_the_limit_is_minutes_and_follows_the_fastest_passes(monkeypatch):
    watch.allow(None)
    monkeypatch.setattr(watch, "_fastest", float("inf"))
    assert watch.limit() == watch.FEWEST_SECONDS >= 120
    for seconds, limit in ((0.001, 300.0), (0.5, 0.5 * watch.IMAGES)):
        monkeypatch.setattr(watch, "_fastest", seconds)
        assert watch.limit() == limit
    watch.allow(7.0)
    assert watch.limit() == 7.0


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.slow
def test_a_stuck_worker_is_the_failure_of_a_measurement(deaf):
    watch.allow(0.3)

    def work(place: int, report: object) -> int:
        if place:
            if deaf:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with watch.in_hand():
                time.sleep(1000) if deaf else sum(iter(int, 1))
        return place

    with pytest.raises(MeasurementFailed, match=r"one pass took more than 0\.3 s"):
        processes.run_here(work, 2, 2, lambda *told: None)


def supervised(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of those words in a process of its own, without torch."""
    script = (
        f"import time\nfrom bench.cli import interrupt, watch\nwatch.allow(0.3)\n"
        f"def command():\n    {command}\n    return 0\ninterrupt.exit_with(lambda: "
        "interrupt.supervised(command))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("stuck", [IN_C, "time.sleep(1000)"])
def test_the_parent_ends_a_child_that_waits_for_a_model(stuck, tmp_path):
    done = supervised(f"with watch.in_hand(): {stuck}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the model did not return: one pass took more than 0.3 s")
    assert len(done.stderr.splitlines()) == 1


def test_what_takes_long_but_is_no_pass_goes_on(tmp_path):
    done = supervised("time.sleep(1)", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pass_has_some_time(capsys, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("")
    for seconds in ("0", "-1"):
        asked = ["evaluate", "--model", f"{own}:x", "--dataset", "digits"]
        assert main([*asked, "--pass-seconds", seconds]) == 2
        assert f"--pass-seconds must be above 0, got {seconds}" in capsys.readouterr().err


MODEL = """
import os
import torch
calls, parent = 0, os.getpid()
def build():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    torch.manual_seed(0)
    def model(x):
        global calls
        calls += 1
        if {when}:
            {stuck}
        return net(x)
    return model
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "workers", "recorded"),
    [
        ("calls == 1", 1, False),  # nothing is known of it yet, so it has no id
        ("calls > 45", 1, True),
        ("x.min() < 0", 1, True),  # in the checks
        ("x.requires_grad", 1, True),
        ("os.getpid() != parent", 2, True),
    ],
)
def test_the_command_leaves_a_failed_record(when, workers, recorded, tmp_path):
    (tmp_path / "stuck.py").write_text(MODEL.format(when=when, stuck=IN_C))
    asked = ["evaluate", "--model", "stuck.py:build", "--dataset", "digits", "--n", "20", "--yes"]
    asked += ["--protocol", "gradient", "--workers", str(workers), "--pass-seconds", "3", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *asked], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "one pass took more than 3 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout or json.loads(done.stdout) == []
    found = store.collect(tmp_path / "results")
    assert not found.records
    assert [record.failure.split(":")[0] for record in found.failed] == (
        ["the model did not return"] if recorded else []
    )
