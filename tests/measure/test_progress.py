"""Progress bars: what a person at a terminal and a log file get to see."""

import io

import pytest

from bench.measure import processes


class Stream(io.StringIO):
    """A stderr that is a terminal, or is not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def _states(monkeypatch: pytest.MonkeyPatch, terminal: bool, jobs: int = 3) -> list[str]:
    """The states of the bar over jobs that report 100 steps each."""

    def job(number: int, report: processes.Report) -> int:
        for step in range(100):
            report(step / 100, f"job {number}")
        return number

    stderr = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stderr)
    done = list(processes.run(job, range(jobs), workers=1, label="three jobs"))
    assert done == [(number, number) for number in range(jobs)]
    return [state for state in stderr.getvalue().split("\r") if state.strip()]


def test_a_log_file_gets_few_states_of_a_bar_and_the_last_one_whole(monkeypatch):
    states = _states(monkeypatch, terminal=False)
    assert len(states) <= 3  # 300 steps, in far less than the ten seconds between two states
    assert "three jobs: 100%" in states[-1]
    assert "three jobs: 100%" in _states(monkeypatch, terminal=True)[-1]
