"""Databases for the tests of SqliteStore."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import contextmanager
from unittest import mock

import pytest

import encore.storage._sqlite_setup as setup
import encore.storage.sqlite_store as module
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield folder


@pytest.fixture
def path(folder):
    return f"{folder}/x.db"


@pytest.fixture(params=["wal", "delete"])
def store(request, path):
    store = SqliteStore(path, durability="process")
    with refusing_wal() if request.param == "delete" else contextmanager(lambda: iter([None]))():
        store.connect()
    assert store._wal == (request.param == "wal")
    yield store
    store.disconnect()


@pytest.fixture
def without_wal():
    """A context manager: a store that is connected in it has no WAL."""
    return refusing_wal


@contextmanager
def refusing_wal():
    """As on a network file system."""
    real = setup.set_up

    def set_up(store, connection):
        connection.set_authorizer(
            lambda action, name, value, *rest: (
                sqlite3.SQLITE_DENY
                if (action, name, value) == (sqlite3.SQLITE_PRAGMA, "journal_mode", "WAL")
                else sqlite3.SQLITE_OK
            )
        )
        try:
            # What is refused by an authorizer is a DatabaseError.
            with mock.patch("sqlite3.OperationalError", sqlite3.DatabaseError):
                return real(store, connection)
        finally:
            connection.set_authorizer(lambda *rest: sqlite3.SQLITE_OK)

    with mock.patch.object(module, "set_up", set_up):
        yield
