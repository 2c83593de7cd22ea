"""python -m bench board: the pages, in a browser."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import bench

# What an open server may hold and say; .streamlit/config.toml, which is not in the wheel, says the same
# for `streamlit run app.py`. As flags they also stand above a configuration of the working folder.
_SAFE = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1",
    "server.maxWidgetStateSize": "1",
    "server.enableStaticServing": "false",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
}


def call(app: Path, results: Path, intake: Path | None = None) -> list[str]:
    """The command that serves the pages of a results folder; intake: settings, to take submissions."""
    flags = [f"--{name}={value}" for name, value in _SAFE.items()]
    run = [sys.executable, "-m", "streamlit", "run", str(app), *flags]
    more = [] if intake is None else ["--intake", str(intake)]
    return [*run, "--", "--results", str(results), *more]


def run(a: argparse.Namespace) -> int:
    """Serves the pages until it is interrupted; returns streamlit's exit status."""
    import streamlit  # noqa: F401  # missing, it is named with what brings it

    inside = Path(bench.__path__[0])
    app = next(p for p in (inside / "app.py", inside.parent / "app.py") if p.is_file())
    # Empty: uvicorn leaves the address of who calls as it is (bench.intake.callers says why).
    found = {**os.environ, "FORWARDED_ALLOW_IPS": os.environ.get("FORWARDED_ALLOW_IPS", "")}
    return subprocess.run(call(app, a.results, a.intake), check=False, env=found).returncode
