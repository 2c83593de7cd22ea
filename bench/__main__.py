"""The command line: python -m bench evaluate | doctor | verify | agree | import | submit | table …

Results are printed last, alone; progress goes to stderr. Exit status: 0 done, 1 the measurement
failed, 2 the call was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.commands import (
    agree,
    compare,
    doctor,
    evaluate,
    foreign,
    gap,
    proofs,
    published,
    tables,
)
from bench.schema import BenchError, InvalidInput

COMMANDS = (evaluate, doctor, foreign, tables, compare, published, proofs, agree, gap)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in COMMANDS:
        group.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
