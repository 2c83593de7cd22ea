"""python -m tests.guard BASE [SECTION ...]: asks a base commit and this tree, and compares.

Both are asked on the same machine, side by side: bits differ between processors and torch versions.
Exit status 1 where one answer differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.guard.probe import SECTIONS

ROOT = Path(__file__).parents[2]
PROBE = ROOT / "tests/guard/probe.py"
PRESETS = ROOT / "tests/fixtures/presets.json"


def compare(base: str, sections: list[str]) -> int:
    """The number of answers that differ; each is printed with both values."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "base"
        subprocess.run(
            ["git", "worktree", "add", "-q", "--detach", str(tree), base], cwd=ROOT, check=True
        )
        try:
            processes = [
                _ask(where, folder / f"{label}.json", tree, sections)
                for label, where in (("base", tree), ("new", ROOT))
            ]
            statuses = [process.wait() for process in processes]
            old, new = (json.loads((folder / f"{x}.json").read_text()) for x in ("base", "new"))
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False
            )
    return _told(old, new) + sum(status != 0 for status in statuses)


def _ask(where: Path, target: Path, base: Path, sections: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": str(where), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
        "GUARD_PRESETS": str(PRESETS), "GUARD_PAGES": str(base),
    }  # fmt: skip
    shared = where.parent / "shared"
    if not shared.exists() and (ROOT.parent / "shared").exists():
        shared.symlink_to(ROOT.parent / "shared")
    call = [sys.executable, "-P", str(PROBE), str(target), *sections]
    return subprocess.Popen(call, cwd=where, env=environment)


def _told(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> int:
    wrong = 0
    for section, answers in old.items():
        keys = sorted(answers.keys() | new.get(section, {}).keys())
        differ = [k for k in keys if answers.get(k) != new.get(section, {}).get(k)]
        print(f"{section}: {len(keys) - len(differ)} of {len(keys)} answers are the same")
        for key in differ:
            print(f"  {key}\n    base {answers.get(key)}\n    new  {new.get(section, {}).get(key)}")
        wrong += len(differ)
    return wrong


if __name__ == "__main__":
    if len(sys.argv) < 2 or set(sys.argv[2:]) - SECTIONS.keys():
        sys.exit(f"expected: python -m tests.guard BASE [{' '.join(SECTIONS)}]")
    sys.exit(min(1, compare(sys.argv[1], sys.argv[2:])))
