"""python -m bench board: the pages, in a browser."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import bench


def run(a: argparse.Namespace) -> int:
    """Serves the pages until it is interrupted; returns streamlit's exit status."""
    import streamlit  # noqa: F401  # missing, it is named with what brings it

    inside = Path(bench.__path__[0])
    app = next(p for p in (inside / "app.py", inside.parent / "app.py") if p.is_file())
    call = ["streamlit", "run", str(app), "--", "--results", str(a.results)]
    return subprocess.run([sys.executable, "-m", *call], check=False).returncode
