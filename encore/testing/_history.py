"""A history of changes, for stores that are interrupted in the midst of it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Contents = dict[str, tuple[bytes, dict[str, Any]]]

# More than what stores keep in one piece, and no multiple of anything.
_LARGE = 200_003


def _put(store: Any, key: str, data: bytes, **metadata: Any) -> None:
    store.set(key, (io.BytesIO(data), metadata))


class _Overtaken(io.RawIOBase):
    """A stream of which the reader is overtaken by another change of the same key."""

    def __init__(self, store: Any, key: str, data: bytes) -> None:
        self._store, self._key, self._rest = store, key, [data]

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            _put(self._store, self._key, b"overtakes", n=1)
            return b""
        return self._rest.pop()


def connect(store: Any) -> None:
    store.connect()


def set_new(store: Any) -> None:
    _put(store, "a", b"first", n=1)


def set_again(store: Any) -> None:
    _put(store, "a", b"second, longer", n=2)


def set_other(store: Any) -> None:
    _put(store, "Odd/ key", b"odd", n=1)


def set_long_key(store: Any) -> None:
    _put(store, "long/" * 100, b"long", n=1)


def set_metadata(store: Any) -> None:
    store.set_metadata("a", {"n": 3, "text": "x" * 700})


def set_metadata_of_new(store: Any) -> None:
    store.set_metadata("bare", {"n": 1})


def set_large(store: Any) -> None:
    _put(store, "large", b"0123456789" * (_LARGE // 10), n=1)


def set_data(store: Any) -> None:
    store.from_bytes("a", b"third")


def set_small_over_large(store: Any) -> None:
    _put(store, "large", b"small", n=2)


def set_large_over_small(store: Any) -> None:
    _put(store, "large", b"9876543210" * (_LARGE // 20), n=3)


def update_metadata(store: Any) -> None:
    store.update_metadata("large", {"more": [1, None]})


def delete(store: Any) -> None:
    store.delete("Odd/ key")


def set_deleted(store: Any) -> None:
    _put(store, "Odd/ key", b"again", n=2)


def overtaken(store: Any) -> None:
    store.set("b", (_Overtaken(store, "b", b"slow"), {"n": 2}))


def copy(store: Any) -> None:
    store.copy("a", "copy")


def many(store: Any) -> None:
    with store.transaction("many keys"):
        _put(store, "a", b"given up soon", n=4)
        _put(store, "a", b"fourth", n=5)
        _put(store, "c", b"new", n=1)
        store.delete("bare")
        store.set_metadata("Odd/ key", {"n": 3})
        store.delete("large")
        _put(store, "large 2", b"abcdefghij" * (_LARGE // 20), n=1)


def rolled_back(store: Any) -> None:
    try:
        with store.transaction("given up"):
            _put(store, "a", b"never", n=-1)
            store.delete("c")
            raise LookupError
    except LookupError:
        pass


def partly_rolled_back(store: Any) -> None:
    with store.transaction("outer"):
        _put(store, "a", b"fifth", n=6)
        rolled_back(store)
        store.delete("copy")


def multiset(store: Any) -> None:
    values = [(io.BytesIO(b"%d" % n), {"n": n}) for n in range(3)]
    store.multiset(["a", "c", "d"], values)


def reconnect(store: Any) -> None:
    store.disconnect()
    store.connect()


def delete_large(store: Any) -> None:
    store.delete("large 2")


def set_last(store: Any) -> None:
    _put(store, "a", b"last", n=7)


def disconnect(store: Any) -> None:
    store.disconnect()


STEPS: tuple[Callable[[Any], None], ...] = (
    *(connect, set_new, set_again, set_other, set_long_key, set_metadata, set_metadata_of_new),
    *(set_large, set_data, set_small_over_large, set_large_over_small, update_metadata, delete),
    *(set_deleted, overtaken, copy, many, rolled_back, partly_rolled_back, multiset, reconnect),
    *(delete_large, set_last, disconnect),
)

# Of those with a transaction.
TRANSACTIONAL = frozenset({many, rolled_back, partly_rolled_back, multiset})


def steps_of(store: Any) -> list[Callable[[Any], None]]:
    """Return the steps that a store can do."""
    transactional = store.info()["transactional"]
    return [step for step in STEPS if transactional or step not in TRANSACTIONAL]


def go_through(store: Any) -> None:
    """Do the steps, and say on standard output which one begins and which has come to its end."""
    for step in steps_of(store):
        os.write(1, b"begin %s\n" % step.__name__.encode())
        step(store)
        os.write(1, b"end %s\n" % step.__name__.encode())


def contents(store: Any) -> Contents:
    """Return what is in a store, seen in more than one way."""
    found = {}
    for key in store.query_keys():
        value = store.get(key)
        with value.data as stream:
            found[key] = stream.read(), value.metadata
    for name, seen in (
        ("query()", dict(store.query())),
        ("get_metadata()", {key: store.get_metadata(key) for key in found}),
    ):
        expected = {key: metadata for key, (_, metadata) in found.items()}
        if seen != expected:
            raise AssertionError(f"{name} gives {seen!r}, get() {expected!r}")
    if list(store.keys()) != sorted(found):
        raise AssertionError(f"keys() gives {list(store.keys())!r}, query_keys() {sorted(found)!r}")
    return found


def states_of(store: Any) -> list[list[Contents]]:
    """Return what can be in a store at each of its steps: first that before the step."""
    from ..events.event_manager import EventManager
    from ..storage.dict_memory_store import DictMemoryStore
    from ..storage.events import StoreModificationEvent

    class Model(DictMemoryStore):
        def disconnect(self) -> None:
            """A memory store would forget everything."""

    manager = EventManager()
    model: Any = Model(event_manager=manager)
    now: list[Contents] = [{}]

    def look(event: object) -> None:
        # A transaction tells all its changes after it.
        now.append(contents(model))

    manager.connect(StoreModificationEvent, look)
    states = []
    for step in steps_of(store):
        step(model)
        states.append(now)
        now = now[-1:]
    return [*states, now]
