"""The command line, ``python -m encore``: its words and its commands. `main` is in encore.__main__."""

from __future__ import annotations

import sys

PROGRAM = "python -m encore"

# What a command returns, besides 0.
FAILED = 1
WRONG_USE = 2
# What a shell reports of a program that SIGINT or SIGPIPE has ended.
INTERRUPTED = 130
NOBODY_READS = 141


class WrongUse(Exception):
    """The command line asks for what makes no sense."""

    def __str__(self) -> str:
        from re import DOTALL, sub

        # The name of a store may stand where none is expected, with a password in it.
        return sub(r"://.*@", "://...@", super().__str__(), flags=DOTALL)


def complain(message: object) -> None:
    """Write a line to standard error, if there is one."""
    from .text import one_line

    # Without a standard error print() would take standard output.
    if sys.stderr is not None:
        try:
            print(f"{PROGRAM}: {one_line(str(message))}", file=sys.stderr, flush=True)
        except OSError:
            pass


def reason_of(error: BaseException) -> str:
    """Say what has gone wrong."""
    if isinstance(error, KeyError) and error.args:
        return f"there is no key {error.args[0]!r}"
    from encore.storage.errors import StoreError

    if isinstance(error, (StoreError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"
