"""Assertions about Python programs in processes of their own."""

from __future__ import annotations

__all__ = ["assert_python_ok", "strip_python_stderr"]


def assert_python_ok(*args: str, **env: str | bool) -> tuple[int, bytes, bytes]:
    """Run this Python in a child process, and fail if it does not exit with status 0.

    Parameters
    ----------
    *args
        The arguments of the interpreter, such as ``'-c', 'print(1)'``.
    **env
        Environment variables for the child, in addition to those of this process. With
        ``__cleanenv=True`` the child has these and no others. If none are given, the
        interpreter ignores all variables whose names start with PYTHON (``-E``).

    Returns
    -------
    tuple
        The exit status, and as bytes what the child wrote to its standard output and, through
        `strip_python_stderr`, to its standard error.

    Raises
    ------
    AssertionError
        If the exit status is not 0; with what the child wrote to its standard error.
    """
    import os
    import subprocess
    import sys

    command = [sys.executable, *([] if env else ["-E"]), *args]
    variables = {} if env.pop("__cleanenv", False) else dict(os.environ)
    variables.update({name: str(value) for name, value in env.items()})
    done = subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    err = strip_python_stderr(done.stderr)
    if done.returncode:
        raise AssertionError(
            f"exit status {done.returncode} of {command}, standard error:\n"
            + err.decode("utf-8", "replace")
        )
    return done.returncode, done.stdout, err


def strip_python_stderr(stderr: bytes) -> bytes:
    """Return what a child wrote to its standard error without what a debug build of Python adds.

    Parameters
    ----------
    stderr : bytes
        All of it.

    Returns
    -------
    bytes
        The same without the count of references at the end, and without white space around it.
    """
    import re

    return re.sub(rb"\[\d+ refs(, \d+ blocks)?\]\s*\Z", b"", stderr).strip()
