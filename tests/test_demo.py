from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

import encore
from encore import _demo
from encore.__main__ import main

ROOT = Path(encore.__file__).resolve().parent.parent


@pytest.fixture
def stdlib(tmp_path, monkeypatch):
    """A small standard library."""
    root = tmp_path / "lib"
    for name in ("json/__init__.py", "json/decoder.py", "this.py", "test/x.txt", "test/x.xml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'r"""JSON (JavaScript Object Notation) and so on"""\n')
    for name in ("site-packages/x.py", "lib.so", "__pycache__/this.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no source")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(root))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield root
    assert list(scratch.iterdir()) == []


def test_the_demo_shows_what_it_runs_and_what_that_prints(stdlib, capsys):
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    for number, (title, code) in enumerate(_demo.STEPS, 1):
        assert f"{number}. {title}\n" in out
        for line in code.splitlines():
            assert f"    {line}".rstrip() in out.splitlines()
    for line in (
        "5 copied, 0 skipped, 0 failed",
        "     3 text/x-python",
        "JSON (JavaScript Object Notation)",
        "  event: StoreTransactionEndEvent failed",
        "rolled back: changed my mind",
        "this.py is there: True",
        "  event: StoreTransactionEndEvent done",
        "  event: StoreUpdateEvent this.py",
        "read so far: ['json/__init__.py', 'this.py']",
        "2 copied, 0 skipped, 0 failed",
        "json/decoder.py True",
    ):
        assert line in out.splitlines()
    assert "  event: StoreDeleteEvent this.py" not in out
    assert "100%" in err


def test_what_the_demo_prints_fits_80_columns(stdlib, capsys):
    main(["demo"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_steps_are_whole_statements():
    for _, code in _demo.STEPS:
        assert ast.parse(code).body


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind_when_a_step_ends_badly(stdlib, capsys, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error("here")

    monkeypatch.setattr("encore.storage.sqlite_store.SqliteStore.get_data_range", fail)
    assert main(["demo"]) == (130 if error is KeyboardInterrupt else 1)
    assert len(capsys.readouterr().err.splitlines()[-1]) > 0


# So that what the child below takes for the library is a part of it.
PART = """\
import runpy, sys, sysconfig
part = sys.argv[2]
sysconfig.get_path = lambda name: part
del sys.argv[2:]
runpy.run_module("encore", run_name="__main__")
"""


def test_the_demo_runs_with_nothing_installed(tmp_path):
    real, part, scratch = sysconfig.get_path("stdlib"), tmp_path / "lib", tmp_path / "scratch"
    shutil.copytree(Path(real, "json"), part / "json")
    shutil.copy(Path(real, "this.py"), part)
    scratch.mkdir()
    run_demo(scratch, "-c", PART, "demo", str(part))


@pytest.mark.slow
def test_the_demo_runs_on_the_real_library_with_nothing_installed(tmp_path):
    run_demo(tmp_path, "-m", "encore", "demo")


def run_demo(tmp_path, *arguments):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-S", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "rolled back: changed my mind" in run.stdout
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []
