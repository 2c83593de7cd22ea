"""The command line: python -m bench evaluate | doctor | verify | agree | import | submit | table …

Results are printed last, alone; progress goes to stderr. Exit status: 0 done, 1 the measurement
failed, 2 the call was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.cli import agree, compare, doctor, evaluate, gap, published, submit, tables, verify
from bench.cli.interrupt import INTERRUPTED, exit_with, may_be_users
from bench.cli.supervised import supervised
from bench.schema import BenchError, InvalidInput

COMMANDS = (evaluate, doctor, submit, tables, compare, published, verify, agree, gap)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status = int(arguments.run(arguments) or 0)
        sys.stdout.flush()  # a result that cannot be written is no success
        return status
    except KeyboardInterrupt as error:
        if not may_be_users():
            return _left(error)
        print("\ninterrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as left:  # no command of ours leaves so
        return _left(left)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _left(how: BaseException) -> int:
    """Says that a model, or what it calls, tried to end the command."""
    words = f"{type(how).__name__} {how}".strip()
    print(f"error: the model raised {words}: it must return logits, not leave", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in COMMANDS:
        group.add(commands)
    return parser


if __name__ == "__main__":
    exit_with(lambda: supervised(main))
