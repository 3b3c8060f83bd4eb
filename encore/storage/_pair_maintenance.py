"""What check() and repair() do with a directory of pairs.

Each problem comes with what mends it, so that both find the same. check() takes no lock and writes nothing:
what it finds it looks at a second time, and tells what has not changed in between. repair() has
the writer lock, which keeps out those who know of it; what others have changed within the last
seconds may be half of what they are going to do, and is left.

No byte that may be all that is left of a value is ever removed: what can be used by nobody is put
aside into ``.FSlost``.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from ._filenames import is_digest
from ._metadata_files import stamps_of
from ._pair_directory import LOST, REFUSED
from ._pair_index_check import damage, discard
from ._pair_index_file import INDEX
from ._pair_reader import DATA, FOLDER, JOURNAL, METADATA
from ._pair_writer import Draft
from ._posix import READ, read_file, unlink, write_file
from ._problems import Problem, findings_of, some_of
from ._sessions import ALIVE
from .base_store import Head
from .errors import StoreError, os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .filesystem_store import FileSystemStore
    from .maintenance import Finding

    # What looks at it again, and what there was.
    Found = tuple[Callable[[], "Problem | None"], "Problem"]

KEY = ".key"

# Seconds for which what another program has changed is left alone.
_YOUNG = 10.0

# Nothing but the time tells data that were copied from data that were changed.
_OTHER_TIME = (
    "the data have another time than when they were written: the files were copied, or another "
    "program has changed the data"
)

_CHUNK = 1 << 20

# The log of a LockingFileSystemStore, and the older parts of it.
_LOG = "__log__.txt"

# What is in FOLDER for good begins with these.
_LASTING = ("lock", INDEX)


def check(store: FileSystemStore) -> list[Finding]:
    """As in the contract."""
    with os_errors():
        look = Inspection(store)
        # What others are changing just now looks different a moment later.
        return findings_of(
            (problem, "")
            for again, problem in [*look.unfinished(), *look.lasting()]
            if (now := again()) is not None and now.is_like(problem)
        )


def repair(store: FileSystemStore) -> list[Finding]:
    """As FileSystemStore.repair()."""
    if store._state.unit is not None:
        raise StoreError(f"{store!r} cannot be repaired inside a transaction")
    findings: list[Finding] = []
    with os_errors():
        # Before the lock is taken: who takes it for the first time tidies up.
        look = Inspection(store)
        unfinished = look.begun()
        with store.transaction("repair"):
            directory = store._directory
            seen = {(problem.key, problem.text) for problem in unfinished}
            look = Inspection(store, has_lock=True)
            unfinished += [
                problem for problem in look.begun() if (problem.key, problem.text) not in seen
            ]
            directory.sweep()
            left = {(problem.key, problem.text) for problem in look.begun()}
            for problem in unfinished:
                outcome = "left" if (problem.key, problem.text) in left else problem.outcome
                findings.append(problem.finding(outcome))
            # All of them first: what mends one may be in the way of finding others.
            findings += findings_of(
                (problem, "left" if problem.mend is None else problem.mend(problem))
                for _, problem in list(look.lasting())
            )
    return findings


class Inspection:
    """Looks for what is wrong in the directory of a store.

    Parameters
    ----------
    store : FileSystemStore
    has_lock : bool
        Whether this thread has the writer lock.
    """

    def __init__(self, store: FileSystemStore, has_lock: bool = False) -> None:
        self._store = store
        self._directory = store._directory
        self._root = store.path
        self._folder = f"{store.path}/{FOLDER}"
        self._has_lock = has_lock

    # What writers have begun

    def unfinished(self) -> Iterator[Found]:
        """Return what writers have left that have died; the next one that takes the lock tidies up."""
        problem = self._journal()
        if problem is not None:
            yield self._journal, problem
        for file in self._folder_files():
            if file[:2] in ("p-", "g-"):
                problem = self._half_done(file)
                if problem is not None:
                    yield _partial(self._half_done, file), problem

    def begun(self) -> list[Problem]:
        """Return what is unfinished, and the temporary files of the dead: these are no damage, but swept."""
        dead = self._dead()
        problems = [problem for _, problem in self.unfinished()]
        return problems if dead is None else [dead, *problems]

    def _folder_files(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _is_somebody_writing(self) -> bool:
        return not self._has_lock and not _can_be_locked(f"{self._folder}/lock")

    def _journal(self) -> Problem | None:
        if not self._directory.has_journal() or self._is_somebody_writing():
            return None
        evidence = _evidence(f"{self._root}/{JOURNAL}")
        if self._directory.read_journal():
            return Problem(None, "a transaction was not carried out to its end", evidence=evidence)
        text = "the journal of a transaction is damaged"
        return Problem(None, text, evidence=evidence, outcome="lost")

    def _half_done(self, file: str) -> Problem | None:
        evidence = _evidence(f"{self._folder}/{file}")
        if evidence is None or self._is_somebody_writing():
            return None
        what = "a change" if file[:2] == "p-" else "a deletion"
        text = f"{what} was not carried out to its end"
        return Problem(self._store._key(file[2:]), text, evidence=evidence)

    def _dead(self) -> Problem | None:
        """Return how many temporary files there are of sessions that are over."""
        files = self._folder_files()
        known = self._directory.read_journal()
        in_use = {part for entry in known.values() for part in entry[:2]}
        over: dict[str, bool] = {}
        count = 0
        for file in files:
            session, separator, number = file.rpartition("-")
            if file.endswith(ALIVE):
                session = file[: -len(ALIVE)]
            elif not separator or not number.isdecimal() or file[:2] in ("p-", "g-"):
                continue
            if session not in over:
                over[session] = self._is_over(session)
            count += over[session] and file not in in_use
        if not count:
            return None
        files_were = "1 temporary file was" if count == 1 else f"{count} temporary files were"
        return Problem(None, f"{files_were} left by writers that died")

    def _is_over(self, session: str) -> bool:
        from ._owner import Owner

        path = f"{self._folder}/{session}{ALIVE}"
        owner = Owner.parse(os.path.basename(path))
        if owner is not None and os.path.lexists(path):
            # One on another computer may live.
            return owner.has_died() is True
        return not os.path.lexists(path) or _can_be_locked(path)

    # What is there for good

    def lasting(self) -> Iterator[Found]:
        """Return what is wrong with pairs, and what is no part of the store."""
        names, keys, foreign = self._sorted()
        for name in names:
            problem = self._pair(name)
            if problem is not None:
                yield _partial(self._pair, name), problem
        for name in keys:
            problem = self._key_file(name)
            if problem is not None:
                yield _partial(self._key_file, name), problem
        for name_of_wrong, text in damage(self._directory):
            key = None if name_of_wrong is None else self._store._key(name_of_wrong)
            problem = Problem(key, text, self._discard_index)
            yield _partial(_same, problem), problem
        yield from self._refused()
        foreign = [file for file in foreign if os.path.lexists(f"{self._root}/{file}")]
        if foreign:
            some = some_of(foreign)
            is_no_part = "file is" if len(foreign) == 1 else "files are"
            problem = Problem(None, f"{len(foreign)} {is_no_part} no part of the store: {some}")
            yield _partial(_same, problem), problem

    def _refused(self) -> Iterator[Found]:
        """Return what was to be part of a transaction, and was put aside as the system refused it."""
        try:
            files = sorted(os.listdir(f"{self._root}/{LOST}"))
        except (FileNotFoundError, NotADirectoryError):
            return
        for file in files:
            number, _, rest = file.partition(REFUSED)
            name, dot, suffix = rest.rpartition(".")
            if number.rstrip("-0123456789") or f"{dot}{suffix}" not in (DATA, METADATA):
                continue
            text = f"a change by a transaction was refused; what there is of it is in {f'{LOST}/{file}'!r}"
            problem = Problem(self._store._key(name), text)
            yield _partial(_same, problem), problem

    def _sorted(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of pairs and halves, those of files of keys, and foreign files."""
        names, keys, foreign = set(), [], []
        own = {self._store.magic_fname, FOLDER, JOURNAL, LOST}
        for file in sorted(os.listdir(self._root)):
            if file in own or file == _LOG or file.startswith(f"{_LOG}."):
                continue
            if file[:3] == ".FS":
                foreign.append(file)
            elif file.endswith(DATA) and file != DATA:
                names.add(file[: -len(DATA)])
            elif file.endswith(METADATA) and file != METADATA:
                names.add(file[: -len(METADATA)])
            elif file.endswith(KEY) and is_digest(file[: -len(KEY)]):
                keys.append(file[: -len(KEY)])
            else:
                foreign.append(file)
        for file in self._folder_files():
            _, separator, number = file.rpartition("-")
            is_temporary = separator and number.isdecimal()
            if not (
                file.startswith(_LASTING)
                or file.endswith(ALIVE)
                or file[:2] in ("p-", "g-")
                or is_temporary
            ):
                foreign.append(f"{FOLDER}/{file}")
        return sorted(names), keys, foreign

    def _pair(self, name: str) -> Problem | None:
        """Return what is wrong with a pair, or half a pair."""
        key = self._store._key(name)
        evidence = self._evidence(name)
        try:
            pair = self._directory.look(name)
            if pair is None:
                return self._half(name, key, evidence)
            self._read_data(name)
        except OSError as error:
            return Problem(key, f"its files cannot be read: {error.strerror}", evidence=evidence)
        except StoreError:
            # It changes all the time.
            return None
        if key is None:
            return Problem(None, f"{name + DATA!r} belongs to no key", evidence=evidence)
        if self._store._name(key) != name:
            text = f"what {name + DATA!r} holds is hidden by another pair of this key"
            return Problem(key, text, evidence=evidence)
        if pair.metadata is None:
            return Problem(key, "the metadata are damaged", self._reset, evidence, name=name)
        stamps = stamps_of(pair.text)
        if stamps is not None and stamps[2] != pair.stamp:
            return Problem(key, _OTHER_TIME, self._stamp, evidence, name=name, is_common=True)
        return None

    def _half(self, name: str, key: str | None, evidence: list[Any]) -> Problem | None:
        if os.path.lexists(f"{self._folder}/g-{name}") or name in self._directory.read_journal():
            # Known already.
            return None
        data, metadata = evidence
        if data is None and metadata is None:
            return None
        for file, status in ((name + DATA, data), (name + METADATA, metadata)):
            if status is not None and not S_ISREG(status[0]):
                return Problem(key, f"{file!r} is something else than a file", evidence=evidence)
        if metadata is None:
            if key is None:
                return Problem(None, f"{name + DATA!r} belongs to no key", evidence=evidence)
            return Problem(key, "it has no metadata", self._adopt, evidence, name=name)
        if data is not None:
            # Just now it has become a pair.
            return None
        if key is None:
            return Problem(None, f"{name + METADATA!r} belongs to no key", evidence=evidence)
        return Problem(key, "it has no data", self._put_aside, evidence, name=name)

    def _read_data(self, name: str) -> None:
        try:
            fd = os.open(f"{self._root}/{name}{DATA}", READ)
        except FileNotFoundError:
            return
        try:
            while os.read(fd, _CHUNK):
                pass
        finally:
            os.close(fd)

    def _key_file(self, name: str) -> Problem | None:
        path = f"{self._root}/{name}{KEY}"
        evidence = _evidence(path)
        if evidence is None or self._evidence(name) != [None, None] or self._directory.holds(name):
            return None
        if self._is_somebody_writing():
            return None
        text = f"{name + KEY!r} belongs to no pair"
        mend = None if self._store._key(name) is None else self._remove_key_file
        return Problem(None, text, mend, evidence, name=name)

    # Mending

    def _is_young(self, problem: Problem) -> bool:
        """Whether another program may be in the middle of changing it."""
        limit = (time.time() - _YOUNG) * 1e9
        evidence: Any = problem.evidence
        if any(status is not None and status[-1] > limit for status in evidence):
            problem.text += "; changed only just now"
            return True
        return False

    def _adopt(self, problem: Problem) -> str:
        """Make data without metadata a pair: they may be all that is left, and can be deleted."""
        if self._is_young(problem):
            return "left"
        key, name = problem.key, problem.name
        assert key is not None
        if self._store.exists(key):
            problem.text += ", and there is a pair of this key"
            return "left"
        temporary = self._directory._temporary()
        try:
            write_file(temporary, b"{}", self._directory.durable)
            # Not renamed: whoever puts the metadata there now is right.
            os.link(temporary, f"{self._root}/{name}{METADATA}")
        except FileExistsError:
            return "left"
        finally:
            unlink(temporary)
        self._store.set_metadata(key, {})
        problem.text += "; they are empty now"
        return "lost"

    def _reset(self, problem: Problem) -> str:
        """Give data empty metadata; the damaged ones are kept aside."""
        if self._is_young(problem):
            return "left"
        assert problem.key is not None
        kept = self._keep(problem.name + METADATA)
        self._store.set_metadata(problem.key, {})
        problem.text += f"; they are in {kept!r}, and are empty now"
        return "lost"

    def _put_aside(self, problem: Problem) -> str:
        if self._is_young(problem):
            return "left"
        file = problem.name + METADATA
        kept = self._keep(file)
        os.unlink(f"{self._root}/{file}")
        self._directory._sync(self._root)
        problem.text += f"; its metadata are in {kept!r}"
        return "lost"

    def _keep(self, file: str) -> str:
        """Copy a file to where nobody looks for pairs; return where it is."""
        text = read_file(f"{self._root}/{file}")
        kept = self._directory.lost(file)
        if text:
            write_file(kept, text, self._directory.durable)
        else:
            # It is empty, or too large to be read.
            os.link(f"{self._root}/{file}", kept, follow_symlinks=False)
        self._directory._sync(f"{self._root}/{LOST}")
        return os.path.relpath(kept, self._root)

    def _stamp(self, problem: Problem) -> str:
        """Have the metadata say that they belong to these data; everything else stays."""
        if self._is_young(problem):
            return "left"
        name = problem.name
        pair = self._directory.settle(name)
        if pair is None or pair.metadata is None:
            return "left"
        head = Head(pair.metadata, pair.created, pair.modified, pair.size)
        self._directory.replace(name, Draft(head, None, pair.stamp, False))
        return "mended"

    def _remove_key_file(self, problem: Problem) -> str:
        unlink(f"{self._root}/{problem.name}{KEY}")
        return "mended"

    def _discard_index(self, problem: Problem) -> str:
        discard(self._directory)
        return "mended"

    def _evidence(self, name: str) -> list[Any]:
        return [_evidence(f"{self._root}/{name}{suffix}") for suffix in (DATA, METADATA)]


def _partial(
    function: Callable[[Any], Problem | None], argument: Any
) -> Callable[[], Problem | None]:
    return lambda: function(argument)


def _same(problem: Problem) -> Problem:
    return problem


def _evidence(path: str) -> tuple[int, ...] | None:
    """Return what is different after a change of a file, None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        status = os.lstat(path)
    return (
        status.st_mode,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _can_be_locked(path: str) -> bool:
    """Whether nobody has a lock (flock) on a file; it is not written."""
    import fcntl

    try:
        fd = os.open(path, READ)
    except OSError as error:
        import errno

        # That of another user may be locked.
        return error.errno == errno.ENOENT
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    finally:
        os.close(fd)
    return True
