"""Stores in files.

Where a disk is not named the files are in memory, so that it is not the disk that is measured, and
nobody is slow for syncing: 0.8 never does, and the limit only on a disk against durability='power'.
0.8 tears: of what is interrupted or read meanwhile one file may be new and the other old.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.stores import (
    MANY,
    MIB,
    Libraries,
    Library,
    encore,
    growing,
    large,
    mixtures,
    row,
)
from benchmarks.suite import Row, Skip

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.stores import Names


def make(path: Path) -> None:
    from encore.storage.filesystem_store import init_shared_store

    path.mkdir()
    init_shared_store(str(path))


def opened(path: Path, **options: Any) -> Any:
    from encore.storage.filesystem_store import FileSystemStore

    return FileSystemStore(str(path), **options)


def opened_indexed(path: Path) -> Any:
    from inspect import signature

    from encore.storage.filesystem_store import FileSystemStore

    if "index" not in signature(FileSystemStore).parameters:
        raise Skip("FileSystemStore has no index=")
    return opened(path, index=True)


class Raw:
    """Two files a key, each written under another name first. With `sync` they are on the disk."""

    def __init__(self, path: Path, sync: bool = False) -> None:
        self.root = f"{path}/"
        self.files: dict[str, int] = {}
        self.directory = os.open(path, os.O_RDONLY) if sync else None

    def _write(self, name: str, data: bytes) -> None:
        file = os.open(name + "~", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.write(file, data)
        if self.directory is not None:
            os.fsync(file)
        os.close(file)
        os.rename(name + "~", name)

    def set(self, key: str, data: bytes, metadata: bytes) -> None:
        name = self.root + key
        self._write(name + ".data", data)
        self._write(name + ".metadata", metadata)
        if self.directory is not None:
            os.fsync(self.directory)

    def _read(self, name: str) -> bytes:
        file = os.open(name, os.O_RDONLY)
        data = os.read(file, 1 << 16)
        os.close(file)
        return data

    def get(self, key: str) -> tuple[bytes, bytes]:
        name = self.root + key
        return self._read(name + ".data"), self._read(name + ".metadata")

    def exists(self, key: str) -> bool:
        return os.access(self.root + key + ".metadata", os.F_OK)

    def delete(self, key: str) -> None:
        os.unlink(self.root + key + ".metadata")
        os.unlink(self.root + key + ".data")
        if self.directory is not None:
            os.fsync(self.directory)

    def keys(self) -> list[str]:
        with os.scandir(self.root) as entries:
            return [e.name[:-9] for e in entries if e.name.endswith(".metadata")]

    def query(self, subject: str) -> list[tuple[str, Any]]:
        from json import loads

        found = ((key, loads(self._read(self.root + key + ".metadata"))) for key in self.keys())
        return [(key, metadata) for key, metadata in found if metadata.get("subject") == subject]

    def glob(self, pattern: str) -> list[str]:
        from fnmatch import translate
        from re import compile

        return list(filter(compile(translate(pattern)).match, self.keys()))

    def file(self, key: str) -> int:
        if key not in self.files:
            self.files[key] = os.open(self.root + key + ".data", os.O_RDONLY)
        return self.files[key]

    def copy(self, key: str, path: Path) -> None:
        name = self.root + key
        with path.open("rb") as source, open(name + "~", "wb", buffering=0) as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        os.rename(name + "~", name + ".data")
        self._write(name + ".metadata", b"{}")


def open_raw(path: Path, sync: bool = False) -> Names:
    from json import dumps

    return {"s": Raw(path, sync), "dumps": dumps, "os": os}


def fill_raw(names: Names, found: list[tuple[str, dict[str, Any]]]) -> None:
    for key, m in found:
        names["s"].set(key, names["data"], names["dumps"](m).encode())


# Peers


def open_fsspec(path: Path) -> Names:
    make = import_module("fsspec.implementations.local").LocalFileSystem
    return {"s": make(skip_instance_cache=True), "p": f"{path}/"}


def open_simplekv(path: Path) -> Names:
    return {"s": import_module("simplekv.fs").FilesystemStore(str(path))}


def open_obstore(path: Path) -> Names:
    module = import_module("obstore")
    store = import_module("obstore.store").LocalStore(str(path))
    return {"s": store, "put": module.put, "get": module.get, "delete": module.delete}


OURS = encore(opened, make=make, memory=True)
LIMIT = Library(
    open_raw,
    set="s.set(k, data, dumps(m).encode())",
    get="s.get(k)",
    exists="s.exists(k)",
    delete="s.delete(k)",
    fill=fill_raw,
    query="s.query(subject)",
    glob="s.glob(pattern)",
    page="sorted(k for k in s.keys() if k > 'key0000500')[:100]",
    large={
        "from_file": "s.copy(k, file)",
        "set": "s.copy(k, file)",
        "read": "with open(f'{path}/{k}.data', 'rb', buffering=0) as f:\n"
        "    while f.read(1 << 20): pass",
        "part": "os.pread(s.file(k), 4096, a)",
        "range": "os.pread(s.file(k), 4096, a)",
    },
    memory=True,
)
FSSPEC = Library(
    open_fsspec,
    set="s.pipe_file(p + k, data)",
    get="s.cat_file(p + k)",
    exists="s.exists(p + k)",
    delete="s.rm_file(p + k)",
    memory=True,
)
SIMPLEKV = Library(
    open_simplekv,
    set="s.put(k, data)",
    get="s.get(k)",
    exists="k in s",
    delete="s.delete(k)",
    memory=True,
)
OBSTORE = Library(
    open_obstore,
    set="put(s, k, data)",
    get="get(s, k).bytes()",
    exists="s.head(k)",
    delete="delete(s, k)",
    memory=True,
)
SUBJECTS: Libraries = {"encore": OURS, "encore08": OURS, "limit": LIMIT}
ALL: Libraries = {**SUBJECTS, "fsspec": FSSPEC, "simplekv": SIMPLEKV, "obstore": OBSTORE}
NEWER: Libraries = {"encore": OURS, "limit": LIMIT}
OURS_PROCESS = encore(partial(opened, durability="process"), make=make, memory=True)
PROCESS: Libraries = {**ALL, "encore": OURS_PROCESS}
DISK: Libraries = {
    "encore": replace(OURS, memory=False),
    "limit": replace(LIMIT, memory=False, open=partial(open_raw, sync=True)),
}
DISK_PROCESS: Libraries = {
    name: replace(library, memory=False) for name, library in PROCESS.items()
}
INDEXED: Libraries = {"encore": encore(opened_indexed, make=make, memory=True)}

_FILES = "two files, each renamed"
_SYNCED = "two files, synced, renamed, their directory synced"
_OPEN = "a read of an open file"


def set_and_deleted(
    where: str, libraries: Libraries, does: str, goal: bool = True, count: int = MANY
) -> list[Row]:
    ways = {
        "set of a new key": (Library.setting, {"S": 2.0}),
        "set of an old key": (Library.overwriting, {"S": 2.0}),
        "delete": (Library.deleting, {"S": 3.2}),
    }
    return [
        row(
            name + where,
            *(libraries, way, count),
            does=does,
            goals=goals if goal else {},
            slice=0.02,
        )
        for name, (way, goals) in ways.items()
    ]


ROWS = [
    *set_and_deleted("", ALL, _FILES),
    *set_and_deleted(", durability='process'", PROCESS, _FILES),
    *set_and_deleted(" on a disk", DISK, _SYNCED, False, 100),
    *set_and_deleted(" on a disk, durability='process'", DISK_PROCESS, _FILES, False, 100),
    row("get", ALL, Library.getting, MANY, does="two files", goals={"S": 1.9}),
    row("exists", ALL, Library.asking, MANY, does="one file"),
    row(
        "query of 10000 keys",
        *(SUBJECTS, Library.querying, MANY),
        does="scandir, each file",
        goals={"S": 1.6},
        slices=2,
    ),
    row(
        "glob of 10000 keys",
        *(SUBJECTS, Library.globbing, MANY),
        does="scandir",
        goals={"S": 3.3},
        slices=2,
    ),
    *large(SUBJECTS, "1 MiB at a time", {}, lambda size: 8.0 * MIB),
    *(
        row(
            f"4 KiB out of {size} MiB, {name}", *(SUBJECTS, Library.parts, size * MIB, part), **more
        )
        for size, levels in ((16, ("quick",)), (256, ("usual", "large")))
        for name, part, more in (
            ("get_data_range", "part", {"does": _OPEN, "levels": levels}),
            # The goal is that of a limit of 1.2 us, which opens no file.
            (
                "of a value at hand",
                "range",
                {"goals": {"S": 40.0}, "does": _OPEN, "levels": levels},
            ),
        )
    ),
    *growing("get", SUBJECTS, Library.getting, most=100_000),
    *growing("exists", SUBJECTS, Library.asking, most=100_000),
    *growing("set of a new key", SUBJECTS, Library.setting, most=100_000, slice=0.02),
    *growing("a page of 100 keys", NEWER, Library.paging, most=100_000),
    *growing("query, index=True, 100 keys found", INDEXED, Library.querying, most=100_000),
    *mixtures("threads", SUBJECTS, Library.threads, (1, 4, 16), 0.1),
    *mixtures("processes", SUBJECTS, Library.processes, (1, 4, 8), 0.1),
]
