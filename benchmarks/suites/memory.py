"""Stores in memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.stores import MANY, MIB, Libraries, Library, encore, growing, large, mixtures, row

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from benchmarks.stores import Names, Pairs


def opened(path: Path) -> Any:
    from encore.storage.dict_memory_store import DictMemoryStore

    return DictMemoryStore()


def make_dict(path: Path) -> Names:
    from fnmatch import translate
    from re import compile
    from threading import Lock
    from time import time

    return {"d": {}, "lock": Lock(), "now": time, "compile": compile, "translate": translate}


def fill_dict(names: Names, found: Pairs) -> None:
    stamp = names["now"]()
    names["d"].update((key, (names["data"], dict(m), stamp, stamp)) for key, m in found)


def make_simplekv(path: Path) -> Names:
    return {"s": import_module("simplekv.memory").DictStore()}


OURS = encore(opened)
LIMIT = Library(
    make_dict,
    set="with lock: d[k] = (data, dict(m), now(), now())",
    get="d[k][0]",
    exists="k in d",
    delete="with lock: del d[k]",
    fill=fill_dict,
    query="[(k, dict(r[1])) for k, r in d.items() if r[1].get('subject') == subject]",
    glob="list(filter(compile(translate(pattern)).match, d))",
    page="sorted(k for k in d if k > 'key0000500')[:100]",
    large={"from_file": "with open(file, 'rb') as f: d[k] = f.read()"},
)
SIMPLEKV = Library(
    make_simplekv, set="s.put(k, data)", get="s.get(k)", exists="k in s", delete="s.delete(k)"
)
SUBJECTS: Libraries = {"encore": OURS, "encore08": OURS, "limit": LIMIT}
ALL: Libraries = {**SUBJECTS, "simplekv": SIMPLEKV}
NEWER: Libraries = {"encore": OURS, "limit": LIMIT}

ROWS = [
    row("set of a new key", ALL, Library.setting, MANY, does="a dict, a lock", goals={"S": 14}),
    row(
        "set of an old key", ALL, Library.overwriting, MANY, does="a dict, a lock", goals={"S": 14}
    ),
    row("get", ALL, Library.getting, MANY, does="a dict"),
    row("exists", ALL, Library.asking, MANY, does="a dict"),
    row("delete", ALL, Library.deleting, MANY, does="a dict, a lock", goals={"S": 5}),
    row("query of 10000 keys", SUBJECTS, Library.querying, MANY, does="a loop", goals={"S": 8}),
    row("glob of 10000 keys", SUBJECTS, Library.globbing, MANY, does="a pattern", goals={"S": 5}),
    *large(SUBJECTS, "a read", {"from_file": 4.0}, lambda size: size + 14 * MIB, ("from_file",)),
    *growing("get", SUBJECTS, Library.getting),
    *growing("exists", SUBJECTS, Library.asking),
    *growing("set of a new key", SUBJECTS, Library.setting),
    *growing("a page of 100 keys", NEWER, Library.paging),
    *mixtures("threads", SUBJECTS, Library.threads, (1, 4, 16), 0.05),
]
