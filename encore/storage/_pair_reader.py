"""Reading pairs of files, ``<name>.data`` and ``<name>.metadata``, while others change them.

Why what is read belongs together is said in _pair_directory.py.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISREG

from ._metadata_files import may_contain, parse, stamps_of
from ._posix import READ, only_missing, read_file
from .base_store import Head
from .errors import StoreError
from .file_value import OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: Name -> temporary data, temporary metadata, whether the pair is deleted.
    Journal = dict[str, tuple[str | None, str | None, bool]]

DATA, METADATA = ".data", ".metadata"
FOLDER, JOURNAL = ".FStmp", ".FSjournal"

# After so many turns a journal is not being carried out but was left.
_LEFT = 100

# Enough for millions of keys in one transaction.
_LARGEST_JOURNAL = 1 << 30

# NAME_MAX.
_LONGEST = 255

_UNREAD: Any = object()


class Pair(Head):
    """A pair as it was found; its metadata are taken apart when they are asked for."""

    __slots__ = ("_parsed", "status", "text")

    def __init__(
        self, text: bytes, status: os.stat_result, created: float, modified: float
    ) -> None:
        self.text = text
        self.status = status
        self.created = created
        self.modified = modified
        self._parsed: Any = _UNREAD

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.status.st_size

    @property
    def stamp(self) -> int:
        """The mtime of the data, in nanoseconds."""
        return self.status.st_mtime_ns

    @property
    def metadata(self) -> dict[str, Any] | None:  # type: ignore[override]
        metadata: dict[str, Any] | None = self._parsed
        if metadata is _UNREAD:
            metadata = self._parsed = parse(self.text)
        return metadata

    def _replace(self, **changes: Any) -> Head:
        return Head(self.metadata, self.created, self.modified, self.size)._replace(**changes)


class PairReader:
    """The pairs in one directory, to be read. Any thread may use it.

    Parameters
    ----------
    root : str
        An absolute path.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = f"{root}/{FOLDER}"
        self._journal = f"{root}/{JOURNAL}"
        self._prefix = f"{root}/"
        self._pending_prefix = f"{self.folder}/p-"

    def look(self, name: str) -> Pair | None:
        """Return a pair, None if there is none."""
        if not os.access(self._journal, os.F_OK):
            pair = self._look_directly(name)
            if pair is None:
                self._check_root()
            if pair is not _UNREAD:
                return pair
        return self._find(name, False)[0]

    def open(self, name: str, small: int = -1) -> tuple[Pair, OpenFile | bytes] | None:
        """Return a pair and its open data, or the bytes if there are no more than `small`; None if there is no pair."""
        if not os.access(self._journal, os.F_OK):
            found = self._open_directly(name, small)
            if found is None:
                self._check_root()
            if found is not _UNREAD:
                return found
        pair, file = self._find(name, True)
        if pair is None:
            return None
        assert file is not None
        return pair, file if file.size > small else file.read_all()

    def holds(self, name: str) -> bool:
        """Whether there is a pair."""
        if not os.access(self._journal, os.F_OK):
            try:
                if S_ISREG(os.stat(f"{self._prefix}{name}{DATA}").st_mode) and S_ISREG(
                    os.stat(f"{self._prefix}{name}{METADATA}").st_mode
                ):
                    return True
            except OSError as error:
                only_missing(error)
        return self.look(name) is not None

    def _check_root(self) -> None:
        """Raise FileNotFoundError if there are no pairs because the directory itself is gone."""
        os.stat(self.root)

    # The ways of nearly always: no journal, and stamps that are equal

    def _look_directly(self, name: str) -> Pair | None:
        """Return a pair whose stamps are equal, None if it has no data, _UNREAD if it takes a closer look."""
        try:
            status = os.stat(f"{self._prefix}{name}{DATA}")
        except FileNotFoundError:
            return None
        except OSError:
            return _UNREAD  # type: ignore[no-any-return]
        text = read_file(f"{self._prefix}{name}{METADATA}")
        if text is None or not S_ISREG(status.st_mode):
            return _UNREAD  # type: ignore[no-any-return]
        return _pair(text, status) or self._planted(name, text, status)

    def _open_directly(self, name: str, small: int) -> tuple[Pair, OpenFile | bytes] | None:
        try:
            fd = os.open(f"{self._prefix}{name}{DATA}", READ)
        except FileNotFoundError:
            return None
        except OSError:
            return _UNREAD  # type: ignore[no-any-return]
        try:
            status = os.fstat(fd)
            text = read_file(f"{self._prefix}{name}{METADATA}")
            if text is None or not S_ISREG(status.st_mode):
                return _UNREAD  # type: ignore[no-any-return]
            pair = _pair(text, status) or self._planted(name, text, status)
            if pair is _UNREAD:
                return _UNREAD  # type: ignore[return-value]
            size = status.st_size
            if size > small:
                # First: an interrupt in between must not close it twice.
                kept, fd = fd, -1
                return pair, OpenFile(kept, size)
            data = os.read(fd, size)
            while len(data) < size and (more := os.read(fd, size - len(data))):
                data += more
            return pair, data
        finally:
            if fd >= 0:
                os.close(fd)

    def _planted(self, name: str, text: bytes, status: os.stat_result) -> Pair:
        """Return a pair that another program has put there, _UNREAD if it may be another one."""
        # In this order: where neither is there now, what they announced has been done, and shows.
        if os.access(f"{self._pending_prefix}{name}", os.F_OK) or os.access(self._journal, os.F_OK):
            return _UNREAD  # type: ignore[no-any-return]
        try:
            fd = os.open(f"{self._prefix}{name}{METADATA}", READ)
        except OSError:
            return _UNREAD  # type: ignore[no-any-return]
        try:
            written = os.fstat(fd)
            # A byte more: it may have become longer.
            again = os.read(fd, len(text) + 1)
        except OSError:
            return _UNREAD  # type: ignore[no-any-return]
        finally:
            os.close(fd)
        same = again == text and _same(f"{self._prefix}{name}{DATA}", status)
        # A FIFO can be read, too.
        if not same or not S_ISREG(written.st_mode):
            return _UNREAD  # type: ignore[no-any-return]
        return _foreign(text, status, written)

    # The way of the rest

    def _find(self, name: str, keep: bool) -> tuple[Pair | None, OpenFile | None]:
        data_path, metadata_path = (f"{self._prefix}{name}{suffix}" for suffix in (DATA, METADATA))
        # Every turn that does not come to an end was overtaken by a writer that got something done.
        for turn in range(1000):
            entry = self.read_journal().get(name)
            if entry is not None and entry[2]:
                return None, None
            file = status = text = None
            data_from, text_from = data_path, metadata_path
            if entry is not None:
                if entry[0] is not None:
                    data_from = f"{self.folder}/{entry[0]}"
                    file, status = _regular(data_from, keep)
                text_from = f"{self.folder}/{entry[1]}"
                text = read_file(text_from)
            if status is None:
                data_from = data_path
                file, status = _regular(data_from, keep)
            if status is None:
                if entry is None:
                    return None, None
                # Either it was renamed just now, or somebody has meddled with a journal.
                if turn > _LEFT:
                    return None, None
                continue
            if text is None:
                text_from = metadata_path
                text = read_file(text_from)
            pair = _pair(text, status)
            if pair is None:
                pair = _pair(read_file(f"{self._pending_prefix}{name}"), status)
            if pair is not None:
                return pair, file
            # Not ours, or overtaken: both halves must still be what they were, and nothing be
            # carried out; or a journal has been left that somebody meddled with.
            again = read_file(text_from)
            if (
                again == text
                and _same(data_from, status)
                and (turn > _LEFT or not self.has_journal())
            ):
                _, written = _regular(text_from, False)
                if text is None or written is None:
                    # A FIFO, say; or it was removed just now.
                    return None, None
                return _foreign(text, status, written), file
        raise StoreError(f"{data_path!r} changes faster than it can be read")

    # All of them

    def names(self, *prefixes: str) -> list[str]:
        """Return the names of all pairs there are now; with `prefixes`, perhaps only those that begin with one."""
        for _ in range(100):
            journal = self.read_journal()
            try:
                files = self._files(prefixes, os.DirEntry.is_file)
            except OSError:
                files = self._files(prefixes, _is_file)
            # Part of it may have been carried out, part not, when we came by.
            if journal == self.read_journal():
                break
        data = {file[:-5] for file in files if file[-5:] == DATA and file[:3] != ".FS"}
        metadata = {file[:-9] for file in files if file[-9:] == METADATA and file[:3] != ".FS"}
        both = data & metadata
        if len(both) < max(len(data), len(metadata)):
            # Data without metadata may be in the middle of step 4; and some file systems pass over
            # a name that is being renamed.
            both.update(filter(self._seems_there, data ^ metadata))
        for name, what in journal.items():
            if what[2]:
                both.discard(name)
            else:
                both.add(name)
        both.discard("")
        return list(both)

    def _seems_there(self, name: str) -> bool:
        try:
            return self.holds(name)
        except OSError as error:
            _only_this(error)
            return False

    def _files(
        self, prefixes: tuple[str, ...], is_file: Callable[[os.DirEntry[str]], bool]
    ) -> list[str]:
        with os.scandir(self.root) as entries:
            if prefixes:
                return [
                    entry.name
                    for entry in entries
                    if entry.name.startswith(prefixes) and is_file(entry)
                ]
            return [entry.name for entry in filter(is_file, entries)]

    def unsettled(self) -> set[str]:
        """Return all names whose metadata file may not be what counts, because of a change made before now."""
        names = set(self.read_journal())
        try:
            names.update(file[2:] for file in os.listdir(self.folder) if file[:2] == "p-")
        except FileNotFoundError:
            pass
        return names

    def metadata(self, name: str, unsettled: bool, needle: bytes = b"") -> dict[str, Any] | None:
        """Return the metadata of a pair of which names() has found both files.

        None if they are damaged, gone, or cannot be read: one that is hides no other. Or if they lack
        the needle (see needle_of()), which is known without parsing them.
        """
        try:
            if not unsettled:
                # Whether they belong to these data does not matter: if not, they are being changed now.
                text = read_file(f"{self._prefix}{name}{METADATA}")
                if text is not None:
                    if not may_contain(text, needle):
                        return None
                    if (metadata := parse(text)) is not None:
                        return metadata
            pair = self.look(name)
            return None if pair is None else pair.metadata
        except OSError as error:
            _only_this(error)
            return None

    # The journal

    def has_journal(self) -> bool:
        """Whether a commit was not carried out to its end."""
        return os.path.lexists(self._journal)

    def read_journal(self) -> Journal:
        """Return what is being carried out; nothing if it is damaged."""
        # Nearly always there is none, and this says so without an exception.
        return (self._load_journal() or {}) if os.access(self._journal, os.F_OK) else {}

    def _load_journal(self) -> Journal | None:
        """Return what the journal says, None if it is damaged."""
        return parse_journal(read_file(self._journal, _LARGEST_JOURNAL) or b"")


def parse_journal(text: bytes) -> Journal | None:
    """Return what a journal says, None if it is damaged.

    It is renamed into its place whole; so the power failed, and without `durable`; or a stranger wrote
    it, who must not have us touch anything outside the directory.
    """
    import json

    try:
        journal: Journal = {}
        for name, data, metadata, gone in json.loads(text):
            if gone is True:
                fits = data is metadata is None
            else:
                fits = gone is False and _is_temporary(metadata)
                fits = fits and (data is None or _is_temporary(data))
            if not fits or not _is_file_name(name, METADATA):
                return None
            journal[name] = data, metadata, gone
        return journal
    except (TypeError, ValueError, RecursionError, MemoryError):
        return None


def _is_file_name(name: object, suffix: str = "") -> bool:
    return (
        isinstance(name, str)
        and name != ""
        and name[:3] != ".FS"
        and "/" not in name
        and "\0" not in name
        and len(os.fsencode(name + suffix)) <= _LONGEST
    )


def _is_temporary(file: object) -> bool:
    """Whether a file may be named ``<session>-<number>``."""
    if not isinstance(file, str) or file[:2] in ("p-", "g-"):
        return False
    session, _, number = file.rpartition("-")
    return session != "" and number.isdecimal() and _is_file_name(file)


def _only_this(error: OSError) -> None:
    """Raise the error if it does not say something about one file, but about this process."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def _regular(path: str, keep: bool) -> tuple[OpenFile | None, os.stat_result | None]:
    """Return a file, open if it is to be kept, and its status; None and None if there is none."""
    try:
        if not keep:
            status = os.stat(path)
            return None, status if S_ISREG(status.st_mode) else None
        fd = os.open(path, READ)
    except OSError as error:
        only_missing(error)
        return None, None
    status = os.fstat(fd)
    file = OpenFile(fd, status.st_size)
    return (file, status) if S_ISREG(status.st_mode) else (None, None)


def _pair(text: bytes | None, status: os.stat_result) -> Pair | None:
    """Return the pair of metadata and data that belong together, None if they do not."""
    stamps = None if text is None else stamps_of(text)
    if text is None or stamps is None or stamps[2] != status.st_mtime_ns:
        return None
    return Pair(text, status, stamps[0] / 1e6, stamps[1] / 1e6)


def _foreign(text: bytes, status: os.stat_result, written: os.stat_result) -> Pair:
    """Return the pair of data and metadata that do not say that they belong together."""
    stamps = stamps_of(text)
    first, last = sorted((status.st_mtime, written.st_mtime))
    # Whole microseconds, as in the trailer that the pair will have when it is written.
    created = round(first * 1e6) / 1e6 if stamps is None else stamps[0] / 1e6
    return Pair(text, status, created, round(last * 1e6) / 1e6)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # A link to itself, say.
        return False


def _same(path: str, status: os.stat_result) -> bool:
    try:
        now = os.stat(path)
    except OSError as error:
        only_missing(error)
        return False
    return (now.st_ino, now.st_mtime_ns, now.st_size) == (
        status.st_ino,
        status.st_mtime_ns,
        status.st_size,
    )
