"""The command line: ``python -m encore``.

Results go to standard output, everything else to standard error. Wrong use is one line and exit
status 2, what fails is one line and 1, Control-C is 130.
"""

from __future__ import annotations

import os
import sys

try:
    from contextlib import suppress

    from encore._cli import (
        FAILED,
        INTERRUPTED,
        NOBODY_READS,
        WRONG_USE,
        WrongUse,
        complain,
        reason_of,
    )
    from encore._cli.arguments import parser_of_all
except KeyboardInterrupt:
    # They take half of the time until main() can catch it.
    if __name__ != "__main__":
        raise
    print("python -m encore: interrupted", file=sys.stderr)
    sys.exit(130)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        What follows the program's name; by default that of the process.

    Returns
    -------
    int
        The exit status.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # What the encoding of standard output lacks is shown as an escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parsed(argv)
        status: int = arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit as end:
        # --help and --version.
        return int(end.code or 0)
    except WrongUse as error:
        complain(error)
        return WRONG_USE
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return NOBODY_READS
    except Exception as error:
        _drop_output()
        if _was_interrupted(error):
            complain("interrupted")
            return INTERRUPTED
        complain(reason_of(error))
        return FAILED


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of_all()
    try:
        return parser.parse_args(argv)
    except WrongUse as error:
        given = sys.argv[1:] if argv is None else argv
        # What begins with a dash has been taken for an option, and then an argument is missing.
        if "--" not in given and any(len(each) > 1 and each.startswith("-") for each in given):
            raise WrongUse(f"{error}; -- goes before arguments that begin with a dash") from error
        raise


def _was_interrupted(error: BaseException) -> bool:
    # Control-C may strike between any two steps, so that closing a store afterwards fails as well.
    context = error.__context__
    return context is not None and (
        isinstance(context, KeyboardInterrupt) or _was_interrupted(context)
    )


def _drop_output() -> None:
    """Forget what cannot be written, so that the interpreter does not try again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
