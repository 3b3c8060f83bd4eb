"""What check(), repair(), compact() and upgrade() do with the database of an SqliteStore.

What is wrong with rows is found, and mended, by _sqlite_inspection.py; damage in the file itself,
below rows and tables, is the matter of _sqlite_salvage.py.
"""

from __future__ import annotations

import time

from ._metadata import dumps
from ._sqlite_change_tables import ChangeTables
from ._sqlite_connections import Errors, Use, Waiting
from ._sqlite_inspection import Inspection, row_id_of
from ._sqlite_rows import parse
from ._sqlite_salvage import file_problems, mend_file
from ._sqlite_writing import Writing
from .errors import StoreError
from .maintenance import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from .sqlite_store import SqliteStore

# Rows in a step of upgrade(), which keeps others out.
_STEP = 200

# Milliseconds that compact() waits for those who read.
_READERS = 1000


def check(store: SqliteStore) -> list[Finding]:
    """As in the contract; from a snapshot, on a connection of its own."""
    with Errors(store._path):
        if store._state.unit is not None:
            # What the transaction has changed is seen by its own connection only.
            with Use(store) as handle:
                return _check(store, handle.connection)
        handle = store._new_handle()
        handle.users = 1
        try:
            handle.connection.execute("BEGIN")
            return _check(store, handle.connection)
        finally:
            handle.close()


def _check(store: SqliteStore, connection: sqlite3.Connection) -> list[Finding]:
    findings = [Finding(None, message) for message in file_problems(connection)]
    return findings + [finding for finding, _ in Inspection(store, connection).problems()]


def repair(store: SqliteStore) -> list[Finding]:
    """As SqliteStore.repair()."""
    _check_no_transaction(store, "repaired")
    findings: list[Finding] = []
    with Errors(store._path):
        findings += mend_file(store)
        lost = any(finding.outcome == "lost" for finding in findings)
        with Writing(store) as connection:
            assert connection is not None
            inspection = Inspection(store, connection)
            # All of them first: what mends one may be in the way of finding others.
            for finding, mend in list(inspection.problems(keep_orphans=lost)):
                finding.outcome = mend()
                findings.append(finding)
            store._state.unit.changes.extend(inspection.changes)  # type: ignore[union-attr]
    return findings


def compact(store: SqliteStore) -> None:
    """As SqliteStore.compact()."""
    _check_no_transaction(store, "compacted")
    with Writing(store) as connection:
        assert connection is not None
        # Of pollers that have died.
        ChangeTables(store.table).leave(connection)
        # Of rows that others have replaced, which runs no triggers for what was there.
        Inspection(store, connection).drop_superfluous()
    with Use(store) as handle:
        # Otherwise what would be given back would stand in the WAL twice.
        _checkpoint(store, handle.connection)
        handle.connection.execute("VACUUM")
        _checkpoint(store, handle.connection)


def _checkpoint(store: SqliteStore, connection: sqlite3.Connection) -> None:
    with Waiting(connection, _READERS):
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreError(
            f"{store!r} cannot be compacted while others use it, or large values are open"
        )


def _check_no_transaction(store: SqliteStore, what: str) -> None:
    if store._state.unit is not None:
        raise StoreError(f"{store!r} cannot be {what} inside a transaction")


def upgrade(store: SqliteStore) -> int:
    """As SqliteStore.upgrade()."""
    _check_no_transaction(store, "upgraded")
    table = store._sql_table
    tables = ChangeTables(store.table)
    count = 0
    last: Any = None
    held, released = 0.0, time.monotonic()
    with Use(store) as handle:
        row_id = row_id_of(handle.connection, table)
    while True:
        # Without a lock; what changes meanwhile is seen when it is written.
        with Use(store) as handle:
            above = "1" if last is None else f"{row_id} > ?1"
            rows = handle.rows(
                f"SELECT {row_id}, metadata FROM {table} WHERE {above}"
                " AND (typeof(metadata) = 'blob' OR unicode(metadata) = 128)"
                f" ORDER BY {row_id} LIMIT {_STEP}",
                () if last is None else (last,),
            )
        if not rows:
            return count
        last = rows[-1][0]
        new = [(text, *row) for row in rows if (text := _as_json(row[1])) is not None]
        # Who waits for a lock looks for it now and then only.
        time.sleep(max(0.0, released + held - time.monotonic()))
        begin = time.monotonic()
        with Writing(store) as connection:
            assert connection is not None
            told = tables.last(connection) if tables.are_there(connection) else None
            sql = f"UPDATE {table} SET metadata = ? WHERE {row_id} = ? AND metadata IS ?"
            for values in new:
                count += connection.execute(sql, values).rowcount
            tables.forget(connection, told)
        released = time.monotonic()
        held = released - begin


def _as_json(stored: Any) -> str | None:
    metadata = parse(stored)
    if metadata is None:
        return None
    try:
        return dumps(metadata)
    except ValueError:
        # NaN, say, in a JSON that we have not written.
        return None
