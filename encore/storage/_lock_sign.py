"""The sign of somebody who waits for an exclusive lock that others share: ``<name>.lock.wait``.

It is a symbolic link to nothing, whose text says which process has put it up: it is made, read and
removed in one step each. Where there are no such links nobody gives way.

Who asks for the shared lock then waits until the sign is gone, so that those who have it come to an end,
but not for long: somebody who shares the lock may wait for what another one does who asks for it. One
who has waited in vain removes the sign. Its owner puts it up again, if it lives.
"""

from __future__ import annotations

import os
from _thread import get_ident

from ._owner import Owner, this_process
from ._posix import unlink

#: Seconds that those who ask for a shared lock give way.
PATIENCE = 1.0

#: Files of shared holders in this process -> process and thread that have acquired them.
_members: dict[str, tuple[int, int]] = {}


class Sign:
    """A sign that is put up when it is needed, and taken down when the waiting is over.

    Parameters
    ----------
    lock : str
        The path of the lock.
    """

    def __init__(self, lock: str) -> None:
        self._path = _path(lock)
        self._is_up = False

    def put_up(self) -> None:
        """Put it up, unless there is one."""
        # First, since an interrupt may come anywhere.
        self._is_up = True
        try:
            os.symlink(str(this_process()), self._path)
        except OSError:
            pass

    def take_down(self) -> None:
        """Remove it; others of this process that wait put it up again."""
        if self._is_up and _text(self._path) == str(this_process()):
            unlink(self._path)


def is_to_give_way(lock: str, waited: float) -> bool:
    """Whether who asks for a shared lock, and has waited so many seconds, is to wait on."""
    path = _path(lock)
    text = _text(path)
    if text is None:
        return False
    owner = Owner.parse(text)
    if owner is None or not owner.has_died():
        if _is_member(lock):
            # It would wait for itself.
            return False
        if waited < PATIENCE:
            return True
    unlink(path)
    return False


def join(member: str) -> None:
    """This thread has got a shared lock by that file."""
    _members[member] = os.getpid(), get_ident()


def leave(member: str) -> None:
    _members.pop(member, None)


def _is_member(lock: str) -> bool:
    me = os.getpid(), get_ident()
    return any(
        who == me and member.startswith(f"{lock}/") for member, who in list(_members.items())
    )


def _path(lock: str) -> str:
    return f"{lock}.wait"


def _text(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
