"""The command line: python -m bench evaluate | doctor | verify | agree | import | submit | table …

Results are printed last, alone; progress goes to stderr. Exit status: 0 done, 1 the measurement
failed, 2 the call was wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from bench.cli import watch
from bench.cli.arguments import failed, not_installed
from bench.cli.commands import COMMANDS
from bench.cli.interrupt import INTERRUPTED, exit_with, may_be_users, supervised
from bench.cli.parsing import parser
from bench.cli.terminal import plain_streams
from bench.schema import BenchError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    with plain_streams():
        return _answered(argv)


def _answered(argv: Sequence[str] | None) -> int:
    arguments = parser(COMMANDS, "python -m bench", __doc__).parse_args(argv)
    watch.allow(getattr(arguments, "pass_seconds", None))
    try:
        status = int(arguments.run(arguments) or 0)
        sys.stdout.flush()  # a result that cannot be written is no success
        return status
    except BrokenPipeError:
        return 0
    except (BenchError, OSError) as error:
        return failed(error)
    except ModuleNotFoundError as error:
        return not_installed(error)
    except (KeyboardInterrupt, SystemExit) as left:  # no command of ours leaves so
        if isinstance(left, KeyboardInterrupt) and may_be_users():
            print("\ninterrupted; the same command continues where it stopped", file=sys.stderr)
            return INTERRUPTED
        words = f"{type(left).__name__} {left}".strip()
        print(f"error: the model raised {words}: it must return logits, not leave", file=sys.stderr)
        return 1


def script() -> NoReturn:
    """`awp-bench`, where it is installed: as `python -m bench`."""
    exit_with(lambda: supervised(main))


if __name__ == "__main__":
    script()
