"""What starts again in a forked child, where the threads of the parent do not exist."""

from __future__ import annotations

import os
from functools import cache
from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class StartsAgain(Protocol):
        def _start_again(self) -> None: ...


# No WeakSet: it forgets what is gone by a function in Python, in which Control-C would get lost.
_known: set[ref[StartsAgain]] = set()


def start_again_in_children(thing: StartsAgain) -> None:
    """Have `_start_again` of `thing` called in every forked child, as long as it is used."""
    _install_hook()
    _known.add(ref(thing, _known.discard))


@cache
def _install_hook() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_start_again)


def _start_again() -> None:
    for known in tuple(_known):
        if (thing := known()) is not None:
            thing._start_again()
