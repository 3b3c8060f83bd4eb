"""Which process owns a file in a directory that computers share, and whether it has died.

An owner is written as ``<place>-<machine>-<pid>-<start>``, which can be part of a file name:

=============  ===========================================================================
place          where process ids mean the same: boot (host name where that is not known) and pid
               namespace
machine        host name and machine id, where there is no container; 0 where there is
pid
start          when the process started, in ticks since the boot: a process id is used again
=============  ===========================================================================
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: State, number of threads, start.
    _Status = tuple[str, int, int]

# The pid namespace that no container has (PROC_PID_INIT_INO in the sources of Linux).
_FIRST_NAMESPACE = "pid:[4026531836]"


class Owner:
    """A process, as it was written down."""

    __slots__ = ("machine", "pid", "place", "start")

    def __init__(self, place: str, machine: str, pid: int, start: int) -> None:
        self.place = place
        self.machine = machine
        self.pid = pid
        #: 0 where it is not known.
        self.start = start

    def __str__(self) -> str:
        return f"{self.place}-{self.machine}-{self.pid}-{self.start}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owner) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner that some text begins with, None if there is none."""
        place, _, rest = text.partition("-")
        machine, pid, start = (*rest.split("-", 3)[:3], "", "", "")[:3]
        if len(place) != _DIGITS or not (pid.isdecimal() and start.isdecimal()):
            return None
        return cls(place, machine, int(pid), int(start))

    def has_died(self) -> bool | None:
        """Whether the process has ended; None if that cannot be told from here."""
        me = this_process()
        if self.place == me.place:
            return process_has_died(self.pid, self.start)
        # A computer outside containers that has the same name and id, and has booted since.
        return True if self.machine == me.machine != "0" else None


_this: Owner | None = None
_DIGITS = 12


def this_process() -> Owner:
    """Return the owner that this process is."""
    global _this  # noqa: PLW0603
    pid = os.getpid()
    this = _this
    if this is None or this.pid != pid:
        # A fork may have put it into another namespace.
        status = _status(pid)
        this = _this = Owner(*_surroundings(), pid, 0 if status is None else status[2])
    return this


def host_name() -> str:
    """Return the name of this computer, as socket.gethostname() does."""
    return os.uname().nodename


def user_name() -> str:
    """Return the name of the user that this process is of."""
    try:
        from getpass import getuser

        return getuser()
    except (ImportError, KeyError, OSError):
        # A user id without a name, in a container.
        return str(os.getuid())


def process_has_died(pid: int, start: int = 0) -> bool:
    """Whether a process of this computer has ended."""
    if pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    status = _status(pid)
    if status is None:
        # Hidden from us (hidepid), or a system without /proc.
        return False
    state, threads, started = status
    if start and started != start:
        return True
    # Nobody has waited for it yet. Its other threads may still be on their way out of a system
    # call that writes.
    return state in "ZX" and threads <= 1


def _status(pid: int) -> _Status | None:
    text = _text_of(f"/proc/{pid}/stat")
    # The name of the program, in parentheses, may have blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    try:
        return fields[0], int(fields[17]), int(fields[19])
    except (IndexError, ValueError):
        return None


def _surroundings() -> tuple[str, str]:
    from hashlib import sha256

    def digest(*parts: str) -> str:
        return sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:_DIGITS]

    host, boot = host_name(), _text_of("/proc/sys/kernel/random/boot_id")
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    machine = _text_of("/etc/machine-id")
    known = namespace == _FIRST_NAMESPACE and len(machine) == 32
    return (
        # A computer may get another name while it runs.
        digest(boot or host, namespace),
        digest(host, machine) if known else "0",
    )


def _text_of(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
