"""Stores in SQLite.

Where it is not said otherwise, what is set is on the disk when the method returns: in 0.8, which
has no other way, and with durability='power'. Large values are in memory: what is measured is not
the disk.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.stores import MANY, MIB, Libraries, Library, encore, growing, large, mixtures, row
from benchmarks.suite import Skip

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from benchmarks.stores import Names, Pairs
    from benchmarks.suite import Measure

_CHUNK = 1 << 16


def opened(path: Path, **options: Any) -> Any:
    from encore.storage.sqlite_store import SqliteStore

    return SqliteStore(str(path / "store.db"), **options)


# The limit: the same columns, metadata as JSON


def make_raw(path: Path) -> None:
    import sqlite3

    path.mkdir()
    db = sqlite3.connect(path / "raw.db", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    columns = "key text primary key, metadata text, created float, modified float, data blob"
    db.execute(f"create table store ({columns})")
    db.execute("create table chunks (key text, n integer, data blob, primary key (key, n))")
    db.close()


def open_raw(path: Path, synchronous: str = "full") -> Names:
    import sqlite3
    from json import dumps, loads
    from time import time

    db = sqlite3.connect(path / "raw.db", isolation_level=None, timeout=30)
    db.execute(f"pragma synchronous = {synchronous}")
    by_subject = "select key, metadata from store where json_extract(metadata, '$.subject') = ?"
    names = {"db": db, "e": db.execute, "now": time, "dumps": dumps, "loads": loads}
    return {**names, "copy": copy, "by_subject": by_subject}


def fill_raw(names: Names, found: Pairs) -> None:
    db, dumps, data = names["db"], names["dumps"], names["data"]
    stamp = names["now"]()
    db.execute("begin immediate")
    db.executemany(
        "insert or replace into store values (?, ?, ?, ?, ?)",
        ((key, dumps(m), stamp, stamp, data) for key, m in found),
    )
    db.execute("commit")


def fill_indexed(names: Names, found: Pairs) -> None:
    fill_raw(names, found)
    on = "store (json_extract(metadata, '$.subject'))"
    names["db"].execute(f"create index if not exists subjects on {on}")


def copy(db: Any, key: str, path: Path) -> None:
    with path.open("rb") as file:
        chunks = enumerate(iter(partial(file.read, _CHUNK), b""))
        db.execute("begin immediate")
        db.execute("delete from chunks where key = ?", (key,))
        rows = ((key, number, chunk) for number, chunk in chunks)
        db.executemany("insert into chunks values (?, ?, ?)", rows)
        db.execute("commit")


# Peers


def open_diskcache(path: Path, synchronous: int) -> Names:
    make = import_module("diskcache").Cache
    # It removes nothing by itself.
    return {"s": make(str(path), sqlite_synchronous=synchronous, eviction_policy="none")}


def open_lmdb(path: Path, sync: bool) -> Names:
    store = import_module("lmdb").open(str(path), map_size=2**33, sync=sync)
    return {"begin": store.begin}


def fill_diskcache(names: Names, found: Pairs) -> None:
    with names["s"].transact():
        for key, _ in found:
            names["s"].set(key, names["data"])


def fill_lmdb(names: Names, found: Pairs) -> None:
    with names["begin"](write=True) as transaction:
        for key, _ in found:
            transaction.put(key.encode(), names["data"])


def of_one_thread() -> Measure:
    raise Skip("it can only be used in the thread that made it")


OURS = encore(opened)
LIMIT = Library(
    open_raw,
    make=make_raw,
    set="e('insert or replace into store values (?, ?, ?, ?, ?)',"
    " (k, dumps(m), now(), now(), data))",
    get="e('select metadata, created, modified, data from store where key = ?', (k,)).fetchone()",
    exists="e('select 1 from store where key = ?', (k,)).fetchone()",
    delete="e('delete from store where key = ?', (k,))",
    close="db.close()",
    fill=fill_raw,
    query="[(k, loads(m)) for k, m in e(by_subject, (subject,))]",
    glob="[k for k, in e('select key from store where key glob ?', (pattern,))]",
    page="[k for k, in e('select key from store where key > ? order by key limit 100',"
    " ('key0000500',))]",
    large={
        "from_file": "copy(db, k, file)",
        "set": "copy(db, k, file)",
        "read": "for _ in e('select data from chunks where key = ? order by n', (k,)): pass",
        "part": "e('select substr(data, ?, 4096) from chunks where key = ? and n = ?',"
        f" (a % {_CHUNK} + 1, k, a // {_CHUNK})).fetchone()[0]",
    },
    of_thread=True,
)
DISKCACHE = Library(
    partial(open_diskcache, synchronous=2),
    set="s.set(k, data)",
    get="s.get(k)",
    exists="k in s",
    delete="s.delete(k)",
    close="s.close()",
    fill=fill_diskcache,
)
LMDB = Library(
    partial(open_lmdb, sync=True),
    set="with begin(write=True) as t: t.put(k.encode(), data)",
    get="with begin() as t: t.get(k.encode())",
    exists="with begin() as t: t.get(k.encode()) is not None",
    delete="with begin(write=True) as t: t.delete(k.encode())",
    fill=fill_lmdb,
)
SUBJECTS: Libraries = {"encore": OURS, "encore08": OURS, "limit": LIMIT}
ALL: Libraries = {**SUBJECTS, "diskcache": DISKCACHE, "lmdb": LMDB}
NEWER: Libraries = {"encore": OURS, "limit": LIMIT}
PROCESS: Libraries = {
    "encore": encore(partial(opened, durability="process")),
    "encore08": OURS,
    "limit": replace(LIMIT, open=partial(open_raw, synchronous="normal")),
    "diskcache": replace(DISKCACHE, open=partial(open_diskcache, synchronous=1)),
    "lmdb": replace(LMDB, open=partial(open_lmdb, sync=False)),
}
UNINDEXED: Libraries = {
    "encore": encore(partial(opened, index=None)),
    "encore08": encore(partial(opened, index=None)),
    "limit": LIMIT,
}
INDEXED: Libraries = {**SUBJECTS, "limit": replace(LIMIT, fill=fill_indexed)}
LARGE: Libraries = {name: replace(one, memory=True) for name, one in SUBJECTS.items()}

_SYNC = "WAL, synchronous=FULL"
_THREADS = mixtures("threads", NEWER, Library.threads, (1, 4, 16), 0.1)
ROWS = [
    row("set of a new key", ALL, Library.setting, MANY, does=_SYNC, goals={"S": 4.7}, slice=0.05),
    row(
        "set of an old key",
        ALL,
        Library.overwriting,
        MANY,
        does=_SYNC,
        goals={"S": 4.7},
        slice=0.05,
    ),
    row(
        "set of a new key, durability='process'",
        *(PROCESS, Library.setting, MANY),
        does="WAL, synchronous=NORMAL",
        goals={"S": 30},
        slice=0.02,
    ),
    row("get", ALL, Library.getting, MANY, does="a row", goals={"S": 1.5}),
    row("exists", ALL, Library.asking, MANY, does="a key", goals={"S": 2.6}),
    row("delete", ALL, Library.deleting, MANY, does=_SYNC, goals={"S": 4.8}, slice=0.05),
    row(
        "query of 10000 keys, no index",
        *(UNINDEXED, Library.querying, MANY),
        does="json_extract",
        goals={"S": 4},
    ),
    row(
        "query of 10000 keys, index='dynamic'",
        *(INDEXED, Library.querying, MANY),
        does="an index on json_extract",
        goals={"S": 1},
    ),
    row(
        "glob of 10000 keys with a literal prefix",
        *(SUBJECTS, Library.globbing, MANY),
        does="a range of the index",
        goals={"S": 390},
    ),
    row(
        "multiset of 10000 new keys, for each",
        *(ALL, Library.setting_many),
        does="executemany",
        goals={"S": 7},
        count=MANY,
        slices=1,
    ),
    *large(
        LARGE,
        "rows of 64 KiB",
        {"from_file": 3.0, "set": 2.5, "read": 4.0},
        lambda size: 8.0 * MIB,
    ),
    *(
        row(
            f"4 KiB out of {size} MiB",
            *(LARGE, Library.parts, size * MIB),
            does="a row of 64 KiB",
            goals={"S": 10_000},
            slices=2,
            levels=levels,
        )
        for size, levels in ((16, ("quick",)), (256, ("usual", "large")))
    ),
    *growing("get", SUBJECTS, Library.getting),
    *growing("exists", SUBJECTS, Library.asking),
    *growing("set of a new key", SUBJECTS, Library.setting, slice=0.05),
    *growing("a page of 100 keys", NEWER, Library.paging),
    *growing("query, index='dynamic', 100 keys found", INDEXED, Library.querying),
    *(replace(one, setups={**one.setups, "encore08": of_one_thread}) for one in _THREADS),
    # With an index 0.8 cannot write to a table that was there.
    *mixtures("index=None, processes", UNINDEXED, Library.processes, (1, 4, 8), 0.1),
]
