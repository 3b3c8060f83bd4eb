"""Stores and locks that many processes share.

The files are in memory, so that it is not the disk that is measured, and nothing is synced. The
limit writes two files a key, each renamed, takes and releases a lock by link() and unlink(), and
appends a line to a log. 0.8 has a lock for each key, and its readers wait for it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.stores import Libraries, Library, encore, mixtures, row
from benchmarks.suite import Row, both, each, loop, scratch

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from benchmarks.stores import Names
    from benchmarks.suite import Measure

LOG = "__log__.txt"


def make(path: Path) -> None:
    path.mkdir()
    import_module("encore.storage.filesystem_store").init_shared_store(str(path))


def opened(path: Path) -> Any:
    from inspect import signature

    kind = import_module("encore.storage.locking_filesystem_store").LockingFileSystemStore
    options: dict[str, Any] = {"remote_event_poll_interval": 0, "durability": "process"}
    if "durability" not in signature(kind).parameters:
        # 0.8 always looks at the log, and tells what it has found to the manager of the package.
        events = import_module("encore.events.package_globals")
        with suppress(ValueError):  # it has one
            events.set_event_manager(import_module("encore.events.event_manager").EventManager())
        options = {"remote_event_poll_interval": 1e6}
    return kind(str(path), **options)


class Raw:
    """What cannot be avoided."""

    def __init__(self, path: Path) -> None:
        self.root = f"{path}/"
        self.own = f"{self.root}.lock.{os.getpid()}"
        self.log = os.open(self.root + LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def lock(self) -> None:
        os.close(os.open(self.own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        while True:
            try:
                os.link(self.own, self.root + ".lock")
                return
            except FileExistsError:
                pass

    def unlock(self) -> None:
        os.unlink(self.root + ".lock")
        os.unlink(self.own)

    def set(self, key: str, data: bytes, metadata: bytes) -> None:
        name = self.root + key
        for suffix, content in ((".data", data), (".metadata", metadata)):
            file = os.open(name + suffix + "~", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.write(file, content)
            os.close(file)
        self.lock()
        os.write(self.log, b"1 set %s\n" % metadata)
        os.rename(name + ".data~", name + ".data")
        os.rename(name + ".metadata~", name + ".metadata")
        self.unlock()

    def get(self, key: str) -> list[bytes]:
        found = []
        for suffix in (".data", ".metadata"):
            file = os.open(self.root + key + suffix, os.O_RDONLY)
            found.append(os.read(file, 1 << 16))
            os.close(file)
        return found

    def delete(self, key: str) -> None:
        self.lock()
        os.write(self.log, b"1 delete\n")
        os.unlink(self.root + key + ".metadata")
        os.unlink(self.root + key + ".data")
        self.unlock()


def open_raw(path: Path) -> Names:
    from json import dumps

    return {"s": Raw(path), "dumps": dumps, "os": os}


OURS = encore(opened, make=make, memory=True)
LIMIT = Library(
    open_raw,
    set="s.set(k, data, dumps(m).encode())",
    get="s.get(k)",
    exists="os.access(s.root + k + '.data', os.F_OK)",
    delete="s.delete(k)",
    memory=True,
)


def open_warm(path: Path) -> Names:
    """Open a store that has written before: what the first change of a process costs is not of the others."""
    names = OURS.open(path)
    names["s"].set_metadata(f"warm{os.getpid()}", {})
    return names


WARM = replace(OURS, open=open_warm)
ALL: Libraries = {"encore": OURS, "encore08": OURS, "limit": LIMIT}
DOES = "two files a key, a lock by link(), a line in a log"


def locking(kind: str) -> Measure:
    """Measure acquiring and releasing a lock that nobody has."""
    lock = getattr(import_module("encore.storage.file_lock"), kind)(str(scratch(True) / "name"))
    return loop("lock.acquire(); lock.release()", lock=lock)


def linking() -> Measure:
    raw = Raw(scratch(True))
    return loop("raw.lock(); raw.unlock()", raw=raw)


def setting_with_log(lines: int) -> Measure:
    """Measure setting a key while the log has so many lines already."""
    names = OURS.new()
    text = "".join(f"{n} w 2026-03-01 12:00:00.000000 key{n}\n" for n in range(1, lines + 1))
    (names["path"] / LOG).write_text(text)
    return each(OURS.set, lambda count: ["key"] * count, **names)


ROWS = [
    row("set a new key", ALL, Library.setting, 1000, does=DOES),
    row("overwrite a key", ALL, Library.overwriting, 1000, does=DOES),
    row("get", ALL, Library.getting, 1000, does=DOES),
    row("delete", ALL, Library.deleting, 1000, does=DOES),
    *mixtures(
        "processes",
        {"encore": WARM, "encore08": WARM, "limit": LIMIT},
        Library.processes,
        (1, 8),
        0.5,
    ),
    Row(
        "acquire and release a FileLock",
        {**both(partial(locking, "FileLock")), "limit": linking},
        limit="link() and unlink()",
    ),
    Row(
        "acquire and release a SharedFileLock",
        both(partial(locking, "SharedFileLock")),
    ),
    Row("set with an empty log", both(partial(setting_with_log, 1))),
    Row(
        "set with 10000 lines in the log",
        both(partial(setting_with_log, 10_000)),
        {"G": 1.5},
        base="set with an empty log",
    ),
]
