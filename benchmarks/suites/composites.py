"""Stores made of stores.

A figure is compared with that of the member that does the work, which is the row above it.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from benchmarks import authentication
from benchmarks.suite import Row, both, loop

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.suite import Measure

MANY = 10_000


def filled(keys: range, prefix: str = "") -> Any:
    from encore.storage.dict_memory_store import DictMemoryStore

    store = DictMemoryStore()
    for n in keys:
        metadata = {"n": n, "subject": f"subject {n % 100}", "kind": "a value"}
        store.set(f"{prefix}key{n:07}", (BytesIO(b"x" * 100), metadata))
    return store


def joined() -> Any:
    """The first has most of the keys, as what is written is written there."""
    from encore.storage.joined_store import JoinedStore

    return JoinedStore([filled(range(MANY * 9 // 10)), filled(range(MANY * 9 // 10, MANY))])


def mounted() -> Any:
    from encore.storage.mounted_store import MountedStore

    half = MANY // 2
    return MountedStore("m/", filled(range(half)), filled(range(half, MANY)))


def member() -> Any:
    return filled(range(MANY))


GET = "s.get('key0000123')"
QUERY = "list(s.query(subject='subject 7'))"


def get_of_member() -> Measure:
    return loop(GET, s=member())


def get_of_joined() -> Measure:
    return loop(GET, s=joined())


def query_of_member() -> Measure:
    return loop(QUERY, s=member())


def query_of_joined() -> Measure:
    return loop(QUERY, s=joined())


def query_of_mounted() -> Measure:
    return loop(QUERY, s=mounted())


ROWS = [
    Row("get", both(get_of_member)),
    Row("get, joined", both(get_of_joined), goals={"G": 1.2}, base="get"),
    Row("query of 10000 keys", both(query_of_member)),
    Row(
        "query of 10000 keys, joined",
        both(query_of_joined),
        goals={"G": 1.35},
        base="query of 10000 keys",
    ),
    Row(
        "query of 10000 keys, mounted",
        both(query_of_mounted),
        goals={"G": 1.4},
        base="query of 10000 keys",
    ),
    *authentication.ROWS,
]
