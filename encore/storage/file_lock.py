"""Locks that are files, for the processes of all computers that share a directory.

How an exclusive lock works
---------------------------
A lock is ``<name>.lock``, whose content is that of EnCore 0.8: host, process id, user, uid, LOCK.

1. The content is written to ``<name>.lock.<owner>``, a name that says which process it is.
2. link() gives that file its second name, ``<name>.lock``, or fails because somebody has the lock.
   It is one step on every file system that has hard links, NFS included; there its answer may be
   lost, so it is asked whether both names are one file.

The first name is the right to remove the lock. To release it, the owner renames that to
``<name>.lock.<owner>-``, removes ``<name>.lock``, then the renamed file. Others remove a
lock only while they hold another lock, ``<name>.lock.break.lock``, so that they are alone: having
seen again that both names are one file, they rename the first to ``<name>.lock.<owner>~``. If that
fails, the owner has released it meanwhile. If it succeeds, the owner can no longer release
it, and nobody else can remove it: what is removed then is that lock, and no newer one. Who breaks a
lock and is killed leaves a lock that can be broken itself, and a name that says what is to be done.

A lock of EnCore 0.8 has only one name. It is removed in the same way, but for the renaming.

A shared lock is a directory ``<name>.lock`` with a file for each holder, as in EnCore 0.8. It
can be removed only when it is empty, in one step.

Who has died
------------
The owner's process is looked for if it is one of this computer, and it is found to have died at
once. An owner elsewhere gives signs of life, by the time of modification of its file, if it was
asked to (`stale_timeout`). It is taken for dead when there was no new sign for that
long while somebody waited; clocks of different computers are never compared.
"""

from __future__ import annotations

import errno
import os
from itertools import count

from ._heartbeat import heartbeat
from ._lock_breaking import BreakableLock
from ._lock_holders import (
    GONE,
    RELEASING,
    Holder,
    holders_of,
    inode_of,
    remove_if_empty,
    unlink_file,
    write_lock,
    write_note,
)
from ._lock_sign import Sign, is_to_give_way, join, leave
from ._owner import host_name, this_process, user_name
from ._posix import unlink
from .errors import StoreError, from_os_error, os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ._lock_holders import Key
    from ._owner import Owner

    _Self = TypeVar("_Self", bound="_Lock")

__all__ = ["FileLock", "LockError", "SharedFileLock"]

#: This process, and how the names of its holders begin.
_names: tuple[Owner, str] | None = None
_serials = count()


class LockError(StoreError):
    """A lock was to be released that is not held, or could not be acquired by ``with`` in time."""


class _Lock(BreakableLock):
    """What both kinds of locks have in common."""

    def __init__(
        self,
        name: str | os.PathLike[str],
        dir: str | os.PathLike[str] | None = None,
        poll_interval: float = 0.01,
        timeout: float = 0,
        force_timeout: float = 0,
        uid: object = None,
        *,
        stale_timeout: float | None = None,
    ) -> None:
        self.name = os.fsdecode(name)
        if not os.path.basename(self.name):
            raise ValueError(f"the name of a lock ends with the name of a file, not {self.name!r}")
        #: It exists while the lock is held.
        self.full_path = os.path.join(os.fsdecode(dir or ""), self.name) + ".lock"
        # The current directory may be another one by the time it is used.
        super().__init__(os.path.abspath(self.full_path), poll_interval, stale_timeout)
        self.timeout = timeout
        self.force_timeout = force_timeout
        self.uid = uid
        #: The files by which this object holds the lock, and the process that does.
        self._held: list[tuple[int, str]] = []
        self._user: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.full_path!r})"

    def __getstate__(self) -> dict[str, object]:
        # Another process does not hold it.
        return {**self.__dict__, "_held": [], "_signs": {}, "_breaker": None, "_user": None}

    def __enter__(self: _Self) -> _Self:
        taken: list[str] = []
        try:
            with os_errors():
                acquired = self._acquire(self._patience, taken)
            if not acquired:
                raise LockError(f"{self!r} is held by somebody else")
            return self
        except BaseException:
            self._undo(taken)
            raise

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """Wait until the lock is free, and take it.

        Returns
        -------
        bool
            Whether it was acquired: False after `timeout` seconds.

        Raises
        ------
        StoreOSError
            If lock files cannot be written there.
        """
        with os_errors():
            return self._acquire(self._patience, [])

    def wait(self) -> bool:
        """Wait until the lock is free, without taking it.

        Returns
        -------
        bool
            False after `timeout` seconds.
        """
        with os_errors():
            return self._wait(lambda waited: not self._holders(), self._patience, False)

    def locked(self) -> bool:
        """Whether anybody holds the lock who keeps this one from being acquired."""
        with os_errors():
            return not all(self._has_died(holder) for holder in self._holders())

    def acquired(self) -> bool:
        """Whether this object holds the lock, in this process."""
        with os_errors():
            return any(self._is_intact(path) for path in self._mine())

    def release(self) -> None:
        """Release the lock.

        Raises
        ------
        LockError
            If this object does not hold it, or somebody has broken it.
        StoreOSError
            If lock files cannot be removed there; release() can be called again.
        """
        held = self._withdraw()
        if held is None:
            raise LockError(f"{self!r} is not held by this object")
        try:
            intact = self._let_go(held[1])
        except OSError as error:
            # It can be tried again.
            self._held.append(held)
            raise from_os_error(error) from error
        if not intact:
            raise LockError(f"{self!r} was broken by somebody else")

    def force_break(self) -> bool:
        """Remove the lock, whoever holds it, this object included.

        Returns
        -------
        bool
            Whether there was one.
        """
        found = False
        for _ in range(1000):
            with os_errors():
                holders = holders_of(self._path)
                if not holders:
                    return found
                found = True
                broken = [self._break(holder, True) for holder in holders]
            if not any(broken):
                # Its owner is about to release it, or somebody else breaks it.
                self._sleep(self.poll_interval / 16)
        raise LockError(f"{self!r} cannot be broken")

    # Waiting

    @property
    def _patience(self) -> float | None:
        return self.timeout if self.timeout > 0 else None

    def _acquire(self, patience: float | None, taken: list[str]) -> bool:
        """Acquire; `taken` gets the name of each file that is made, in case of an interrupt."""
        try:
            return self._wait(
                lambda waited: not self._gives_way(waited, patience) and self._take(taken),
                patience,
                True,
            )
        except BaseException:
            self._undo(taken)
            raise

    def _wait(
        self, attempt: Callable[[float], bool], patience: float | None, acquires: bool
    ) -> bool:
        """Call `attempt` with the seconds that have passed until it succeeds; False if it is too late."""
        begun = now = self._clock()
        pause = self.poll_interval / 16
        seen: dict[Key, float] = {}
        sign: Sign | None = None
        try:
            while not attempt(now - begun):
                now = self._clock()
                holders = self._holders()
                seen = {holder.key: seen.get(holder.key, now) for holder in holders}
                self._signs = {key: sign for key, sign in self._signs.items() if key in seen}
                if self._break_dead(holders, seen, now, acquires):
                    continue
                left = float("inf") if patience is None else begun + patience - now
                if left <= 0:
                    return False
                if acquires and any(holder.shared for holder in holders):
                    sign = sign or Sign(self._path)
                    sign.put_up()
                # Short at first: most locks are held for a moment.
                self._sleep(min(pause, left))
                pause = min(2 * pause, self.poll_interval)
                now = self._clock()
            return True
        finally:
            if sign is not None:
                sign.take_down()

    def _break_dead(
        self, holders: list[Holder], seen: dict[Key, float], now: float, acquires: bool
    ) -> bool:
        """Remove the locks of those that have died, or have had them for too long; return whether there were any."""
        mine = self._mine()
        broken = False
        for holder in holders:
            late = 0 < self.force_timeout <= now - seen[holder.key]
            forced = acquires and late and holder.path not in mine
            if forced or self._has_died(holder) or self._is_silent(holder, now):
                broken |= self._break(holder, forced)
        return broken

    def _gives_way(self, waited: float, patience: float | None) -> bool:
        """Whether somebody else who waits is to get the lock first."""
        return False

    # Holders

    def _holders(self) -> list[Holder]:
        """Return those that keep this lock from being acquired."""
        raise NotImplementedError

    # What this object holds

    def _take(self, taken: list[str]) -> bool:
        """Take the lock if it is free."""
        raise NotImplementedError

    def _is_intact(self, path: str) -> bool:
        """Whether the lock that is held by a file was not broken."""
        raise NotImplementedError

    def _give_up(self, path: str) -> bool:
        """Remove the lock that is held by a file; return whether it was there."""
        raise NotImplementedError

    def _mine(self) -> list[str]:
        pid = os.getpid()
        return [path for owner, path in list(self._held) if owner == pid]

    def _withdraw(self) -> tuple[int, str] | None:
        """Take what this object got last from what it holds: no other thread releases it too."""
        while mine := self._mine():
            held = (os.getpid(), mine[-1])
            try:
                self._held.remove(held)
            except ValueError:
                # Another thread was faster.
                continue
            return held
        return None

    def _keep(self, path: str) -> None:
        self._held.append((os.getpid(), path))
        if self.stale_timeout is not None:
            heartbeat.add(path)

    def _forget(self, path: str) -> None:
        if self.stale_timeout is not None:
            heartbeat.discard(path)
        try:
            self._held.remove((os.getpid(), path))
        except ValueError:
            pass

    def _let_go(self, path: str) -> bool:
        try:
            return self._give_up(path)
        except OSError:
            # Once more: others would wait for a lock that nobody has.
            return self._give_up(path)
        except BaseException:
            # Nobody else could finish what was begun when an interrupt came.
            self._give_up(path)
            raise
        finally:
            self._forget(path)

    def _undo(self, paths: list[str]) -> None:
        for path in paths:
            self._let_go(path)

    def _content(self, name: str) -> bytes:
        if self._user is None:
            # It may take a question to a directory service.
            self._user = _one_line(user_name())
        uid = name if self.uid is None else _one_line(self.uid)
        text = f"{host_name()}\n{os.getpid()}\n{self._user}\n{uid}\nLOCK"
        return text.encode(errors="surrogateescape")


def _one_line(text: object) -> str:
    return " ".join(str(text).splitlines())


def _new_name() -> str:
    global _names  # noqa: PLW0603
    me, names = this_process(), _names
    if names is None or names[0] is not me:
        # A program that replaces itself (exec) keeps its process id and counts anew. The letter says
        # that it is no temporary file of a session.
        names = _names = me, f"{me}-n{os.urandom(3).hex()}"
    return f"{names[1]}{next(_serials)}"


class FileLock(_Lock):
    """An exclusive lock that is a file.

    It is not re-entrant: a second acquire() waits until somebody releases it. Any thread may use
    the object. A process that is forked off does not hold what its parent holds.

    Parameters
    ----------
    name : str or PathLike
        The lock is the file ``<name>.lock``, `full_path`.
    dir : str or PathLike, optional
        The directory that a relative name is in.
    poll_interval : float
        Seconds between two looks at a lock that is held, at most.
    timeout : float
        Seconds that acquire() and wait() wait; 0 waits for ever.
    force_timeout : float
        Seconds after which acquire() breaks the lock of another holder, even of one that lives; 0
        never does.
    uid : object, optional
        What stands in the fourth line of the file.
    data : bytes, optional
        The content of the file, if it is to be another one than host, process id, user, uid, LOCK.
    stale_timeout : float, optional
        Seconds after which a holder on another computer is taken for dead that gave no sign of
        life. A lock with this argument gives them while it is held.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        dir: str | os.PathLike[str] | None = None,
        poll_interval: float = 0.01,
        timeout: float = 0,
        force_timeout: float = 0,
        uid: object = None,
        data: bytes | None = None,
        *,
        stale_timeout: float | None = None,
    ) -> None:
        super().__init__(
            name, dir, poll_interval, timeout, force_timeout, uid, stale_timeout=stale_timeout
        )
        if data is not None and not isinstance(data, bytes):
            raise TypeError(f"data is bytes, not {type(data).__name__}")
        self.data = data

    def get_data(self) -> bytes | None:
        """Return the content of the lock file, None if there is none."""
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except IsADirectoryError:
            return None
        except OSError as error:
            if error.errno in GONE:
                return None
            raise from_os_error(error) from error

    def _holders(self) -> list[Holder]:
        return holders_of(self._path)

    def _take(self, taken: list[str]) -> bool:
        name = _new_name()
        path = f"{self._path}.{name}"
        taken.append(path)
        if self.data is None:
            write_note(path, self._content(name))
        else:
            write_lock(path, self.data)
        # A directory may be left that no shared holder is in any more.
        if self._link(path) or (remove_if_empty(self._path) and self._link(path)):
            self._keep(path)
            return True
        unlink_file(path)
        taken.remove(path)
        return False

    def _link(self, path: str) -> bool:
        try:
            os.link(path, self._path)
        except OSError as error:
            # On NFS it may have been done although the answer was lost.
            if self._is_intact(path):
                return True
            if error.errno == errno.EEXIST:
                return False
            raise
        return True

    def _is_intact(self, path: str) -> bool:
        inode = inode_of(path)
        return inode is not None and inode == inode_of(self._path)

    def _is_there(self, path: str) -> bool:
        """As _is_intact(), and as long as it is being released."""
        return self._is_intact(path) or self._is_intact(path + RELEASING)

    def _give_up(self, path: str) -> bool:
        releasing = path + RELEASING
        try:
            os.rename(path, releasing)
        except FileNotFoundError:
            pass
        except OSError:
            # The disk may be full, but removing takes no space. Only somebody who breaks the locks
            # of the living could come in between.
            releasing = path
        # EnCore 0.8 breaks a lock by removing this name alone.
        intact = self._is_intact(releasing)
        if intact:
            unlink_file(self._path)
        # It holds nothing any more. If it stays, it is swept once this process is gone.
        unlink(releasing)
        return intact


class SharedFileLock(_Lock):
    """A lock that any number of holders have at once, while nobody has the FileLock of that name.

    It is re-entrant: it is released when release() was called as often as acquire(). Who waits for the
    FileLock gets it when all those have released this one who have it: who asks for this one
    meanwhile gives way, for one second, unless its thread has it already.

    Parameters
    ----------
    name, dir, poll_interval, timeout, force_timeout, uid, stale_timeout
        As of :class:`FileLock`, but the lock is the directory ``<name>.lock``, and `force_timeout` concerns
        exclusive holders alone.
    """

    def _holders(self) -> list[Holder]:
        return [holder for holder in holders_of(self._path) if not holder.shared]

    def _take(self, taken: list[str]) -> bool:
        name = _new_name()
        path = f"{self._path}/{name}"
        taken.append(path)
        # Somebody who releases the lock may remove the directory in between.
        for _ in range(1000):
            try:
                os.mkdir(self._path)
            except FileExistsError:
                pass
            try:
                write_note(path, self._content(name))
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                break
            self._keep(path)
            join(path)
            return True
        taken.remove(path)
        return False

    def _is_intact(self, path: str) -> bool:
        return inode_of(path) is not None

    def _gives_way(self, waited: float, patience: float | None) -> bool:
        in_time = patience is None or waited < patience
        return in_time and not self._mine() and is_to_give_way(self._path, waited)

    def _give_up(self, path: str) -> bool:
        leave(path)
        return self._remove_member(path)
