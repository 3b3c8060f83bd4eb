"""A store in the files of one directory: ``<key>.data`` and ``<key>.metadata``.

The directory is that of EnCore 0.8. Other programs may read, put, change and remove such pairs of
files at any time. How a pair changes as one is said in _pair_directory.py, how keys become file
names in _filenames.py.
"""

from __future__ import annotations

import os
import time
from _thread import RLock

from ._metadata import matches
from ._pair_store import (
    MAGIC,
    FileSystemStoreError,
    absolute,
    check_magic,
    check_store,
    init_shared_store,
)
from .abstract_store import RepairableStore
from .base_store import Head
from .errors import StoreError, from_os_error, os_errors
from .overlay_store import LOCK_TIMEOUT, OverlayState, OverlayStore
from .string_value import StringValue
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from ._filenames import decode, encode, is_digest, is_plain, may_be_old
    from ._metadata_files import needle_of
    from ._pair_directory import PairDirectory
    from ._pair_index import PairIndex
    from ._pair_reader import DATA, Pair
    from ._pair_writer import Draft, Staged
    from ._posix import read_file, unlink
    from ._streams import Source
    from .file_value import LateFile, OpenFile, OpenFileValue
    from .maintenance import Finding

__all__ = ["FileSystemStore", "FileSystemStoreError", "init_shared_store"]

# Values up to this size are read by get() itself: that costs no more than keeping the file open.
_SMALL = 65536

# Larger values keep their file open, so that they stay what they are; but no more than this many
# at a time, as processes are commonly given 1024 open files in all.
_MAX_OPEN = 128


_loaded = False


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global _loaded  # noqa: PLW0603
    if _loaded:
        return
    global decode, encode, is_digest, is_plain, may_be_old  # noqa: PLW0603
    global PairDirectory, Draft, DATA, Pair, needle_of, read_file, unlink  # noqa: PLW0603
    global LateFile, OpenFile, OpenFileValue  # noqa: PLW0603
    from ._filenames import decode, encode, is_digest, is_plain, may_be_old
    from ._metadata_files import needle_of
    from ._pair_directory import PairDirectory
    from ._pair_reader import DATA, Pair
    from ._pair_writer import Draft
    from ._posix import read_file, unlink
    from .file_value import LateFile, OpenFile, OpenFileValue

    _loaded = True


class _State(OverlayState):
    def __init__(self) -> None:
        #: What is to be removed after the unit of work, unless it was used.
        self.staged: list[Staged] = []


class FileSystemStore(OverlayStore, RepairableStore):
    """A store in the files of one directory, for any number of processes.

    Parameters
    ----------
    path : str or PathLike
        A directory that init_shared_store() has prepared.
    magic_fname : str
        Name of the file that marks it.
    event_manager : BaseEventManager, optional
    durability : {'power', 'process'}
        Whether changes survive power loss when a method returns, or only the end of the process.
    index : bool
        Whether queries use an index of the metadata, which is kept in the directory.

    Raises
    ------
    FileSystemStoreError
        If the path does not exist, or has no such file.

    Notes
    -----
    It needs a local file system with POSIX semantics: atomic rename and flock().
    """

    _transient = OverlayStore._transient | {
        "_mutex",
        "_pairs",
        "_pair_index",
        "_locked",
        "_seen",
        "_folds",
    }
    _state: _State

    def __init__(
        self,
        path: str | os.PathLike[str],
        magic_fname: str = MAGIC,
        *,
        event_manager: BaseEventManager | None = None,
        durability: str = "power",
        index: bool = False,
    ) -> None:
        self.path = absolute(path)
        self.magic_fname = check_magic(magic_fname)
        if durability not in ("power", "process"):
            raise ValueError(f"durability is 'power' or 'process', not {durability!r}")
        self._durability = durability
        if isinstance(index, str):
            # From a command line, say, where "false" would be as true as any text.
            raise TypeError(f"index is a bool, not {index!r}")
        self._is_indexed = bool(index)
        super().__init__(event_manager=event_manager)
        check_store(self.path, self.magic_fname)

    def _prepare(self) -> None:
        _load()
        super()._prepare()
        self._state = _State()
        # Re-entrant only because such a lock knows whether this thread holds it.
        self._mutex = RLock()
        self._pairs: PairDirectory | None = None
        self._pair_index: PairIndex | None = None
        #: Where the thread that has the mutex holds the lock of the directory.
        self._locked: PairDirectory | None = None
        #: The key that was looked at last under that lock, and what was there.
        self._seen: tuple[str, Pair | None] = ("", None)
        self._folds = False

    def _forked(self) -> None:
        super()._forked()
        self._state = _State()
        self._mutex = RLock()
        for pairs in {self._pairs, self._locked}:
            if pairs is not None:
                pairs.forget()
        if self._pair_index is not None:
            self._pair_index.forget()
        self._locked = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def info(self) -> dict[str, Any]:
        return {
            **super().info(),
            "durable": self._durability,
            "streaming": True,
            "path": self.path,
            "index": self._is_indexed,
        }

    # Life cycle

    def _open(self, credentials: Any) -> None:
        check_store(self.path, self.magic_fname)
        self._pairs = self._make_directory()
        if self._is_indexed:
            from ._pair_index import PairIndex

            self._pair_index = PairIndex(self._pairs)
        # Where it finds a file by a name in the other case, a name proves nothing.
        self._folds = os.path.lexists(os.path.join(self.path, self.magic_fname.swapcase()))

    def _close(self) -> None:
        index, self._pair_index = self._pair_index, None
        if index is not None:
            index.close()
        pairs, self._pairs = self._pairs, None
        # Otherwise another thread is in the middle of a change; the session ends when that is over
        # and nothing refers to it any more.
        if self._mutex.acquire(blocking=False):
            try:
                if pairs is not None:
                    pairs.close()
            finally:
                self._mutex.release()

    @property
    def _directory(self) -> PairDirectory:
        pairs = self._pairs
        if pairs is None:
            raise StoreError(f"{self!r} is not connected")
        return pairs

    # Names

    def _name(self, key: str) -> str:
        """Return the file name under which a key is, or would be."""
        if is_plain(key):
            return key
        name = encode(key)
        if not may_be_old(key) or self._directory.holds(name):
            return name
        return key if self._directory.holds(key) and self._is_exact(key) else name

    def _is_exact(self, name: str) -> bool:
        return not self._folds or name + DATA in os.listdir(self.path)

    def _names_of(self, key: str) -> list[str]:
        """Return all the names under which a key is there, for who has the lock."""
        if is_plain(key):
            return [] if self._load(key) is None else [key]
        settle = self._directory.settle
        names = [name for name in {self._name(key), encode(key)} if settle(name) is not None]
        if may_be_old(key) and key not in names and settle(key) is not None and self._is_exact(key):
            names.append(key)
        return names

    def _keys_and_names(self, prefix: str = "") -> Iterable[tuple[str, str]]:
        """Return all keys that begin with a prefix, perhaps others, and the names under which they are."""
        # Most names are their own keys. Those that are encoded begin with "%%".
        names = self._directory.names(*(prefix and (prefix, "%%")))
        odd = [name for name in names if name[:2] == "%%" or not name.isascii()]
        if not odd:
            return zip(names, names, strict=True)
        pairs = dict.fromkeys(names, "")
        for name in odd:
            del pairs[name]
        pairs.update(zip(pairs, pairs, strict=True))
        for name in odd:
            key = self._key(name)
            # Where a key is there under its old name too, the new one counts.
            if key is not None and (key not in pairs or name != key):
                pairs[key] = name
        return pairs.items()

    def _key(self, name: str) -> str | None:
        if is_plain(name):
            return name
        if is_digest(name):
            try:
                key = str(read_file(f"{self.path}/{name}.key") or b"", "utf-8")
            except (OSError, UnicodeDecodeError):
                return None
            return key if key and encode(key) == name else None
        key = decode(name) or name
        try:
            key.encode()
        except UnicodeEncodeError:
            # A name that is no UTF-8 is no key of ours.
            return None
        return key

    # Reading

    def _load(self, key: str) -> Pair | None:
        pairs = self._pairs or self._directory
        try:
            if self._state.overlay is None:
                return pairs.look(key if is_plain(key) else self._name(key))
            # This thread has the lock: nobody but a stranger changes anything.
            seen, pair = self._seen
            if seen != key:
                pair = pairs.settle(key if is_plain(key) else self._name(key))
                self._seen = key, pair
            return pair
        except OSError as error:
            raise from_os_error(error, key) from error

    def _load_all(self) -> Iterable[tuple[str, Pair]]:
        pairs = ((key, self._load(key)) for key in list(self._load_keys()))
        return ((key, pair) for key, pair in pairs if pair is not None)

    def _load_keys(self, prefix: str = "") -> Iterable[str]:
        with os_errors():
            return [key for key, _ in self._keys_and_names(prefix)]

    def _list(self, prefix: str = "") -> Iterable[str]:
        keys = self._load_keys(prefix)
        overlay = self._state.overlay
        if not overlay:
            return keys
        return [
            *(key for key in keys if key not in overlay),
            *(key for key, draft in overlay.items() if draft is not None),
        ]

    # Faster than by whole records: most pairs need no look at their data.
    def _scan(self, criteria: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        overlay = dict(self._state.overlay or {})
        index = self._pair_index if criteria else None
        with os_errors():
            names = None if index is None else index.find(criteria)
            if names is not None:
                # Whatever is proposed is read as if it were changed just now.
                return self._walk(list(self._those_that_count(names)), names, overlay, criteria)
            found = list(self._keys_and_names())
            unsettled = self._directory.unsettled()
        return self._walk(found, unsettled, overlay, criteria)

    def _walk(
        self,
        found: list[tuple[str, str]],
        unsettled: Container[str],
        overlay: dict[str, Draft | None],
        criteria: dict[str, Any],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        needle = needle_of(criteria)
        for key, name in found:
            if key in overlay:
                continue
            try:
                metadata = self._directory.metadata(name, name in unsettled, needle)
            except OSError as error:
                import errno

                if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
                    # One that cannot be read hides no other.
                    continue
                raise from_os_error(error, key) from error
            # A damaged one matches nothing.
            if metadata is not None and (not criteria or matches(metadata, criteria)):
                yield key, metadata
        for key, draft in overlay.items():
            if draft is not None:
                metadata = draft.metadata
                if metadata is not None and (not criteria or matches(metadata, criteria)):
                    yield key, metadata

    def _those_that_count(self, names: Iterable[str]) -> Iterable[tuple[str, str]]:
        for name in names:
            key = self._key(name)
            # Where a key is there under its old name too, the new one counts.
            if key is not None and (is_plain(name) or self._name(key) == name):
                yield key, name

    def _holds(self, key: str) -> bool:
        overlay = self._state.overlay
        if overlay is not None and key in overlay:
            return overlay[key] is not None
        pairs = self._pairs or self._directory
        try:
            return pairs.holds(key if is_plain(key) else self._name(key))
        except OSError as error:
            raise from_os_error(error, key) from error

    def _head_of(self, key: str, record: Head) -> Head:
        return record

    # Without a look at the pair before it is opened.
    def _read(self, key: str) -> Value:
        overlay = self._state.overlay
        if overlay is None or key not in overlay:
            return self._value_of(key, None)
        draft = overlay[key]
        if draft is None:
            raise KeyError(key)
        return self._value_of(key, draft)

    def _value_of(self, key: str, record: Head | None) -> Value:
        draft = record if type(record) is Draft else None
        try:
            if draft is not None and draft.staged is not None:
                path = draft.staged.path
                assert path is not None
                file = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), draft.size)
                return self._value(key, draft, file.read_all() if file.size <= _SMALL else file)
            name = key if is_plain(key) else self._name(key)
            found = (self._pairs or self._directory).open(name, _SMALL)
            if found is None:
                raise KeyError(key)
            pair, data = found
            if len(OpenFile.live) > _MAX_OPEN and type(data) is OpenFile:
                late = LateFile(f"{self.path}/{name}{DATA}", pair.status)
                return self._value(key, draft or pair, late)
            return self._value(key, draft or pair, data)
        except OSError as error:
            raise from_os_error(error, key) from error

    def _value(self, key: str, head: Head, data: bytes | Source) -> Value:
        metadata = head.metadata
        if metadata is None:
            self._damaged(key)
        if isinstance(data, bytes):
            return StringValue.of_normalised(data, metadata, head.created, head.modified)
        return OpenFileValue(data, head)

    # Maintenance

    def check(self) -> list[Finding]:
        from ._pair_maintenance import check

        self._check_connected()
        return check(self)

    def repair(self) -> list[Finding]:
        """Mend what check() finds; neither what is fine nor what another program has just changed is touched.

        No data are removed; metadata that belong to nothing, or are damaged, are put aside into
        ``.FSlost``. The writer lock is held all the while.
        """
        from ._pair_maintenance import repair

        self._check_connected()
        return repair(self)

    # Writing

    def _lock(self) -> None:
        # First, since an interrupt may come anywhere; _unlock() undoes what was done.
        self._state.locked += 1
        deadline = time.monotonic() + LOCK_TIMEOUT
        if not self._mutex.acquire(False) and not self._mutex.acquire(timeout=LOCK_TIMEOUT):
            raise StoreError(f"{self!r} is locked by another thread")
        self._locked = pairs = self._directory
        self._seen = ("", None)
        try:
            pairs.lock(deadline)
        except OSError as error:
            raise _store_error(error) from error

    def _unlock(self) -> None:
        mutex = self._mutex
        if not mutex._is_owned():  # type: ignore[attr-defined]
            # This thread never got it, or was interrupted after it had let it go.
            return
        pairs = self._locked
        try:
            if pairs is not None:
                pairs.unlock()
        except BaseException:
            # Once more, as that may have been an interrupt: others would wait for ever.
            if pairs is not None:
                pairs.unlock()
            raise
        finally:
            self._locked = None
            mutex.release()

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> Staged:
        return self._directory.stage(chunks)

    def _discard(self, staged: Staged) -> None:
        if not staged.taken:
            staged.remove()

    def _make(self, key: str, old: Pair | Draft | None, staged: Staged | None, head: Head) -> Draft:
        state = self._state
        if staged is None and old is None:
            staged = self._directory.stage(())
        if staged is not None:
            staged.taken = True
            state.staged.append(staged)
        if isinstance(old, Draft):
            return Draft(head, staged or old.staged, old.old, old.new)
        if old is None and key in (state.overlay or ()):
            # This unit of work has deleted it before.
            old = self._load(key)
        return Draft(head, staged, None if old is None else old.stamp, old is None)

    def _apply(self, overlay: dict[str, Any]) -> None:
        pairs = self._directory
        if pairs is not self._locked:
            raise StoreError(f"{self!r} was disconnected in the middle of a transaction")
        digests: list[str] = []
        try:
            try:
                self._change(pairs, overlay, digests)
            finally:
                for name in digests:
                    if not pairs.holds(name):
                        unlink(f"{self.path}/{name}.key")
        except OSError as error:
            raise _store_error(error) from error

    def _change(self, pairs: PairDirectory, overlay: dict[str, Any], digests: list[str]) -> None:
        if len(overlay) == 1:
            [(key, draft)] = overlay.items()
            if is_plain(key) and (draft is not None or self._load(key) is not None):
                # Nearly always. The rest does the same, in more steps.
                action = "delete" if draft is None else "set" if draft.new else "update"
                changes = [(key, action)]
                self._before_commit(changes)
                if draft is None:
                    pairs.remove(key)
                else:
                    pairs.replace(key, draft)
                self._after_commit(changes)
                return
        drafts: dict[str, Draft] = {}
        removals: list[str] = []
        changes = []
        for key, draft in overlay.items():
            if draft is None:
                names = self._names_of(key)
                if names:
                    removals += names
                    changes.append((key, "delete"))
                    digests += filter(is_digest, names)
                continue
            name = self._name(key)
            if name[:3] == "%%%" and is_digest(name):
                digests.append(name)
                if self._key(name) != key:
                    pairs.write_new(f"{name}.key", key.encode())
            drafts[name] = draft
            changes.append((key, "set" if draft.new else "update"))
        if not changes:
            return
        self._before_commit(changes)
        if len(drafts) + len(removals) > 1:
            pairs.commit(drafts, removals)
        elif removals:
            pairs.remove(removals[0])
        else:
            pairs.replace(*drafts.popitem())
        self._after_commit(changes)

    def _clean(self) -> None:
        staged = self._state.staged
        # A signal handler that writes, or an interrupt, may come in between.
        done = staged.copy()
        for each in done:
            each.remove()
        del staged[: len(done)]

    # What a subclass may have its own way for

    def _make_directory(self) -> PairDirectory:
        """Return the directory of pairs, with its writer lock and its session."""
        return PairDirectory(self.path, self._durability == "power")

    def _before_commit(self, changes: list[tuple[str, str]]) -> None:
        """Called under the writer lock just before keys change; if it raises, nothing does.

        `changes` are keys and what becomes of them as seen from outside: 'set' (a new key), 'update'
        or 'delete'.
        """

    def _after_commit(self, changes: list[tuple[str, str]]) -> None:
        """Called under the writer lock just after keys have changed; the change stays whatever it raises.

        It is not called where the process died in between, or the commit failed.
        """


def _store_error(error: OSError) -> StoreError:
    return error if isinstance(error, StoreError) else from_os_error(error)
