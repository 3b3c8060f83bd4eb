"""A document store: text with metadata, found by query, changed in a transaction.

Usage: python examples/documents.py [STORE]      (STORE: memory:, sqlite:PATH or fs:PATH)
"""

from __future__ import annotations

import io
import sys
from typing import Any

from encore.storage.api import open_store

LETTERS: list[tuple[str, str, dict[str, Any]]] = [
    ("letters/1", "Dear Cassim, the cave is real.", {"author": "alibaba", "year": 1704}),
    ("letters/2", "Dear brother, what is the word?", {"author": "cassim", "year": 1704}),
    ("letters/3", "To all: check the jars.", {"author": "morgiana", "year": 1705}),
]


def main(name: str = "memory:") -> None:
    with open_store(name, create=True) as store:
        for key, text, metadata in LETTERS:
            store.set(key, (io.BytesIO(text.encode()), metadata))

        print("written in 1704:")
        for key, metadata in sorted(store.query(select=["author"], year=1704)):
            print(f"  {key} by {metadata['author']}: {store.to_bytes(key).decode()}")

        with store.transaction("a year passes"):
            for key, metadata in store.query():
                store.update_metadata(key, {"year": metadata["year"] + 1})

        print("now dated 1706:", *sorted(store.query_keys(year=1706)))


if __name__ == "__main__":
    main(*sys.argv[1:2])
