"""python -m tests.walked FOLDER: makes one number and its page, and prints the files that made them.

A file is printed once, in the order in which a function of each is first called. What only an import
calls (the entries of registries) is not counted.
"""

from __future__ import annotations

import inspect
import sys
import threading
from pathlib import Path
from types import FrameType

from streamlit.testing.v1 import AppTest

import bench.__main__

ROOT = Path(__file__).parents[1]
NETWORK = "results/digits/linf-0.15/digits-at-awp-s0-last"
ROOMS = tuple(f"{ROOT}/{room}" for room in ("bench/", "models/", "app.py"))
_FOUND: dict[str, None] = {}


def _note(frame: FrameType, event: str, argument: object) -> None:
    code, file = frame.f_code, frame.f_code.co_filename
    # CO_OPTIMIZED is what the body of a function is, and that of a module or class is not.
    is_new = file not in _FOUND and event == "call" and file.startswith(ROOMS)
    if is_new and code.co_flags & inspect.CO_OPTIMIZED and not _importing(frame):
        _FOUND[file] = None


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def main(folder: str) -> None:
    """Measures NETWORK under protocol gradient into the folder, and opens the board on it."""
    threading.setprofile(_note)  # the page's script has a thread of its own
    sys.setprofile(_note)
    measured = bench.__main__.main(
        [
            "evaluate",
            NETWORK,
            "--protocol",
            "gradient",
            "--n",
            "4",
            "--workers",
            "1",
            "--out",
            folder,
        ]
    )
    sys.argv = ["app.py", "--results", folder]
    app = AppTest.from_file(ROOT / "app.py", default_timeout=120).run()
    sys.setprofile(None)
    assert measured == 0 and not app.exception and not app.error
    print(*(Path(file).relative_to(ROOT) for file in _FOUND), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
