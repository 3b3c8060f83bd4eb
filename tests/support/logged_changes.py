"""Changes of a LockingFileSystemStore that its tests look for in its log."""

from __future__ import annotations

import io
import os

from encore.storage._change_lines import LOG


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def log_of(path, suffix=""):
    with open(os.path.join(path, LOG + suffix), "rb") as file:
        return file.read()


def fail(store, notes):
    try:
        with store.transaction(notes):
            put(store, "never")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def change_everything(store):
    put(store, "a", b"1", n=1)
    put(store, "a", b"2", n=2)
    store.set_metadata("a", {"n": 3})
    store.update_metadata("a", {"m": [4]})
    store.from_bytes("b", b"5")
    with store.transaction("many"):
        put(store, "c", n=6)
        put(store, "c", n=7)
        store.delete("b")
        fail(store, "inner")
    store.delete("a")
    fail(store, "nothing")
    return ["a", "a", "a", "a", "b", "c", "c", "b", "a"]
