"""What tests of SqliteStore do with stores and their files."""

from __future__ import annotations

import io
import sqlite3
import threading
from contextlib import closing


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def pair(store, key):
    value = store.get(key)
    return value.data.read(), value.metadata


def sql(path, text, values=()):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(text, values).fetchall()


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join(60)
    assert result
    return result[0]


def chunks_of(path):
    return sql(path, 'SELECT count(*) FROM "store#chunks"')[0][0]


def fill_up(store, extra):
    """Let the database grow by no more than so many pages."""
    connection = store._handle().connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + extra}")
    return connection
