"""A store in the files of one directory: ``<key>.data`` and ``<key>.metadata``.

The directory is that of EnCore 0.8. Other programs may read, put, change and remove such pairs of
files at any time. How a pair changes as one is said in _pair_directory.py, how keys become file
names in _filenames.py.
"""

from __future__ import annotations

import os
import time
from _thread import RLock

from ._streams import ForeignErrors
from .base_store import Head, no_positional_manager
from .errors import StoreError, from_os_error, os_errors
from .overlay_store import LOCK_TIMEOUT, OverlayState, OverlayStore
from .string_value import StringValue
from .value import SourceValue, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from ._filenames import decode, encode, is_digest, is_plain, may_be_old
    from ._pair_directory import (
        DATA,
        Pair,
        PairDirectory,
        Replacement,
        Staged,
        Stamps,
        read_file,
        unlink,
    )
    from .file_value import LateFile, OpenFile

__all__ = ["FileSystemStore", "FileSystemStoreError", "init_shared_store"]

MAGIC = ".FSStore"
VERSION = 1

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
    global DATA, PairDirectory, Replacement, Stamps, read_file, unlink  # noqa: PLW0603
    global LateFile, OpenFile  # noqa: PLW0603
    from ._filenames import decode, encode, is_digest, is_plain, may_be_old
    from ._pair_directory import DATA, PairDirectory, Replacement, Stamps, read_file, unlink
    from .file_value import LateFile, OpenFile

    _loaded = True


class FileSystemStoreError(StoreError):
    """A directory is no file system store."""


def init_shared_store(path: str | os.PathLike[str], magic_fname: str = MAGIC) -> None:
    """Make a directory a file system store; harmless if it is one.

    Parameters
    ----------
    path : str or PathLike
        Made if it does not exist.
    magic_fname : str
        Name of the file that marks it.
    """
    root = _absolute(path)
    magic = os.path.join(root, _check_magic(magic_fname))
    _load()
    with os_errors():
        os.makedirs(root, exist_ok=True)
        if os.path.exists(magic):
            return
        temporary = os.path.join(root, f".FS{os.urandom(6).hex()}")
        try:
            with open(temporary, "x", encoding="ascii") as file:
                file.write(f"__version__ = {VERSION}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, magic)
        except BaseException:
            unlink(temporary)
            raise
        folder = os.open(root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _absolute(path: str | os.PathLike[str]) -> str:
    no_positional_manager(path)
    name = os.fsdecode(os.fspath(path))
    if not name:
        raise ValueError("the path of a file system store is not empty")
    return os.path.abspath(name)


def _check_magic(magic_fname: str) -> str:
    if not isinstance(magic_fname, str):
        raise TypeError(f"magic_fname is a str, not {type(magic_fname).__name__}: {magic_fname!r}")
    if (
        not magic_fname
        or magic_fname in (".", "..")
        or os.path.basename(magic_fname) != magic_fname
    ):
        raise ValueError(f"magic_fname is the name of a file in the directory, not {magic_fname!r}")
    return magic_fname


class _Record:
    """A pair, or what it is to become."""

    __slots__ = ("head", "staged", "stamp")

    def __init__(self, head: Head, staged: Staged | None, stamp: int) -> None:
        self.head = head
        #: New data; None: those that are there.
        self.staged = staged
        self.stamp = stamp


class _State(OverlayState):
    staged: list[Staged] | None = None


class FileSystemStore(OverlayStore):
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

    Raises
    ------
    FileSystemStoreError
        If the path does not exist, or has no such file.

    Notes
    -----
    It needs a local file system with POSIX semantics: atomic rename and flock().
    """

    _transient = OverlayStore._transient | {"_mutex", "_pairs", "_locked", "_folds"}
    _state: _State

    def __init__(
        self,
        path: str | os.PathLike[str],
        magic_fname: str = MAGIC,
        *,
        event_manager: BaseEventManager | None = None,
        durability: str = "power",
    ) -> None:
        self.path = _absolute(path)
        self.magic_fname = _check_magic(magic_fname)
        if durability not in ("power", "process"):
            raise ValueError(f"durability is 'power' or 'process', not {durability!r}")
        self._durability = durability
        super().__init__(event_manager=event_manager)
        self._check_magic_file()

    def _prepare(self) -> None:
        _load()
        super()._prepare()
        self._state = _State()
        # Re-entrant only because such a lock knows whether this thread holds it.
        self._mutex = RLock()
        self._pairs: PairDirectory | None = None
        #: Where the thread that has the mutex holds the lock of the directory.
        self._locked: PairDirectory | None = None
        self._folds = False

    def _forked(self) -> None:
        super()._forked()
        self._state = _State()
        self._mutex = RLock()
        for pairs in {self._pairs, self._locked}:
            if pairs is not None:
                pairs.forget()
        self._locked = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def info(self) -> dict[str, Any]:
        return {**super().info(), "durable": self._durability, "streaming": True, "path": self.path}

    def _check_magic_file(self) -> None:
        if not os.path.isdir(self.path):
            raise FileSystemStoreError(f"there is no directory {self.path!r}")
        try:
            magic = read_file(os.path.join(self.path, self.magic_fname))
        except OSError as error:
            raise FileSystemStoreError(f"{self.path!r} cannot be read: {error.strerror}") from error
        if magic is None:
            raise FileSystemStoreError(
                f"{self.path!r} is no file system store: it has no {self.magic_fname!r} (see init_shared_store)"
            )
        name, _, version = magic[:1000].decode(errors="replace").partition("=")
        if name.strip() == "__version__" and version.strip().isdecimal() and int(version) > VERSION:
            raise FileSystemStoreError(
                f"{self.path!r} was made by a newer encore: version {version.strip()}"
            )

    # Life cycle

    def _open(self, credentials: Any) -> None:
        self._check_magic_file()
        self._pairs = PairDirectory(self.path, self._durability == "power")
        # Where it finds a file by a name in the other case, a name proves nothing.
        self._folds = os.path.lexists(os.path.join(self.path, self.magic_fname.swapcase()))

    def _close(self) -> None:
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
        name = encode(key)
        if name == key or not may_be_old(key) or self._directory.holds(name):
            return name
        return key if self._directory.holds(key) and self._is_exact(key) else name

    def _is_exact(self, name: str) -> bool:
        return not self._folds or name + DATA in os.listdir(self.path)

    def _names_of(self, key: str) -> list[str]:
        """Return all the names under which a key is there."""
        names = [name for name in {self._name(key), encode(key)} if self._directory.holds(name)]
        if (
            may_be_old(key)
            and key not in names
            and self._directory.holds(key)
            and self._is_exact(key)
        ):
            names.append(key)
        return names

    def _keys_and_names(self) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        for name in self._directory.names():
            key = self._key(name)
            # Where a key is there under its old name too, the new one counts.
            if key is not None and (key not in found or name != key):
                found[key] = name
        return list(found.items())

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

    def _load(self, key: str) -> _Record | None:
        with os_errors(key):
            pair = self._directory.look(self._name(key))
        return None if pair is None else _record(pair)

    def _load_all(self) -> Iterable[tuple[str, _Record]]:
        with os_errors():
            names = self._keys_and_names()
        return self._walk(names)

    def _walk(self, names: list[tuple[str, str]]) -> Iterator[tuple[str, _Record]]:
        for key, name in names:
            try:
                pair = self._directory.look(name)
            except OSError as error:
                import errno

                if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
                    # One that cannot be read hides no other.
                    continue
                raise from_os_error(error, key) from error
            if pair is not None:
                yield key, _record(pair)

    def _load_keys(self) -> Iterable[str]:
        with os_errors():
            return [key for key, _ in self._keys_and_names()]

    def _holds(self, key: str) -> bool:
        overlay = self._state.overlay
        if overlay is not None and key in overlay:
            return overlay[key] is not None
        with os_errors(key):
            return self._directory.holds(self._name(key))

    def _head_of(self, key: str, record: _Record) -> Head:
        return record.head

    def _read(self, key: str) -> Value:
        overlay = self._state.overlay
        record = overlay.get(key) if overlay else None
        with os_errors(key):
            if overlay is not None and key in overlay:
                if record is None:
                    raise KeyError(key)
                if record.staged is not None:
                    assert record.staged.path is not None
                    file = OpenFile(
                        os.open(record.staged.path, os.O_RDONLY | os.O_CLOEXEC), record.staged.size
                    )
                    return self._value(key, record.head, file)
            name = self._name(key)
            found = self._directory.open(name)
            if found is None:
                raise KeyError(key)
            pair, file = found
            return self._value(
                key, _record(pair).head if record is None else record.head, file, pair, name
            )

    def _value(
        self, key: str, head: Head, file: OpenFile, pair: Pair | None = None, name: str = ""
    ) -> Value:
        metadata = head.metadata
        if metadata is None:
            self._damaged(key)
        if file.size <= _SMALL:
            data = file.pread(file.size, 0)
            while len(data) < file.size and (more := file.pread(file.size - len(data), len(data))):
                data += more
            return StringValue.of_normalised(data, metadata, head.created, head.modified)
        source: OpenFile | LateFile = file
        if len(OpenFile.live) > _MAX_OPEN and pair is not None:
            source = LateFile(f"{self.path}/{name}{DATA}", pair.status)
        return SourceValue(source, metadata, head.created, head.modified, head.etag)

    # Writing

    def _lock(self) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT
        # First, since an interrupt may come anywhere; _unlock() undoes what was done.
        self._state.locked = True
        if not self._mutex.acquire(timeout=LOCK_TIMEOUT):
            raise StoreError(f"{self!r} is locked by another thread")
        self._locked = self._directory
        with os_errors():
            self._locked.lock(deadline)

    def _unlock(self) -> None:
        if not self._mutex.acquire(blocking=False):
            # Another thread has it: this one never got it.
            return
        try:
            pairs, self._locked = self._locked, None
            if pairs is not None:
                pairs.unlock()
        finally:
            self._mutex.release()
            try:
                self._mutex.release()
            except RuntimeError:
                # This thread was interrupted before it got it.
                pass

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> Staged:
        foreign = ForeignErrors(chunks)
        try:
            return self._directory.stage(foreign)
        except OSError as error:
            if error is foreign.error:
                raise
            raise from_os_error(error) from error
        finally:
            # Its traceback leads to this frame: a cycle that would keep the last buffer.
            foreign.error = None

    def _discard(self, staged: Staged) -> None:
        if not staged.taken:
            staged.remove()

    def _make(self, key: str, old: _Record | None, staged: Staged | None, head: Head) -> _Record:
        if staged is None and old is None:
            with os_errors(key):
                staged = self._directory.stage(())
        if staged is not None:
            staged.taken = True
            if self._state.staged is None:
                self._state.staged = []
            self._state.staged.append(staged)
            return _Record(head._replace(size=staged.size), staged, staged.stamp)
        assert old is not None
        return _Record(head, old.staged, old.stamp)

    def _apply(self, overlay: dict[str, Any]) -> None:
        pairs = self._directory
        if pairs is not self._locked:
            raise StoreError(f"{self!r} was disconnected in the middle of a transaction")
        names_of_keys: list[str] = []
        replacements, removals = [], []
        with os_errors():
            try:
                for key, record in overlay.items():
                    if record is None:
                        removals += self._names_of(key)
                        continue
                    name = self._name(key)
                    if is_digest(name):
                        names_of_keys.append(name)
                        if self._key(name) != key:
                            pairs.write_new(f"{name}.key", key.encode())
                    replacements.append(self._replacement(name, record))
                names_of_keys += filter(is_digest, removals)
                if len(replacements) == 1 and not removals:
                    pairs.replace(replacements[0])
                elif len(removals) == 1 and not replacements:
                    pairs.remove(removals[0])
                elif replacements or removals:
                    pairs.commit(replacements, removals)
            finally:
                for name in names_of_keys:
                    if not pairs.holds(name):
                        unlink(f"{self.path}/{name}.key")

    @staticmethod
    def _replacement(name: str, record: _Record) -> Replacement:
        head = record.head
        assert head.metadata is not None
        created, modified = (max(0, round(stamp * 1e6)) for stamp in (head.created, head.modified))
        return Replacement(
            name, record.staged, head.metadata, Stamps(created, modified, record.stamp)
        )

    def _clean(self) -> None:
        staged, self._state.staged = self._state.staged, None
        for each in staged or ():
            each.remove()


def _record(pair: Pair) -> _Record:
    return _Record(Head(pair.metadata, pair.created, pair.modified, pair.size), None, pair.stamp)
