"""What check() and repair() do with the index of a directory of pairs."""

from __future__ import annotations

import os

from ._pair_index import TABLE, PairIndex, content
from ._pair_index_file import (
    INDEX,
    WAIT,
    IndexLock,
    NotNow,
    boot_of_computer,
    is_noted,
    remove_index,
    status_of,
)
from ._pair_reader import METADATA
from ._posix import read_file
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from ._pair_directory import PairDirectory


def discard(pairs: PairDirectory) -> None:
    """Remove the index; it is made anew by whoever needs it."""
    index = PairIndex(pairs)
    try:
        with IndexLock(index):
            remove_index(pairs.folder)
    except NotNow as error:
        raise StoreError(f"{index.path!r} is in use") from error
    finally:
        index.close()


def damage(pairs: PairDirectory) -> list[tuple[str | None, str]]:
    """Return what is wrong in the index, if there is one: names of pairs, None if it is no single one, and texts."""
    import sqlite3
    from urllib.parse import quote

    path = f"{pairs.folder}/{INDEX}"
    if not os.path.isfile(path) or not is_noted(pairs.folder, os.stat(path)):
        # It will be made anew.
        return []
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=WAIT, isolation_level=None
    )
    try:
        # From here on nobody can change it.
        connection.execute("BEGIN")
        made = connection.execute("SELECT boot FROM about").fetchone()
        if not is_noted(pairs.folder, os.stat(path)) or made != (boot_of_computer(),):
            return []
        lines = [line for (line,) in connection.execute("PRAGMA integrity_check(10)")]
        if lines != ["ok"]:
            return [(None, f"the index is damaged: {line}") for line in lines]
        return [*_wrong_rows(connection, pairs.root), *_wrong_entries(connection)]
    except sqlite3.Error as error:
        if "locked" in str(error) or "unable to open" in str(error):
            return []
        return [(None, f"the index is damaged: {error}")]
    finally:
        connection.close()


def _wrong_rows(connection: sqlite3.Connection, root: str) -> Iterator[tuple[str, str]]:
    for name, kept, then in connection.execute(
        f"SELECT key, metadata, status FROM {TABLE} WHERE status <> ''"
    ):
        path = f"{root}/{name}{METADATA}"
        try:
            text = read_file(path)
            now = status_of(os.lstat(path))
        except OSError:
            continue
        # Where the status is another one, the file is read again before the row counts.
        if then == now and text is not None and kept != content(text):
            yield name, "the index is wrong"


def _wrong_entries(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    from ._metadata_index import NAME_OF, VALUE_OF, is_json

    index = f'"{TABLE}#index"'
    needed = (
        f"SELECT {NAME_OF}, {VALUE_OF}, t.key FROM {TABLE} AS t CROSS JOIN json_each("
        f"CASE WHEN {is_json('t.metadata')} THEN t.metadata ELSE '{{}}' END) AS e"
        f" UNION ALL SELECT x'', x'', t.key FROM {TABLE} AS t WHERE NOT ({is_json('t.metadata')})"
    )
    have = f"SELECT name, value, key FROM {index}"
    for one, other, text in ((needed, have, "lacks some"), (have, needed, "has too many")):
        sql = f"SELECT * FROM ({one}) EXCEPT SELECT * FROM ({other})"
        names = {name for *_, name in connection.execute(sql)}
        for name in sorted(names):
            yield name, f"the index {text} of its entries"
