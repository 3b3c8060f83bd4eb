"""What a login costs: rows for the suite of the composites, each over the member's own figure."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from benchmarks.stores import DATA, metadata
from benchmarks.suite import Row, both, loop

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.suite import Measure

__all__ = ["ROWS"]

STATEMENTS = {
    "set": "s.set('key', (B(data), m))",
    "get": "s.get('key')",
    "exists": "s.exists('key')",
    "query of 1000 keys": "list(s.query())",
}
# 0.8 asked the user's permissions for each key; a login is looked at once a call.
GOALS = {"set": {"G": 10.0}}


def opened(authenticated: bool) -> Any:
    from encore.storage.dict_memory_store import DictMemoryStore
    from encore.storage.simple_auth_store import SimpleAuthStore, make_encoder

    store: Any = DictMemoryStore()
    store.connect()
    for number in range(1000):
        store.set(f"key{number}", (BytesIO(DATA), metadata(number, 1000)))
    store.set("key", (BytesIO(DATA), metadata(7, 1000)))
    if not authenticated:
        return store
    encoder = make_encoder(b"salt")
    store.from_bytes(".user_name", encoder(b"password"))
    store = SimpleAuthStore(store, encoder)
    store.connect({"username": "name", "password": "password"})
    return store


def measuring(statement: str, authenticated: bool) -> Measure:
    store = opened(authenticated)
    return loop(statement, s=store, B=BytesIO, data=DATA, m=metadata(7, 1000))


def _rows() -> list[Row]:
    rows = []
    for name, statement in STATEMENTS.items():
        member, own = f"{name}, of the member", f"{name}, with a login"
        rows.append(Row(member, both(partial(measuring, statement, False))))
        goals = GOALS.get(name, {})
        rows.append(Row(own, both(partial(measuring, statement, True)), goals, base=member))
    return rows


ROWS = _rows()
