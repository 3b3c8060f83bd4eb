"""Processes in which EnCore 0.8 runs, which stores of this encore are compared and mixed with."""

import os
import subprocess
import sys

import pytest

PROBE = """
from encore.storage import file_lock, filesystem_store, locking_filesystem_store, sqlite_store
print(sqlite_store.__file__)
"""


@pytest.fixture(scope="session")
def start_08(tmp_path_factory):
    """A function that starts a script with EnCore 0.8 and returns the process.

    The environment variable ``ENCORE08`` names the directory that it is installed in, as by
    ``pip install --no-deps --target $ENCORE08 encore==0.8.0``.
    """
    where = os.environ.get("ENCORE08")
    if not where:
        pytest.skip("ENCORE08 does not say where EnCore 0.8 is installed")
    where = os.path.abspath(where)
    if not os.path.isdir(f"{where}/encore"):
        pytest.skip(f"EnCore 0.8 is not installed in {where}")
    # Of its own: the current directory comes before PYTHONPATH, and ours may be in it.
    folder = tmp_path_factory.mktemp("encore08")

    def start(script, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": where},
            **options,
        )

    probe = start(PROBE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found, error = probe.communicate(timeout=60)
    if probe.returncode:
        pytest.skip(f"EnCore 0.8 does not run with this Python: {error.strip().splitlines()[-1]}")
    assert found.startswith(where)
    return start
