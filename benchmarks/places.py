"""Where the files are that are measured."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from .subjects import cache

__all__ = ["disk", "kind", "memory", "own_prefix"]

PREFIX = "benchmarks-"


def kind(path: Path) -> str:
    """The kind of file system a path is on; empty if that is not known."""
    best, found = Path(), ""
    try:
        lines = Path("/proc/mounts").read_text("utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mounted, name, *_ = line.split(" ")
        point = Path(mounted.replace("\\040", " "))
        # The later one of two at the same place hides the other.
        if path.resolve().is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, found = point, name
    return found


def disk() -> Path:
    """A directory on a disk, as far as can be told."""
    usual = Path(tempfile.gettempdir())
    if kind(usual) != "tmpfs":
        return usual
    cache().mkdir(parents=True, exist_ok=True)
    return cache()


def memory() -> Path | None:
    """A directory on a file system in memory, or None."""
    path = Path("/dev/shm")
    return path if kind(path) == "tmpfs" and os.access(path, os.W_OK) else None


def own_prefix(place: Path) -> str:
    """What the names of this process's directories begin with; those of dead processes are removed.

    Gigabytes may be in them, and what is in memory stays there.
    """
    for path in place.glob(f"{PREFIX}*-*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)
    return f"{PREFIX}{os.getpid()}-"
