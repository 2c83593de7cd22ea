"""Tries the whole corpus, or a short part of it: `python -m tests.hostile [--short] [--only WORD]`.

Each member is built and handed in by a process of its own: 5 s, 500 MB beyond the imports, then it is
killed. Exit status 1 where an outcome is not the right one.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.hostile import trial
from tests.hostile.corpus import CORPUS
from tests.hostile.member import KINDS, Member, Ran


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a part that takes under a minute")
    parser.add_argument("--only", default="", metavar="WORD", help="those with it in kind or name")
    parser.add_argument("--list", action="store_true", help="name the members and try none")
    parser.add_argument("--said", action="store_true", help="print what each one came to")
    a = parser.parse_args(argv)
    chosen = [m for m in CORPUS if a.only in f"{m.kind} {m.name}" and (m.short or not a.short)]
    if a.list:
        print(*(f"{m.kind}: {m.name} -> {m.expected}" for m in chosen), sep="\n")
        return 0
    trial.preload()
    wrong = tried(chosen, said=a.said)
    return 1 if wrong or not chosen else 0


def tried(members: Sequence[Member], *, said: bool = False) -> dict[str, str]:
    """Tries members one by one and prints a line a kind; {name: what is wrong}."""
    wrong: dict[str, str] = {}
    runs: dict[str, list[Ran]] = collections.defaultdict(list)
    home = Path(tempfile.mkdtemp(prefix="hostile."))
    try:
        for number, member in enumerate(members):
            if member.needs_a_user and os.geteuid() == 0:
                print(f"not tried as root: {member.name}")
                continue
            folder = home / str(number)
            folder.mkdir()
            ran = trial.run(member, folder)
            shutil.rmtree(folder, ignore_errors=True)
            runs[member.kind].append(ran)
            why = member.wrong(ran, seconds=trial.SECONDS, memory=trial.MEMORY)
            if why:
                wrong[member.name] = why
                print(f"WRONG {member.kind}: {member.name}: {why}\n{_quoted(ran)}", flush=True)
            elif said:
                print(f"right {member.kind}: {member.name}\n{_quoted(ran)}", flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    _print(members, runs, wrong)
    return wrong


def _quoted(ran: Ran) -> str:
    """The end of what was said, as harmless text."""
    lines = [ascii(line)[1:-1][:300] for line in ran.said.strip().splitlines()[-3:]]
    return "\n".join(f"    | {line}" for line in lines)


def _print(members: Sequence[Member], runs: dict[str, list[Ran]], wrong: dict[str, str]) -> None:
    print(f"{'kind':10} {'tried':>6} {'right':>6} {'worst memory':>13} {'worst time':>11}")
    for kind in (*(k for k in KINDS if runs[k]), "all"):
        found = [r for k, each in runs.items() for r in each if kind in (k, "all")]
        if not found:
            continue
        bad = sum(m.name in wrong for m in members if kind in (m.kind, "all"))
        memory, seconds = max(r.memory for r in found), max(r.seconds for r in found)
        print(f"{kind:10} {len(found):6} {len(found) - bad:6} {memory:10.0f} MB {seconds:9.2f} s")


if __name__ == "__main__":
    sys.exit(main())
